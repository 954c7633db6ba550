"""What a process needs to open and to accept connections between the nodes of a cluster."""

from __future__ import annotations

import msgspec


class ClusterCredentials(msgspec.Struct, frozen=True, array_like=True):
    """The secret that all members know, and the certificate of the cluster.

    ``fingerprint`` is the SHA-256 of the certificate (DER). ``encrypt`` is false in clusters on trusted networks, which
    send everything in the clear after the proof of the secret. The paths are those of certificate and private key
    (PEM) on this node, for who accepts connections; empty elsewhere.
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
        return f"<ClusterCredentials {self.fingerprint[:4].hex()}{'' if self.encrypt else ', in the clear'}>"
