"""What travels of a failed task, and its wording."""

from __future__ import annotations

import msgspec

from remora.base.remora_error import RemoraError


class TaskFailure(msgspec.Struct, array_like=True, tag=1, frozen=True):
    """What travels of a failed task: everything a reader in another language can use, and the Python exception.

    ``type_name`` and ``text`` describe the exception, ``traceback`` is Python's full text of it. ``pickled`` is empty
    when the exception cannot be pickled; ``pickling_problem`` then says why. ``left_out`` names attributes of the
    exception that could not be pickled.
    """

    function_name: str
    pid: int
    node_address: str
    is_actor: bool
    type_name: str
    text: str
    traceback: str
    pickled: bytes = b""
    pickling_problem: str = ""
    left_out: list[str] = []


class UnserializableException(RemoraError):
    """Stands for an exception that could not be pickled, or not be rebuilt here: its type's name and its text."""

    def __init__(self, message: str = "", *, type_name: str = "", text: str = "", problem: str = "") -> None:
        self.type_name = type_name
        self.text = text
        self.problem = problem
        super().__init__(message or f"{type_name}: {text} (the exception itself could not travel: {problem})")


def with_pickled(failure: TaskFailure, exception: BaseException) -> TaskFailure:
    """The same failure with the pickle of *exception* in it, or with the reason why there is none."""
    from remora.base.exception_pickle import pickle_exception  # it imports cloudpickle, which a daemon does not need

    try:
        pickled, left_out = pickle_exception(exception)
    except Exception as error:  # noqa: BLE001 - pickling runs user code, and the task's own error must arrive
        return msgspec.structs.replace(failure, pickling_problem=f"{type(error).__name__}: {safe_str(error)}")
    return msgspec.structs.replace(failure, pickled=pickled, left_out=left_out)


def safe_str(exception: BaseException, limit: int = 100_000) -> str:
    """``str(exception)``, cut to *limit*, or a note that it failed."""
    try:
        text = str(exception)
    except Exception:  # noqa: BLE001 - __str__ is user code
        return f"<str of {type(exception).__name__} failed>"
    return text if len(text) <= limit else text[: limit - 3] + "..."


def describe_failure(failure: TaskFailure) -> str:
    """The text of the error that is raised for it."""
    kind = "actor method" if failure.is_actor else "task"
    where = [
        f"pid {failure.pid}" if failure.pid else "",
        f"node {failure.node_address}" if failure.node_address else "",
    ]
    inside = ", ".join(part for part in where if part)
    raised = failure.type_name or "an exception"
    lines = [f"{kind} {failure.function_name or 'without a name'}{f' ({inside})' if inside else ''} raised {raised}."]
    if failure.traceback:
        lines.append(failure.traceback.rstrip("\n"))
    elif failure.text:
        lines.append(f"{raised}: {failure.text}")
    if failure.pickling_problem:
        lines.append(f"(The exception could not be pickled, so only its text is here: {failure.pickling_problem})")
    if failure.left_out:
        lines.append(f"(Left out of the exception because it cannot be pickled: {', '.join(failure.left_out)})")
    return "\n".join(lines)


def stand_in(failure: TaskFailure, problem: str) -> UnserializableException:
    """What the cause is when the exception is not to be had."""
    return UnserializableException(type_name=failure.type_name, text=failure.text, problem=problem)
