"""Placement groups, under the names of Ray's module.

Example:
    >>> from remora.util.placement_group import placement_group, remove_placement_group
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

from remora.api.placement_groups import (
    PlacementGroup,
    get_current_placement_group,
    get_placement_group,
    placement_group,
    placement_group_table,
    remove_placement_group,
)

__all__ = [
    "PlacementGroup",
    "get_current_placement_group",
    "get_placement_group",
    "placement_group",
    "placement_group_table",
    "remove_placement_group",
]


class _FunctionModule(ModuleType):
    """``remora.util.placement_group`` is a function, and this module, too: Python binds the name to what came last."""

    def __call__(self, *args: Any, **kwargs: Any) -> PlacementGroup:
        return placement_group(*args, **kwargs)


sys.modules[__name__].__class__ = _FunctionModule
