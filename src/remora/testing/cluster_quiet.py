"""What may be left in a simulated cluster when nobody wants anything any more: nothing."""

from __future__ import annotations

from collections.abc import Iterator

from remora.testing.cluster_daemon import SimulatedDaemon
from remora.testing.cluster_process import SimulatedProcess
from remora.testing.cluster_world import World

Problem = tuple[str, bytes]
"""What is left, and the id that it concerns."""


def problems(world: World, *, objects_stay: bool = False) -> Iterator[Problem]:
    """What somebody waits for, or what is never freed.

    Objects that contain each other, or that were pickled outside of our serializers, are never freed before their job
    ends, and actors among them live as long.
    """
    for process in world.living_processes():
        yield from _of_calls(world, process)
    for daemon in world.living_daemons():
        yield from _of_waiting(world, daemon)
    if objects_stay:
        return
    for daemon in world.living_daemons():
        yield from _of_leases(world, daemon)
    yield from _of_head(world)
    for process in world.living_processes():
        yield from _of_refs(world, process)
    for daemon in world.living_daemons():
        yield from _of_objects(world, daemon)


def _of_calls(world: World, process: SimulatedProcess) -> Iterator[Problem]:
    name = world.name(process.process)
    for frame in process.running.values():
        concern = min(frame.awaited, default=frame.key[0] + frame.key[1].to_bytes(4, "big") if frame.key else b"")
        yield f"{name}: {frame!r} never ends", concern
    for submitter, task in process.queue:
        yield f"{name} never begins a call", submitter + task.call.to_bytes(4, "big")
    for record in process.submission.records():
        yield f"task {world.name(record.result)} of {name} never ends", record.result
    for record in process.unresolved.values():
        yield f"{name} waits for the arguments of {world.name(record.result)} for ever", record.result
    for handle in process.handles.values():
        for record in (*handle.calls.in_flight.values(), *handle.calls.waiting()):
            yield f"call {world.name(record.result)} of {name} to an actor never ends", record.result
    for request in process.requests:
        yield f"{name} waits for the answer to its question {request} for ever", process.process
    for ref in process.live.values():
        if ref.waiters:
            yield f"{name} waits for the value of {world.name(ref.id)} for ever", ref.id
    if process.is_ending:
        yield f"{name} was told to end and does not: {process.refs!r}", process.process


def _of_refs(world: World, process: SimulatedProcess) -> Iterator[Problem]:
    name = world.name(process.process)
    for ref in process.live.values():
        if ref.id != process.actor:
            yield f"{name} is left with {ref!r} of {world.name(ref.id)}", ref.id
    if not process.refs.is_quiet:
        yield f"{name} waits for an acknowledgement for ever: {process.refs!r}", process.process
    for counted in process.refs._refs.values():
        yield f"{name} is left with {world.name(counted.id)}: {counted!r}", counted.id
    for actor in process.handles:
        yield f"{name} never forgets {world.name(actor)}", actor


def _of_waiting(world: World, daemon: SimulatedDaemon) -> Iterator[Problem]:
    name, directory = world.name(daemon.node), daemon.directory
    if directory._parking:
        yield f"{name} has parked for ever: {directory._parking!r}", daemon.node
    awaited = [object_id for waiting in directory._waiting.values() for object_id in waiting]
    for object_id in (*awaited, *directory._remote_gets):
        yield f"somebody at {name} waits for {world.name(object_id)} for ever", object_id
    for pull in daemon.transfers.pulls.pulls():
        yield f"{name} pulls {world.name(pull.id)} for ever: {pull!r}", pull.id
    if directory._in_flux or directory._held_back or directory._asking or directory._rebuilds:
        yield f"{name} never ends to inherit", daemon.node
    if daemon.head.link.kept_count:
        kept = world.describe(daemon.head.link.unconfirmed_after(daemon.head.link.said - daemon.head.link.kept_count))
        yield f"the head never confirms what {name} says: {kept}", daemon.node


def _of_leases(world: World, daemon: SimulatedDaemon) -> Iterator[Problem]:
    name, workers = world.name(daemon.node), daemon.workers
    for request in workers.router._placer.requests():
        yield f"{name} never answers {request!r}", request.process.process
    detached = {actor.id for actor in world.head.machine.registry.actors() if actor.detached}
    leases = workers.leases.leases()
    for lease in leases:
        if lease.claim.requester.process not in detached:
            yield f"{name} never gets {lease!r} back", lease.worker.process
    for waiting in workers.leases.waiting():
        yield f"{waiting!r} waits at {name} for ever", daemon.node
    ledger = workers.leases.ledger
    if not leases and dict(ledger.free()) != dict(ledger.total.units):
        yield f"{name} has {dict(ledger.free())} free of {dict(ledger.total.units)}", daemon.node
    if dict(ledger.total.units) != daemon.total:
        yield f"{name} has {dict(ledger.total.units)} and began with {daemon.total}", daemon.node
    for group in daemon.groups._states:
        yield f"{name} watches group {world.name(group)} for ever", group
    for actor in daemon.actors._waiting:
        yield f"{name} looks for a worker of {world.name(actor)} for ever", actor


def _of_head(world: World) -> Iterator[Problem]:
    head = world.head.machine
    for actor in head.registry.actors():
        if not actor.detached:
            yield f"the head never forgets {actor!r}", actor.id
    for placing in head.placer.waiting():
        yield f"the head finds no worker for {world.name(placing.actor)}: {placing.why_waiting}", placing.actor
    for row in head.groups.manager.rows():
        yield f"the head still has group {world.name(row.group)}: {row!r}", row.group
    for node in head.links.nodes():
        link = head.links._links[node]
        if link.kept_count:
            kept = world.describe(link.unconfirmed_after(link.said - link.kept_count))
            yield f"{world.name(node)} never confirms what the head says: {kept}", node
    for view in head.membership.views():
        if view.node not in world.alive:
            yield f"the head never notices the death of {world.name(view.node)}", view.node
    for daemon in world.living_daemons():
        if not head.membership.is_member(daemon.node):
            yield f"{world.name(daemon.node)} is dead for the head, and lives on", daemon.node


def _of_objects(world: World, daemon: SimulatedDaemon) -> Iterator[Problem]:
    name, directory = world.name(daemon.node), daemon.directory
    for object_id, entry in directory._entries.items():
        holders = world.describe(list(entry.holders))
        yield f"{world.name(object_id)} is never freed at {name}, holders {holders}", object_id
    for object_id, members in directory._foreign.items():
        yield f"{name} still holds {world.name(object_id)} for {world.describe(list(members))}", object_id
    for copied, writer, keepers in directory._copies:
        kept_by = world.describe(list(keepers))
        yield f"a copy of {world.name(copied)} by {world.name(writer)} stays at {name}, kept by {kept_by}", copied
    for object_id, copy in directory._local:
        yield f"{name} is left with a copy of {world.name(object_id)}: {copy!r}", object_id
    for offset, owner in daemon.arena.blocks.items():
        of_whom = "" if owner is None else f" of {world.name(owner)}"
        yield f"the piece at {offset}{of_whom} of the store of {name} is never freed", daemon.node
