"""What the head is told by the daemon that starts it."""

from __future__ import annotations

import msgspec

from remora.base.credentials import ClusterCredentials

HEAD_SOCKETS = "head.sockets"
"""The file in the session directory at which the head is given accepted sockets of nodes."""
HEAD_LOG = "head.log"
HEAD_STATE = "head.sqlite"


class HeadConfiguration(msgspec.Struct, frozen=True, kw_only=True):
    """``state`` is a folder or the URL of a database; empty for the session directory.

    ``ready`` is a descriptor that takes one byte when the head serves, or the text of the error that it ended with.
    ``daemon`` is a pidfd of the daemon: the head ends with it.
    """

    session_directory: str
    credentials: ClusterCredentials
    state: str = ""
    ready: int = -1
    daemon: int = -1
