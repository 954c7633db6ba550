"""Finds a node of this machine that `remora start` has started."""

from __future__ import annotations

import os

from remora.system.session_directory import running_sessions


def find_running_node(directory: str | None) -> str:
    """The session's folder of the node in *directory*, or of the one that was started last.

    Raises:
        ConnectionError: none runs.
    """
    sessions = running_sessions()
    if directory is None:
        nodes = [record.directory for record in sessions if not record.driver_pid]
        if nodes:
            return nodes[0]
        raise ConnectionError(
            "no node of a cluster runs on this machine for this user: start one with `remora start --head`, or join a "
            "cluster with `remora start --join FILE`"
        )
    for record in sessions:
        if os.path.realpath(record.directory) == os.path.realpath(directory):
            return record.directory
    running = ", ".join(record.directory for record in sessions) or "none"
    raise ConnectionError(f"no node runs in {directory}; running are: {running}")
