"""Signals that raise (Ctrl-C, cancel) may do so in user code and in waits, never inside our own bookkeeping.

CPython runs a signal handler between two bytecodes of the main thread, wherever that is: between a ``recv`` and
the line that stores what was received, for example. So a handler of ours looks at the frames it interrupted. The
innermost frame of our working layers decides: a function marked :func:`interruptible` may be left by an exception,
any other finishes first, and the exception is raised when the API call that the user made ends (:func:`check`).
This costs nothing while no signal comes, unlike masking signals around each section.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import CodeType, FrameType
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])

_GUARDED = ("remora.processes.", "remora.system.", "remora.core.", "remora.serialization.", "remora.messages.")
_interruptible: set[CodeType] = set()

pending: list[BaseException] = []
"""Exceptions that a handler wanted to raise inside our bookkeeping; an API call tests this when it ends."""


def interruptible(function: F) -> F:
    """Mark *function*: an exception may be raised at any point of it, nothing is lost."""
    _interruptible.add(function.__code__)
    return function


def may_raise_at(frame: FrameType | None) -> bool:
    """Whether a signal handler that interrupted *frame* may raise there."""
    while frame is not None:
        if frame.f_code in _interruptible:
            return True
        if frame.f_globals.get("__name__", "").startswith(_GUARDED):
            return False
        frame = frame.f_back
    return True


def raise_or_defer(frame: FrameType | None, exception: BaseException) -> None:
    """To be called by a signal handler: raises *exception* here, or keeps it for :func:`check`."""
    if may_raise_at(frame):
        raise exception
    if not pending:
        pending.append(exception)


def check() -> None:
    """Raise what a handler deferred. Called by the main thread at the end of an API call."""
    if pending:
        raise pending.pop()


def check_before_blocking() -> None:
    """Raise what was deferred, in the main thread. Asked inside an interruptible function, right before it blocks.

    A handler that ran before that function was entered has deferred; one that runs later raises there itself. So a
    thread never goes to sleep on an interrupt.
    """
    if pending and threading.get_ident() == threading.main_thread().ident:
        raise pending.pop()
