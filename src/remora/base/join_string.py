"""The one line that lets another machine join a cluster: where, and the secrets to do it with.

``remora://HOST:PORT/PROTOCOL/tls/FINGERPRINT/SECRET``, or ``clear`` in place of ``tls``. Fingerprint and secret are
base64url without padding, so the line has no character that a shell, a YAML file or a mail program would touch.
Whoever has it can run code on every machine of the cluster: it belongs into a file that only its owner can read.
"""

from __future__ import annotations

import base64
import binascii
from typing import Self

from remora.base.credentials import (
    FINGERPRINT_SIZE_BYTES,
    JOIN_STRING_SCHEME,
    SECRET_SIZE_BYTES,
    ClusterCredentials,
)
from remora.base.network_address import join_address, split_address
from remora.base.protocol_version import PROTOCOL_VERSION

_MODES = {"tls": True, "clear": False}
_FIELDS = "address/protocol/tls or clear/fingerprint/secret"


class JoinString:
    """The address of the head's node and the credentials of the cluster, as one line of text.

    Example:
        >>> text = str(JoinString("10.0.0.1", 6390, credentials))
        >>> JoinString.parse(text).address
        '10.0.0.1:6390'
    """

    __slots__ = ("credentials", "host", "port")

    def __init__(self, host: str, port: int, credentials: ClusterCredentials) -> None:
        self.host = host
        self.port = port
        self.credentials = credentials

    @property
    def address(self) -> str:
        """Where to connect to: ``host:port``."""
        return join_address(self.host, self.port)

    def __str__(self) -> str:
        credentials = self.credentials
        mode = "tls" if credentials.encrypt else "clear"
        fields = (
            self.address,
            str(PROTOCOL_VERSION),
            mode,
            _to_text(credentials.fingerprint),
            _to_text(credentials.secret),
        )
        return JOIN_STRING_SCHEME + "/".join(fields)

    def __repr__(self) -> str:
        return f"<JoinString of {self.address}, not shown because it has the secret>"

    @classmethod
    def parse(cls, text: str) -> Self:
        """The join string that *text* is; white space around it does not matter.

        Raises:
            ValueError: it is none, or one of another version of Remora. The message says what is wrong, not the secret.
        """
        line = text.strip()
        if not line:
            raise ValueError("the join string is empty: copy the line that `remora start --head` printed")
        if not line.startswith(JOIN_STRING_SCHEME):
            raise ValueError(
                f"the join string does not start with {JOIN_STRING_SCHEME}: copy the whole line that "
                "`remora start --head` printed"
            )
        if len(line.split()) > 1:
            raise ValueError("the join string has white space in it: it must be one line, copied whole")
        fields = line.removeprefix(JOIN_STRING_SCHEME).split("/")
        if len(fields) > 1:
            _check_protocol(fields[1])
        if len(fields) != 5:
            raise ValueError(f"the join string has {len(fields)} of 5 parts ({_FIELDS}): copy it whole")
        address, _, mode, fingerprint, secret = fields
        host, port = split_address(address)
        if mode not in _MODES:
            raise ValueError(f"the join string says {mode!r} where it must say tls or clear")
        credentials = ClusterCredentials(
            _from_text(secret, "secret", SECRET_SIZE_BYTES),
            _from_text(fingerprint, "fingerprint", FINGERPRINT_SIZE_BYTES),
            _MODES[mode],
        )
        return cls(host, port, credentials)


def _check_protocol(text: str) -> None:
    if not (text.isascii() and text.isdigit()):
        raise ValueError(f"the join string has {text!r} where the number of the protocol belongs: copy it whole")
    if int(text) != PROTOCOL_VERSION:
        raise ValueError(
            f"the join string is of a cluster that speaks protocol {int(text)}, this version of Remora speaks "
            f"{PROTOCOL_VERSION}: install the same version of Remora here and there"
        )


def _to_text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _from_text(text: str, name: str, size_bytes: int) -> bytes:
    try:
        data = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise ValueError(f"the {name} in the join string is damaged: copy the line whole") from None
    if len(data) != size_bytes:
        raise ValueError(f"the {name} in the join string has {len(data)} bytes instead of {size_bytes}: copy it whole")
    return data
