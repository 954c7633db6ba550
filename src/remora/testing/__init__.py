"""For tests: clusters on one machine, test networks, simulations. Nothing else in Remora imports this."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from remora.testing.cluster import Cluster

__all__ = ["Cluster"]


def __getattr__(name: str) -> Any:
    # Most of what is here needs no cluster, and a cluster brings the command line with it.
    if name == "Cluster":
        from remora.testing.cluster import Cluster

        return Cluster
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
