"""Whether a process still runs."""

from __future__ import annotations


def is_running(pid: int) -> bool:
    """Not when there is only its zombie, which nobody has reaped yet."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0] != b"Z"
    except FileNotFoundError:
        return False
