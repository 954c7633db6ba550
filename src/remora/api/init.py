"""The life of a session as the user sees it: ``init``, ``shutdown``, and the automatic ``init`` on first use."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator, Mapping
from typing import Any

from remora.api.deferred import pending, raise_deferred
from remora.api.options import init_options
from remora.base import runtime
from remora.base.options import InitOptions
from remora.base.runtime import Runtime

_lock = threading.RLock()
_pid_of_exit_handler = 0


class SessionContext(Mapping[str, Any]):
    """What :func:`init` returns: facts about the session by key, and a ``with`` block that shuts it down.

    Example:
        >>> with remora.init(num_cpus=2) as session:
        ...     print(session["node_id"], session.address_info["session_dir"])
    """

    def __init__(self, session: Runtime) -> None:
        self._session = session
        self.address_info: dict[str, Any] = session.address_info()
        self.dashboard_url = ""
        self.python_version = ".".join(map(str, sys.version_info[:3]))

    def disconnect(self) -> None:
        """End the session, if it is still this process's."""
        if runtime.current is self._session:
            shutdown()

    def __enter__(self) -> SessionContext:
        return self

    def __exit__(self, *_: object) -> None:
        self.disconnect()

    def __getitem__(self, key: str) -> Any:
        return self.address_info[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.address_info)

    def __len__(self) -> int:
        return len(self.address_info)

    def __repr__(self) -> str:
        return f"SessionContext({self.address_info})"


def init(
    address: str | None = None,
    *,
    num_cpus: float | None = None,
    num_gpus: float | None = None,
    resources: dict[str, float] | None = None,
    labels: dict[str, str] | None = None,
    object_store_memory: int | None = None,
    namespace: str | None = None,
    runtime_env: dict[str, Any] | None = None,
    ignore_reinit_error: bool = False,
    log_to_driver: bool = True,
    logging_level: int | str | None = None,
    local_mode: bool = False,
    **others: Any,
) -> SessionContext:
    """Start a session, whose processes end with this one.

    Not needed on one machine: the first ``put``, ``get`` or remote call does it.

    Parameters:
        address: None and "local" start a session on this machine. "auto" connects to the node of a cluster that
            `remora start` has started here, the path of its session's folder to that one. A join string starts a
            node that belongs to this process and joins the cluster. None looks at `REMORA_ADDRESS` first.
        num_cpus: CPUs to give to tasks and actors; by default what affinity and cgroup leave to this process.
        num_gpus: GPUs to give to tasks and actors.
        resources: amounts of resources of your own, as ``{"disk": 1}``.
        labels: labels of this node.
        object_store_memory: limit of the object store in bytes.
        namespace: where names of actors are looked up; by default one of the session's own.
        runtime_env: environment of all tasks and actors; only an empty one is accepted yet.
        ignore_reinit_error: return the running session instead of raising.
        log_to_driver: print here what workers print.
        logging_level: of Remora's own log, as ``"INFO"`` or 20.
        local_mode: run everything in this process, one after the other, for debugging.
        others: Ray's other options are accepted, with one warning each, and have no effect.

    Raises:
        RuntimeError: a session is running already, or this system is not Linux.
        ConnectionError: there is no node to connect to, or the cluster refuses this one.
        TypeError, ValueError: an option is wrong or unknown.

    Example:
        >>> with remora.init(num_cpus=4):
        ...     remora.get(square.remote(7))
    """
    given = {
        "address": address,
        "num_cpus": num_cpus,
        "num_gpus": num_gpus,
        "resources": resources,
        "labels": labels,
        "object_store_memory": object_store_memory,
        "namespace": namespace,
        "runtime_env": runtime_env,
        "log_to_driver": log_to_driver,
        "logging_level": logging_level,
        "local_mode": local_mode,
        "ignore_reinit_error": ignore_reinit_error,
        **others,
    }
    options, is_local, ignore = init_options(given)
    if is_local and address not in (None, "local"):
        raise ValueError(
            f"address={address!r} and local_mode=True exclude each other: local mode runs everything in this process"
        )
    with _lock:
        if runtime.current is not None and not runtime.current.is_connected:
            shutdown()
        if runtime.current is None:
            _start(options, is_local)
        elif not ignore:
            raise RuntimeError(
                "remora.init() was called, but a session is running (remora.init() was called before, or a put, get "
                "or remote call started one): call remora.shutdown() first, or pass ignore_reinit_error=True"
            )
        context = SessionContext(_running())
    if pending:
        raise_deferred()
    return context


def shutdown() -> None:
    """End the session: its processes, its objects and its actors. Without a session, or in a task, nothing happens.

    Example:
        >>> remora.shutdown()
        >>> remora.is_initialized()
        False
    """
    with _lock:
        session = runtime.current
        if session is not None:
            try:
                session.shutdown()
            finally:
                if not session.is_connected:  # a worker's session goes on: it is its driver's to end
                    runtime.current = None
    if pending:
        raise_deferred()


def is_initialized() -> bool:
    """Whether this process has a session that is alive; always true inside a task or an actor.

    Example:
        >>> if not remora.is_initialized():
        ...     remora.init(num_cpus=4)
    """
    return runtime.current is not None and runtime.current.is_connected


def connect_or_init() -> Runtime:
    """The running session, or a new one made by ``init()``: what a call does that needs one and finds none."""
    with _lock:
        if runtime.current is None:
            init()
        return _running()


def _running() -> Runtime:
    assert runtime.current is not None
    return runtime.current


def _start(options: InitOptions, is_local: bool) -> None:
    if is_local:
        from remora.processes.local_mode import LocalRuntime

        runtime.current = LocalRuntime(options)
    elif not sys.platform.startswith("linux"):
        raise RuntimeError(
            f"remora.init() needs Linux (this is {sys.platform}); remora.init(local_mode=True) works everywhere"
        )
    else:
        from remora.processes.client.session import connect

        runtime.current = connect(options)
    _shut_down_at_exit()


def _shut_down_at_exit() -> None:
    global _pid_of_exit_handler
    if _pid_of_exit_handler == os.getpid():
        return
    import atexit

    _pid_of_exit_handler = os.getpid()
    atexit.register(_exit_handler)


def _exit_handler() -> None:
    if os.getpid() == _pid_of_exit_handler:  # a forked child runs it too, and the session is not the child's
        shutdown()
