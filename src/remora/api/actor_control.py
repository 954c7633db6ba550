"""Finding and ending actors: ``get_actor``, ``list_named_actors``, ``kill`` and ``exit_actor``."""

from __future__ import annotations

from typing import Any, NoReturn

from remora.api.actors import ActorHandle, rebuild_handle
from remora.api.deferred import pending, raise_deferred
from remora.api.init import connect_or_init
from remora.api.option_checks import text
from remora.base import runtime
from remora.base.object_ref import ObjectRef


def get_actor(name: str, namespace: str | None = None) -> ActorHandle[Any]:
    """A handle of the live actor with this name.

    Parameters:
        name: as given in ``Class.options(name=...)``.
        namespace: where to look; None is this process's own namespace.

    Raises:
        ValueError: there is no such actor.

    Example:
        >>> Counter.options(name="visits").remote()
        >>> remora.get_actor("visits").increment.remote()
    """
    text("name", name)
    if namespace is not None:
        text("namespace", namespace)
    session = runtime.current or connect_or_init()
    handle = rebuild_handle(*session.get_actor(name, namespace))
    if pending:
        raise_deferred()
    return handle


def list_named_actors(all_namespaces: bool = False) -> list[Any]:
    """The names of live actors in this namespace; with *all_namespaces*, dicts of ``name`` and ``namespace``.

    Example:
        >>> remora.util.list_named_actors()
        ['visits']
    """
    session = runtime.current or connect_or_init()
    names = session.list_named_actors(all_namespaces)
    if all_namespaces:
        return [{"name": name, "namespace": namespace} for namespace, name in names]
    return [name for _, name in names]


def kill(actor: ActorHandle[Any], *, no_restart: bool = True) -> None:
    """End an actor's process at once; its unfinished calls fail with ``ActorDiedError``.

    Parameters:
        actor: any handle of it.
        no_restart: end the actor for good; False lets it start again if its ``max_restarts`` allows.

    Raises:
        TypeError: *actor* is no actor handle.

    Example:
        >>> remora.kill(counter)
    """
    if not isinstance(actor, ActorHandle):
        advice = "kill() takes an actor handle"
        if type(actor) is ObjectRef:
            advice = "use cancel(ref) to end the task that makes a ref; kill() takes an actor handle"
        raise TypeError(f"kill({actor!r}): {advice}, not {type(actor).__name__}")
    session = runtime.current or connect_or_init()
    session.kill(actor._remora_actor, no_restart)
    if pending:
        raise_deferred()


def exit_actor() -> NoReturn:
    """Called inside a method of an actor: leave the method and end the actor for good.

    Calls that it has not started, and the one that calls this, fail with ``ActorDiedError``.

    Raises:
        TypeError: no method of an actor is running here.

    Example:
        >>> def close(self):
        ...     self.file.close()
        ...     remora.actor.exit_actor()
    """
    if runtime.current is None:
        raise TypeError("exit_actor() ends the actor whose method calls it; no method of an actor is running here")
    runtime.current.exit_actor()
