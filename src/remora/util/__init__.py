"""Helpers for programs: pools of actors, queues, names of actors, placement groups, where to run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

# At once, and from the module: Python binds the name of a module in its package when it is imported first, and
# ``placement_group`` is to be the function.
from remora.util.placement_group import (
    get_current_placement_group,
    get_placement_group,
    placement_group,
    placement_group_table,
    remove_placement_group,
)

if TYPE_CHECKING:
    from remora.api.actor_control import list_named_actors
    from remora.api.cluster_info import get_node_ip_address
    from remora.util import queue, scheduling_strategies
    from remora.util.actor_pool import ActorPool

__all__ = [
    "ActorPool",
    "get_current_placement_group",
    "get_node_ip_address",
    "get_placement_group",
    "list_named_actors",
    "placement_group",
    "placement_group_table",
    "queue",
    "remove_placement_group",
    "scheduling_strategies",
]

_MODULE_OF = {
    "ActorPool": "remora.util.actor_pool",
    "get_node_ip_address": "remora.api.cluster_info",
    "list_named_actors": "remora.api.actor_control",
}


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name in _MODULE_OF:
        value = getattr(import_module(_MODULE_OF[name]), name)
    elif name in ("queue", "scheduling_strategies"):
        value = import_module(f"remora.util.{name}")
    else:
        raise AttributeError(f"module 'remora.util' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
