"""What the head tells a node, as methods of whoever hears it."""

from __future__ import annotations

from typing import Any, Protocol

from remora.base.ids import ProcessId
from remora.messages import head as m


class HeadListener(Protocol):
    """Who hears what the head says: the daemon. All are called by the thread that polls the reactor."""

    def on_members(self, members: list[m.MemberView]) -> None:
        """These nodes joined, or what they have changed; this node is one of them."""

    def on_node_dead(self, departure: m.Departure) -> None:
        """A node was declared dead or has left. Told once for each node, also for those that were gone before."""

    def on_process_message(self, process: ProcessId, message: Any) -> None:
        """The head says *message* to this process of this node: ``ActorFound``, ``ActorState``, ``ConstructActor``.."""

    def on_place_actor(self, message: m.PlaceActor) -> None:
        """Find a worker; answer with ``HeadLink.placed`` or ``HeadLink.rejected``."""

    def on_cancel_placement(self, message: m.CancelPlacement) -> None:
        """The actor needs no worker any more. Nothing is to be answered."""

    def on_kill_process(self, process: ProcessId) -> None:
        """End this worker at once."""

    def on_end_process(self, process: ProcessId, reason: str) -> None:
        """The process broke the protocol: end its connection."""

    def on_job_ended(self, job: ProcessId, cause: str) -> None:
        """A job of another node's driver is over: end its workers here."""

    def on_expelled(self, reason: str) -> None:
        """This node is no member any more, and must stop. Nothing is said or heard after this."""
