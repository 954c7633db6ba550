"""What a process needs to talk to the nodes of a cluster, and to tell them from anybody else."""

from __future__ import annotations

import msgspec

SECRET_SIZE_BYTES = 32
FINGERPRINT_SIZE_BYTES = 32
JOIN_STRING_SCHEME = "remora://"


class ClusterCredentials(msgspec.Struct, frozen=True, array_like=True):
    """The secret of a cluster, and the certificate by which its nodes are known.

    ``fingerprint`` is the SHA-256 of the certificate's DER form; of a cluster that does not encrypt, 32 bytes made from
    the secret. ``certificate_path`` and ``key_path`` name PEM files, which only those who accept connections need;
    they are empty at a process that only opens them. Made by :mod:`remora.system.certificates`.
    """

    secret: bytes
    fingerprint: bytes
    encrypt: bool = True
    certificate_path: str = ""
    key_path: str = ""

    @property
    def hash_seed(self) -> int:
        """The PYTHONHASHSEED of every worker of the cluster: a set of strings has the same order everywhere."""
        return int.from_bytes(self.fingerprint[:4], "big")

    def __repr__(self) -> str:
        """Without the secret: credentials are in the state of many objects, whose reprs end in logs."""
        return f"<ClusterCredentials {self.fingerprint[:4].hex()} {'TLS' if self.encrypt else 'clear'}>"
