"""The error of a failed task: an instance of :class:`TaskError` and of the user's own exception class at once.

For each user class one subclass of both is made and kept. Some classes do not allow that (final ones, exception
groups, odd layouts, hooks that refuse); for these, and for exceptions that mean something to the interpreter itself
(``StopIteration``, ``CancelledError``, ``SystemExit``), the error is a plain ``TaskError`` and the exception is its
``cause``.
"""

from __future__ import annotations

import types
from typing import Any

from remora.base.exception_state import c_fields, instance_dict, new_exception, set_c_fields, unpickle_exception
from remora.base.remora_error import RemoraError
from remora.base.task_failure import TaskFailure, describe_failure, safe_str, stand_in, with_pickled

MAX_DUAL_CLASSES = 256
"""How many classes made here are kept; the oldest go first."""


class TaskError(RemoraError):
    """A task or a method of an actor raised. Ray's name for it is ``RayTaskError``.

    Where the user's class allows it, the error is an instance of that class too, with its args and attributes, so that
    ``except ValueError`` works at the caller. The text has the remote traceback.

    Attributes:
        cause: the exception that the user's code raised.
        function_name: the function, or ``Class.method``.
        pid: the process that ran it.
        node_address: its node.
        traceback_str: the remote traceback.

    Example:
        >>> try:
        ...     remora.get(divide.remote(1, 0))
        ... except ZeroDivisionError as error:
        ...     print(error.function_name, error.cause)
        divide division by zero
    """

    cause: BaseException | None = None
    _remora_failure: TaskFailure | None = None
    _remora_text: str = ""

    def __init__(
        self,
        function_name: str = "",
        traceback_str: str = "",
        cause: BaseException | None = None,
        *,
        pid: int = 0,
        node_address: str = "",
        is_actor: bool = False,
    ) -> None:
        failure = TaskFailure(
            function_name=function_name,
            pid=pid,
            node_address=node_address,
            is_actor=is_actor,
            type_name=type(cause).__name__ if cause is not None else "",
            text=safe_str(cause) if cause is not None else "",
            traceback=traceback_str,
        )
        _fill(self, failure, cause)
        BaseException.__setattr__(self, "args", (function_name, traceback_str, cause))

    # What a user's class may redefine and what must not break here is taken from BaseException again.
    __getattribute__ = BaseException.__getattribute__
    __setattr__ = BaseException.__setattr__
    __delattr__ = BaseException.__delattr__
    __setstate__ = BaseException.__setstate__
    __eq__ = object.__eq__
    __ne__ = object.__ne__
    __hash__ = object.__hash__

    def __getattr__(self, name: str) -> Any:
        inherited = None if name.startswith("__") else getattr(super(), "__getattr__", None)
        if inherited is None:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}", name=name, obj=self)
        return inherited(name)

    def __str__(self) -> str:
        return self._remora_text

    def __repr__(self) -> str:
        failure = self._remora_failure
        if failure is None:
            return f"{type(self).__name__}()"
        return f"{type(self).__name__}({failure.function_name!r}, {failure.text!r})"

    def __format__(self, spec: str) -> str:
        return format(self._remora_text, spec)

    def __bool__(self) -> bool:
        return True

    def __copy__(self) -> TaskError:
        return _restore(*self.__reduce__()[1])

    def __deepcopy__(self, memo: dict[int, Any]) -> TaskError:
        return self.__copy__()

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return TaskError.__reduce__(self)

    def __reduce__(self) -> tuple[Any, ...]:
        failure = self._remora_failure
        if failure is None:
            return TaskError, ()
        if not failure.pickled and self.cause is not None and not failure.pickling_problem:
            failure = with_pickled(failure, self.cause)
        return _restore, (failure, type(self) is not TaskError, list(self.__dict__.get("__notes__", ())))

    def as_instanceof_cause(self) -> TaskError:
        """This error as an instance of the cause's class too, where that is possible; else the error itself."""
        if self._remora_failure is None or self.cause is None or type(self) is not TaskError:
            return self
        return task_error_with_cause(self._remora_failure, self.cause)


def task_error_of(failure: TaskFailure) -> TaskError:
    """A new error, as :func:`remora.get` raises it. Never raises, whatever the exception's class does."""
    if not failure.pickled:
        return _plain(failure, stand_in(failure, failure.pickling_problem))
    try:
        cause = unpickle_exception(failure.pickled)
    except Exception as error:  # noqa: BLE001 - rebuilding runs user code, and the task's own error must arrive
        problem = f"{type(error).__name__}: {safe_str(error)}"
        note = f"\n(The exception could not be rebuilt in this process, so only its text is here: {problem})"
        return _plain(failure, stand_in(failure, problem), note)
    return task_error_with_cause(failure, cause)


def task_error_with_cause(failure: TaskFailure, cause: BaseException) -> TaskError:
    """The error for *cause*: of a class of both, or a plain one where that cannot be."""
    dual_class = dual_class_for(type(cause))
    if dual_class is None:
        return _plain(failure, cause)
    try:
        return _dual(dual_class, failure, cause)
    except Exception:  # noqa: BLE001 - descriptors of the user's class are user code
        return _plain(failure, cause)


_dual_classes: dict[type[BaseException], type[TaskError] | None] = {}


def dual_class_for(user_class: type[BaseException]) -> type[TaskError] | None:
    """The class that is both ``TaskError`` and *user_class*, made once; None where there can be none."""
    try:
        return _dual_classes[user_class]
    except (KeyError, TypeError):  # TypeError: the hash of the user's metaclass
        pass
    dual_class = _make_dual_class(user_class)
    try:
        _dual_classes[user_class] = dual_class
        while len(_dual_classes) > MAX_DUAL_CLASSES:
            del _dual_classes[next(iter(_dual_classes))]
    except (KeyError, TypeError, RuntimeError):  # another thread dropped the same one, or there is no hash
        pass
    return dual_class


def _make_dual_class(user_class: type[BaseException]) -> type[TaskError] | None:
    if not issubclass(user_class, Exception) or issubclass(user_class, _NEVER_DUAL):
        return None
    if issubclass(TaskError, user_class):
        return None
    name = f"TaskError({user_class.__name__})"
    body = {"__module__": TaskError.__module__, "__qualname__": name, "__doc__": user_class.__doc__}
    try:
        made = types.new_class(name, (TaskError, user_class), {}, lambda namespace: namespace.update(body))
    except Exception:  # noqa: BLE001 - metaclasses and __init_subclass__ are user code and may refuse
        return None
    if not (isinstance(made, type) and issubclass(made, TaskError) and issubclass(made, user_class)):
        return None
    return made


_NEVER_DUAL: tuple[type[BaseException], ...] = (StopIteration, StopAsyncIteration, ExceptionGroup, TaskError)


_OWN_ATTRIBUTES = frozenset({"cause", "_remora_failure", "_remora_text"})
"""The rest, ``pid`` for example, gives way to an attribute of the user's exception with the same name."""


def _dual(dual_class: type[TaskError], failure: TaskFailure, cause: BaseException) -> TaskError:
    error = new_exception(dual_class)
    assert isinstance(error, TaskError)
    args = BaseException.__getattribute__(cause, "args")
    BaseException.__setattr__(error, "args", args)
    set_c_fields(error, c_fields(cause))
    attributes = instance_dict(cause)
    notes = attributes.pop("__notes__", None)
    _fill(error, failure, cause)
    error.__dict__.update({name: value for name, value in attributes.items() if name not in _OWN_ATTRIBUTES})
    if isinstance(notes, list):
        error.__dict__["__notes__"] = list(notes)
    return error


def _plain(failure: TaskFailure, cause: BaseException, note: str = "") -> TaskError:
    error = TaskError.__new__(TaskError)
    _fill(error, failure, cause, note)
    error.args = (failure.function_name, failure.traceback, cause)
    return error


def _fill(error: TaskError, failure: TaskFailure, cause: BaseException | None, note: str = "") -> None:
    error.__dict__.update(
        cause=cause,
        function_name=failure.function_name,
        pid=failure.pid,
        node_address=failure.node_address,
        is_actor=failure.is_actor,
        traceback_str=failure.traceback,
        _remora_failure=failure,
        _remora_text=describe_failure(failure) + note,
    )


def _restore(failure: TaskFailure, is_dual: bool, notes: list[str]) -> TaskError:
    error = task_error_of(failure)
    if not is_dual and type(error) is not TaskError and error.cause is not None:
        error = _plain(failure, error.cause)
    if notes:
        error.__dict__["__notes__"] = notes
    return error
