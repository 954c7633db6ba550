"""The secrets of a cluster in the files of a folder: made once, read by a head that starts again, given to joiners.

``secret`` holds the secret in hexadecimal and ``tls`` or ``clear``; ``certificate.pem`` and ``key.pem`` are there when
the cluster encrypts. One certificate serves all nodes: who joins gets it, with its key, once it has proved itself.
"""

from __future__ import annotations

import hashlib
import os
import stat
from datetime import UTC, datetime, timedelta

from remora.base.credentials import SECRET_SIZE_BYTES, ClusterCredentials

SECRET_FILE = "secret"
CERTIFICATE_FILE = "certificate.pem"
KEY_FILE = "key.pem"
_MODES = {True: "tls", False: "clear"}
_VALID_DAYS = 3650


def open_credentials(folder: str, encrypt: bool = True) -> ClusterCredentials:
    """The secrets in *folder*, or new ones when there are none: a head that starts again keeps its cluster.

    Raises:
        ValueError: a file is damaged, or the cluster was started with another *encrypt*.
        ImportError: as for :func:`create_credentials`.
        OSError: the folder cannot be read or written, or others could put a secret of their own into it.
    """
    _check_private(folder)
    try:
        credentials = read_credentials(folder)
    except FileNotFoundError:
        return create_credentials(folder, encrypt)
    if credentials.encrypt is not encrypt:
        raise ValueError(
            f"the cluster in {folder} was started with encrypt={credentials.encrypt}: "
            "start it so again, or use another folder for a new cluster"
        )
    return credentials


def create_credentials(folder: str, encrypt: bool = True) -> ClusterCredentials:
    """Make the secrets of a new cluster and write them to *folder*, which is made when it is not there.

    Raises:
        ImportError: the library that makes certificates is not installed; the message says how to install it.
        OSError: the folder cannot be written to.
    """
    certificate_pem, key_pem = _make_certificate() if encrypt else (b"", b"")
    return install_credentials(folder, os.urandom(SECRET_SIZE_BYTES), certificate_pem, key_pem)


def install_credentials(folder: str, secret: bytes, certificate_pem: bytes, key_pem: bytes) -> ClusterCredentials:
    """Write secrets that were made elsewhere to *folder*; without a certificate the cluster does not encrypt.

    Raises:
        ValueError: the certificate is no PEM text.
        OSError: the folder cannot be written to.
    """
    encrypt = bool(certificate_pem)
    fingerprint = fingerprint_of(certificate_pem) if encrypt else _fingerprint_of_secret(secret)
    os.makedirs(folder, mode=0o700, exist_ok=True)
    if encrypt:
        _write_private(_path(folder, CERTIFICATE_FILE), certificate_pem)
        _write_private(_path(folder, KEY_FILE), key_pem)
    # Last, so that whoever finds a secret finds all of it.
    _write_private(_path(folder, SECRET_FILE), f"{secret.hex()} {_MODES[encrypt]}\n".encode())
    return _credentials(folder, secret, fingerprint, encrypt)


def read_credentials(folder: str) -> ClusterCredentials:
    """The secrets that were written to *folder* before.

    Raises:
        FileNotFoundError: there are none.
        ValueError: a file is damaged.
    """
    path = _path(folder, SECRET_FILE)
    with open(path, encoding="ascii") as file:
        secret_text, _, mode = file.read().strip().partition(" ")
    if mode not in _MODES.values() or len(secret_text) != 2 * SECRET_SIZE_BYTES:
        raise ValueError(f"{path} is damaged: remove the folder {folder} to start a new cluster")
    secret = bytes.fromhex(secret_text)
    if mode == _MODES[False]:
        return _credentials(folder, secret, _fingerprint_of_secret(secret), False)
    with open(_path(folder, CERTIFICATE_FILE), "rb") as certificate:
        return _credentials(folder, secret, fingerprint_of(certificate.read()), True)


def certificate_and_key(credentials: ClusterCredentials) -> tuple[bytes, bytes]:
    """Certificate and key as PEM, for a node that joins; both empty when the cluster does not encrypt.

    Raises:
        OSError: the files cannot be read.
    """
    if not credentials.encrypt:
        return b"", b""
    with open(credentials.certificate_path, "rb") as certificate, open(credentials.key_path, "rb") as key:
        return certificate.read(), key.read()


def fingerprint_of(certificate_pem: bytes) -> bytes:
    """The SHA-256 of a certificate's DER form.

    Raises:
        ValueError: it is no PEM text.
    """
    import ssl

    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(certificate_pem.decode("ascii"))).digest()


def _credentials(folder: str, secret: bytes, fingerprint: bytes, encrypt: bool) -> ClusterCredentials:
    if not encrypt:
        return ClusterCredentials(secret, fingerprint, False)
    return ClusterCredentials(secret, fingerprint, True, _path(folder, CERTIFICATE_FILE), _path(folder, KEY_FILE))


def _check_private(folder: str) -> None:
    """Whoever chose the secret of a cluster may run code there: nobody else may have made it, or replace it."""
    for path in (folder, *(_path(folder, name) for name in (SECRET_FILE, CERTIFICATE_FILE, KEY_FILE))):
        try:
            status = os.stat(path)
        except FileNotFoundError:
            continue
        if status.st_uid not in (os.getuid(), 0):
            raise PermissionError(
                f"{path} belongs to user {status.st_uid}: give a folder for the state that is your own"
            )
        if status.st_mode & stat.S_IWOTH:
            raise PermissionError(f"everybody may write to {path}: give a folder for the state that is yours alone")


def _path(folder: str, name: str) -> str:
    return os.path.join(os.path.abspath(folder), name)


def _fingerprint_of_secret(secret: bytes) -> bytes:
    """What a cluster without a certificate is known by; it does not help to find the secret."""
    return hashlib.sha256(b"remora cluster\0" + secret).digest()


def _write_private(path: str, data: bytes) -> None:
    """Write a file that only this user can read, whole or not at all."""
    temporary = f"{path}.{os.getpid()}"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(file.fileno(), 0o600)
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def _make_certificate() -> tuple[bytes, bytes]:
    """A self-signed certificate for a new P-256 key, and the key, as PEM. Nobody looks at its names and dates."""
    try:
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import ec
    except ImportError as error:
        raise ImportError(
            "a cluster that encrypts needs the library cryptography to make its certificate: "
            "install it with `pip install 'remora[cluster]'`, or start the head with encrypt=False in a trusted network"
        ) from error
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "remora cluster")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=_VALID_DAYS))
        .sign(key, hashes.SHA256())
    )
    key_pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return certificate.public_bytes(serialization.Encoding.PEM), key_pem
