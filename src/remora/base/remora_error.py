"""The root of all errors of Remora."""

from __future__ import annotations

from typing import Any


class RemoraError(Exception):
    """Any error that Remora itself raises; Ray's name for it is ``RayError``.

    Every subclass can be made from a message alone, as in ``GetTimeoutError("too slow")``, or from keyword fields
    alone; then the message is worded from the fields. ``str(error)`` is the message, the fields are attributes.

    A copy or a pickle of an error keeps class, message and fields without calling ``__init__``, so subclasses may
    give that any signature.
    """

    def __reduce__(self) -> tuple[Any, ...]:
        return rebuild_error, (type(self), self.args), self.__dict__ or None


def rebuild_error(error_class: type[RemoraError], args: tuple[Any, ...]) -> RemoraError:
    """An error of *error_class* with *args*, without a call of its ``__init__``."""
    error = error_class.__new__(error_class)
    error.args = args
    return error
