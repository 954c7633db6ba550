"""What processes of the nodes say to the head: about actors, placement groups, keys and values, and what there is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from remora.core.head_groups import GROUP_MESSAGES
from remora.core.head_reports import actor_reports, node_reports
from remora.messages import actors, inspection, key_value
from remora.messages import head as m
from remora.messages.placement_groups import CreatePlacementGroup

if TYPE_CHECKING:
    from remora.core.head import Head


def handle(head: Head, process: bytes, job: bytes, message: Any, now_s: float) -> None:
    """Do what the process of this job asks.

    Raises:
        ValueError: the message is wrong, or nothing that a process says to the head.
    """
    kind = type(message)
    if head.registry.process_message(process, job, message):
        if kind is actors.CreateActor and head.jobs.has_ended(job):
            head.registry.job_ended(job)
    elif kind in GROUP_MESSAGES:
        head.groups.on_message(process, job, message, now_s)
        if kind is CreatePlacementGroup and head.jobs.has_ended(job):
            head.groups.job_ended(job)
        head.placer.try_again()
    else:
        head.say_to(process, _answer(head, message))


def _answer(head: Head, message: Any) -> Any:
    kind = type(message)
    if kind is key_value.KeyValueRequest:
        return head.key_value.answer(message)
    if kind is m.ListActorStates:
        return m.ActorStates(message.request, actor_reports(head.registry, head.placer))
    if kind is inspection.ListJobs:
        return inspection.Jobs(message.request, head.jobs.reports())
    if kind is inspection.GetNodes:
        return inspection.Nodes(message.request, node_reports(head.membership))
    raise ValueError(f"{kind.__name__} is nothing that a process says to the head")
