"""What users may ask of a task, an actor, a method or a session, checked and complete.

The API layer makes these from keyword arguments (:mod:`remora.api.options`); everything below reads fields. They
compare and hash by identity: a client may keep what it derives from one in a dict, or in ``record``.
"""

from __future__ import annotations

from typing import Any

import msgspec

from remora.base.resources import Resources
from remora.base.scheduling import GroupChoice

RetryExceptions = bool | frozenset[str]
"""Which exceptions of the user's code are retried: all, none, or those of the classes with these full names.

Names, because these options travel with actor handles, and a class of ``__main__`` is another one in each process.
"""

ASYNC_MAX_CONCURRENCY = 1000
"""``max_concurrency`` of an async actor for which the user gave none; 1 for any other."""


def full_name(exception_class: type[BaseException]) -> str:
    """How :data:`RetryExceptions` names a class."""
    return f"{exception_class.__module__}.{exception_class.__qualname__}"


def is_retried(retry_exceptions: RetryExceptions, exception: BaseException) -> bool:
    """Whether *retry_exceptions* covers *exception*, by its class or one that this inherits from.

    Example:
        >>> is_retried(frozenset({"builtins.OSError"}), FileNotFoundError())
        True
    """
    if isinstance(retry_exceptions, bool):
        return retry_exceptions
    return any(full_name(one) in retry_exceptions for one in type(exception).__mro__)


class TaskOptions(msgspec.Struct, kw_only=True, eq=False, weakref=True):
    """Of one remote function, or of ``function.options(...)``.

    ``resources`` are held while the task runs. ``max_retries`` of -1 has no end. ``strategy`` is the text of a
    :class:`~remora.base.scheduling.Strategy`. ``group`` is the placement group that was asked for by name;
    ``may_be_captured`` says that none was, nor a strategy, so that the group of the caller holds, if it captures its
    children. ``record`` belongs to the client.
    """

    num_returns: int = 1
    resources: Resources = Resources.of(num_cpus=1)
    max_retries: int = 3
    retry_exceptions: RetryExceptions = False
    name: str = ""
    strategy: str = ""
    group: GroupChoice | None = None
    may_be_captured: bool = True
    runtime_env: dict[str, Any] | None = None
    record: Any = None


class ActorOptions(msgspec.Struct, kw_only=True, eq=False, weakref=True):
    """Of one actor class, or of ``Class.options(...)``.

    ``resources`` are held for the actor's life; ``placement`` is what its node must have free to take it (one CPU
    more when the user named no number of CPUs). ``max_restarts`` and ``max_task_retries`` of -1 have no end.
    ``max_concurrency`` is 0 when the user gave none. ``namespace`` is None for the caller's own. ``strategy``,
    ``group`` and ``may_be_captured`` are as in :class:`TaskOptions`.
    """

    resources: Resources = Resources()
    placement: Resources = Resources.of(num_cpus=1)
    max_restarts: int = 0
    max_task_retries: int = 0
    max_concurrency: int = 0
    max_pending_calls: int = -1
    concurrency_groups: dict[str, int] = {}
    name: str = ""
    namespace: str | None = None
    detached: bool = False
    get_if_exists: bool = False
    strategy: str = ""
    group: GroupChoice | None = None
    may_be_captured: bool = True
    runtime_env: dict[str, Any] | None = None
    record: Any = None


class MethodOptions(msgspec.Struct, kw_only=True, eq=False, weakref=True):
    """Of one method of an actor, or of ``handle.method.options(...)``; ``max_task_retries`` None: the actor's."""

    num_returns: int = 1
    name: str = ""
    max_task_retries: int | None = None
    retry_exceptions: RetryExceptions = False
    concurrency_group: str = ""
    record: Any = None


class InitOptions(msgspec.Struct, kw_only=True, eq=False):
    """Of ``init``. None or 0: the session finds out by itself; ``namespace`` empty: one of its own."""

    address: str | None = None
    num_cpus: float | None = None
    num_gpus: float | None = None
    resources: dict[str, float] = {}
    store_limit_bytes: int = 0
    namespace: str = ""
    log_to_driver: bool = True
    logging_level: int = 20
    labels: dict[str, str] = {}
    runtime_env: dict[str, Any] | None = None
