"""Errors as bytes: what failed in MessagePack, so that every language can read it, and the Python exception in it."""

from __future__ import annotations

import traceback
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec

from remora.base import errors
from remora.base.errors import DeserializationError, RemoraError, TaskError
from remora.base.remora_error import rebuild_error
from remora.base.task_error import task_error_of
from remora.base.task_failure import TaskFailure, safe_str, with_pickled
from remora.serialization.frames import (
    HEADER_SIZE_BYTES,
    KIND_ERROR,
    MAGIC,
    VERSION,
    pack_header,
    read_header,
)

MAX_TRACEBACK_CHARACTERS = 200_000
_PACKAGE_DIRECTORY = str(Path(__file__).resolve().parent.parent)


class SystemFailure(msgspec.Struct, array_like=True, tag=2, frozen=True):
    """An error of Remora itself: the name of its class, its message, and its fields."""

    type_name: str
    message: str
    fields: dict[str, Any] = {}


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(TaskFailure | SystemFailure).decode
_FIELD_CLASSES = (str, int, float, bytes, type(None))

ERROR_CLASSES: dict[str, type[RemoraError]] = {
    error_class.__name__: error_class
    for error_class in vars(errors).values()
    if isinstance(error_class, type) and issubclass(error_class, RemoraError)
}
"""Classes that a :class:`SystemFailure` can name."""


def serialize_error(
    exception: BaseException, *, function_name: str, pid: int, node_address: str = "", is_actor: bool = False
) -> bytes:
    """An exception that user code raised, as bytes. Never raises, whatever the exception's class does.

    An error of another task that passes through keeps its type and its cause; the traceback has both tasks.

    Args:
        exception: as caught, with its traceback.
        function_name: the function, or ``Class.method``.
        pid: of this process.
        node_address: of this node, as users know it.
        is_actor: whether it is a method of an actor.
    """
    failure = TaskFailure(
        function_name=function_name,
        pid=pid,
        node_address=node_address,
        is_actor=is_actor,
        type_name=type_name_of(type(exception)),
        text=safe_str(exception),
        traceback=format_traceback(exception),
    )
    # The class is asked, not the exception: isinstance would look at __class__, which user code may redefine.
    if issubclass(type(exception), TaskError):
        return _framed(_passing(failure, exception))
    return _framed(with_pickled(failure, exception))


def _passing(failure: TaskFailure, exception: BaseException) -> TaskFailure:
    """The failure of a task that got the error of another one: the other's exception in this one's traceback."""
    passed = exception.__dict__.get("_remora_failure")
    cause = exception.__dict__.get("cause")
    if not isinstance(passed, TaskFailure):
        return with_pickled(failure, exception)
    failure = msgspec.structs.replace(
        failure,
        type_name=passed.type_name,
        text=passed.text,
        pickled=passed.pickled,
        pickling_problem=passed.pickling_problem,
        left_out=passed.left_out,
    )
    if not passed.pickled and not passed.pickling_problem and cause is not None:
        return with_pickled(failure, cause)
    return failure


def serialize_system_error(error: RemoraError) -> bytes:
    """An error of Remora itself, as bytes. Fields that are not text, numbers or bytes are left out.

    Example:
        >>> deserialize_error(serialize_system_error(WorkerCrashedError(pid=12, signal=9))).signal
        9
    """
    if isinstance(error, TaskError):
        failure = error.__dict__.get("_remora_failure")
        return _framed(failure if isinstance(failure, TaskFailure) else TaskFailure("", 0, "", False, "", "", ""))
    fields = {name: value for name, value in error.__dict__.items() if isinstance(value, _FIELD_CLASSES)}
    return _framed(SystemFailure(type(error).__name__, safe_str(error), fields))


def deserialize_error(data: bytes | memoryview) -> RemoraError:
    """A new exception object at every call, so that tracebacks do not pile up on a shared one. Never raises."""
    try:
        kind, _, _, length = read_header(data)
        if kind != KIND_ERROR:
            raise DeserializationError(f"a value of kind {kind} is no error")
        failure = _decode(data[HEADER_SIZE_BYTES : HEADER_SIZE_BYTES + length])
    except (DeserializationError, msgspec.DecodeError) as error:
        return DeserializationError(f"an object failed, but its error was damaged on its way: {error}")
    if isinstance(failure, TaskFailure):
        return task_error_of(failure)
    system_error = rebuild_error(ERROR_CLASSES.get(failure.type_name, RemoraError), (failure.message,))
    system_error.__dict__.update(failure.fields)
    return system_error


def _framed(failure: TaskFailure | SystemFailure) -> bytes:
    try:
        body = _encode(failure)
    except (UnicodeEncodeError, OverflowError):
        body = _encode(_encodable(failure))
    return pack_header(MAGIC, VERSION, KIND_ERROR, 0, 0, len(body)) + body


def _encodable(failure: TaskFailure | SystemFailure) -> TaskFailure | SystemFailure:
    """The failure without lone surrogates and without numbers beyond 64 bits, which MessagePack does not have."""

    def encodable(value: Any) -> Any:
        if isinstance(value, dict):
            return {encodable(key): encodable(part) for key, part in value.items()}
        if isinstance(value, list):
            return [encodable(part) for part in value]
        if isinstance(value, int) and not -(1 << 63) <= value < 1 << 63:
            return str(value)
        return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value

    return type(failure)(**{name: encodable(value) for name, value in msgspec.structs.asdict(failure).items()})


def type_name_of(exception_class: type[BaseException]) -> str:
    """The name as tracebacks have it: builtins without a module, others with theirs."""
    module = exception_class.__module__
    name = exception_class.__qualname__
    return name if module in ("builtins", "__main__") else f"{module}.{name}"


def format_traceback(exception: BaseException) -> str:
    """Python's text of the exception, its chain included, without the frames of Remora that called the user's code."""
    frames: TracebackType | None = BaseException.__getattribute__(exception, "__traceback__")
    try:
        lines = traceback.format_exception(type(exception), exception, _without_own_frames(frames))
        text = "".join(lines)
    except Exception:  # noqa: BLE001 - formatting calls user code; the frames alone never do
        formatted = "".join(traceback.format_tb(frames))
        text = (
            f"Traceback (most recent call last):\n{formatted}{type_name_of(type(exception))}: {safe_str(exception)}\n"
        )
    if len(text) > MAX_TRACEBACK_CHARACTERS:
        half = MAX_TRACEBACK_CHARACTERS // 2
        text = f"{text[:half]}\n... {len(text) - 2 * half} characters left out ...\n{text[-half:]}"
    return text


def _without_own_frames(frames: TracebackType | None) -> TracebackType | None:
    frame = frames
    while frame is not None and frame.tb_frame.f_code.co_filename.startswith(_PACKAGE_DIRECTORY):
        frame = frame.tb_next
    return frame if frame is not None else frames
