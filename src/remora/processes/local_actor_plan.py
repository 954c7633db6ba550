"""What an actor of local mode is made of, worked out from its class and its options."""

from __future__ import annotations

import weakref
from typing import Any

import msgspec

from remora.base.object_ref import ObjectRef
from remora.base.options import ASYNC_MAX_CONCURRENCY, ActorOptions
from remora.base.runtime import Class


class ActorPlan(msgspec.Struct, frozen=True, eq=False, kw_only=True):
    """What an actor is made of, again after each restart. *creation* is not kept alive by it."""

    creation: weakref.ref[ObjectRef[Any]]
    id: bytes
    cls: Any
    class_name: str
    is_async: bool
    description: bytes
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    name: str
    namespace: str
    max_restarts: int
    max_task_retries: int
    max_pending_calls: int
    resources: dict[str, float]
    limits: dict[str, int]


def plan_of(
    actor_class: Class,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    options: ActorOptions,
    creation: ObjectRef[Any],
    namespace: str,
) -> ActorPlan:
    """The plan of a new actor of *actor_class*, named in *namespace* if it has a name."""
    default_limit = ASYNC_MAX_CONCURRENCY if actor_class.is_async else 1
    return ActorPlan(
        creation=weakref.ref(creation),
        id=creation.id,
        cls=actor_class.cls,
        class_name=actor_class.name,
        is_async=actor_class.is_async,
        description=actor_class.description,
        args=args,
        kwargs=kwargs,
        name=options.name,
        namespace=namespace,
        max_restarts=options.max_restarts,
        max_task_retries=options.max_task_retries,
        max_pending_calls=options.max_pending_calls,
        resources=options.resources.to_floats(),
        limits={"": options.max_concurrency or default_limit, **options.concurrency_groups},
    )
