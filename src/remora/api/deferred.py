"""Raising, at the end of an API call, what a signal handler kept back while we were at work."""

from __future__ import annotations

from remora.system.interrupts import check, pending

__all__ = ["pending", "raise_deferred"]


def raise_deferred() -> None:
    """To be called when ``pending`` is not empty; only the main thread, which signals are for, raises."""
    import threading

    if threading.current_thread() is threading.main_thread():
        check()
