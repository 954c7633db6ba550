"""Words that several errors share."""

from __future__ import annotations

import signal as signals

from remora.base.ids import short


def describe_exit(exit_code: int | None, signal: int | None, *, out_of_memory: bool = False) -> str:
    """How a process ended, in words.

    Example:
        >>> describe_exit(None, 9)
        'was killed by SIGKILL (9)'
    """
    if out_of_memory:
        return "was killed by the kernel because the machine or its memory cgroup ran out of memory"
    if signal is not None:
        try:
            name = signals.Signals(signal).name
        except ValueError:
            name = "signal"
        return f"was killed by {name} ({signal})"
    if exit_code is not None:
        return f"exited with code {exit_code}"
    return "ended"


def format_size(size_bytes: int) -> str:
    """A size for people: ``1.5 GB``, decimal units."""
    size = float(size_bytes)
    for unit in ("bytes", "KB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def sentences(*parts: str) -> str:
    """The parts that are not empty, each ended with a full stop; all but the first begin with a capital letter."""
    told = [part if part.endswith((".", "?", ":")) else f"{part}." for part in parts if part]
    return " ".join([*told[:1], *(part[:1].upper() + part[1:] for part in told[1:])])


def where(pid: int, node: str) -> str:
    """`` (pid 12, node n1)``, as far as it is known."""
    named = [f"pid {pid}" if pid else "", f"node {node}" if node else ""]
    inside = ", ".join(part for part in named if part)
    return f" ({inside})" if inside else ""


def name_object(object_id: bytes) -> str:
    """How a sentence names an object."""
    return f"object {short(object_id)}" if object_id else "an object"
