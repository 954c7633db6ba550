"""Remora: remote objects for Python.

The names of Ray Core, so that ``import remora as ray`` runs its programs. What every process of Remora needs is
imported at once, each public name when it is first used.

Example:
    >>> import remora
    >>> @remora.remote
    ... def square(x: int) -> int:
    ...     return x * x
    >>> remora.get([square.remote(i) for i in range(4)])
    [0, 1, 4, 9]
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

# 30 ms that ``init`` would cost otherwise; daemon, zygote and workers need them as well.
import remora.base.errors
import remora.base.options
import remora.messages.wire  # noqa: F401

if TYPE_CHECKING:
    from remora import actor, cloudpickle, exceptions, util
    from remora.api import runtime_context
    from remora.api.actor_control import get_actor, kill
    from remora.api.alias import install_as
    from remora.api.cluster_info import available_resources, cluster_resources, nodes
    from remora.api.decorators import method, remote
    from remora.api.init import init, is_initialized, shutdown
    from remora.api.objects import cancel, create, get, put, wait
    from remora.api.runtime_context import get_gpu_ids, get_runtime_context
    from remora.base.object_ref import ObjectRef

__version__ = "0.1.0"

__all__ = [
    "ObjectRef",
    "__version__",
    "actor",
    "available_resources",
    "cancel",
    "cloudpickle",
    "cluster_resources",
    "create",
    "exceptions",
    "get",
    "get_actor",
    "get_gpu_ids",
    "get_runtime_context",
    "init",
    "install_as",
    "is_initialized",
    "kill",
    "method",
    "nodes",
    "put",
    "remote",
    "runtime_context",
    "shutdown",
    "util",
    "wait",
]

_MODULE_OF = {
    "ObjectRef": "remora.base.object_ref",
    "available_resources": "remora.api.cluster_info",
    "cancel": "remora.api.objects",
    "cluster_resources": "remora.api.cluster_info",
    "create": "remora.api.objects",
    "get": "remora.api.objects",
    "get_actor": "remora.api.actor_control",
    "get_gpu_ids": "remora.api.runtime_context",
    "get_runtime_context": "remora.api.runtime_context",
    "init": "remora.api.init",
    "install_as": "remora.api.alias",
    "is_initialized": "remora.api.init",
    "kill": "remora.api.actor_control",
    "method": "remora.api.decorators",
    "nodes": "remora.api.cluster_info",
    "put": "remora.api.objects",
    "remote": "remora.api.decorators",
    "shutdown": "remora.api.init",
    "wait": "remora.api.objects",
}
_MODULES = {
    "actor": "remora.actor",
    "cloudpickle": "remora.cloudpickle",
    "exceptions": "remora.exceptions",
    "experimental": "remora.experimental",
    "runtime_context": "remora.api.runtime_context",
    "util": "remora.util",
}


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name in _MODULE_OF:
        value = getattr(import_module(_MODULE_OF[name]), name)
    elif name in _MODULES:
        value = import_module(_MODULES[name])
    else:
        raise AttributeError(f"module 'remora' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


if "REMORA_INSTALL_AS" in os.environ:
    # The driver knows Remora under another name, too; so do the processes that it starts.
    from remora.api.alias import install_from_environment

    install_from_environment()
