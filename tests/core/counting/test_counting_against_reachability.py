"""Processes and homes together against a model without any protocol: what can be reached lives, and nothing else."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from remora.base.ids import ObjectId
from remora.base.object_ref import FIRST_FINISHED
from remora.testing.counting_checker import Checker
from remora.testing.counting_client import SimulatedClient
from remora.testing.counting_world import World

LAYOUT = {"N1": ["A", "B"], "N2": ["C"], "N3": ["D"]}
ACTIONS = ("put", "store", "call", "inline", "return", "return_large", "yield", "keep", "get", "drop", "drop")

Choice = tuple[str, int, int, int]
choices = st.tuples(st.sampled_from(ACTIONS), st.integers(0, 3), st.integers(0, 99), st.integers(0, 99))


def pick(items: list[ObjectId], index: int, empty_too: bool = True) -> list[ObjectId]:
    """One of the items, or none."""
    if not items or (empty_too and index % 4 == 0):
        return []
    return [items[index % len(items)]]


def act(client: SimulatedClient, others: list[SimulatedClient], action: str, first: int, second: int) -> None:
    refs = sorted(client.in_hand())
    running = sorted(client.running)
    key = running[first % len(running)] if running else None
    match action:
        case "put" | "store":
            client.new(dict.fromkeys(pick(refs, first) + pick(refs, second)), large=action == "store")
        case "call":
            client.submit(others[second % len(others)].process, pick(refs, first))
        case "inline":
            own = [ref for ref in refs if ref in client.objects and client.objects[ref].value.state >= FIRST_FINISHED]
            client.submit(others[second % len(others)].process, [], pick(own, first))
        case "return" | "return_large" if key:
            client.end(key, pick(refs, second), large=action == "return_large")
        case "yield" if key:
            client.give_item(key, pick(refs, second))
        case "keep" if key and client.running[key].variables:
            client.keep(key, client.running[key].variables[0])
        case "get" if refs:
            client.get(refs[first % len(refs)], client.running[key] if key and second % 2 else None)
        case "drop" if refs:
            client.drop(refs[first % len(refs)])


def settle(world: World) -> None:
    while world.channels or any(client.deaths for client in world.clients.values()):
        for client in world.clients.values():
            world.tell_deaths(client.process)
        if world.channels:
            world.deliver(world.oldest())


def reachable(world: World, contents: dict[ObjectId, tuple[ObjectId, ...]]) -> set[ObjectId]:
    """Everything that a live ref of any process leads to."""
    found: set[ObjectId] = set()
    todo = [object_id for client in world.clients.values() for object_id in client.strong]
    while todo:
        object_id = todo.pop()
        if object_id not in found:
            found.add(object_id)
            todo += contents.get(object_id, ())
    return found


@settings(max_examples=60, deadline=None)
@given(st.lists(choices, max_size=40))
def test_when_all_messages_have_arrived_exactly_the_reachable_objects_are_known(program: list[Choice]) -> None:
    world = World(LAYOUT)
    checker = Checker(world)
    clients = list(world.clients.values())
    for action, who, first, second in program:
        client = clients[who]
        others = [other for other in clients if other is not client]
        world.act(client.process, action, lambda c: act(c, others, action, first, second))  # noqa: B023
        settle(world)
        known = {row.id for directory in world.directories.values() for row in directory.rows()}
        expected = reachable(world, checker.contents)
        private = {own for client in clients for own in client.objects if client.is_private(own)}
        if not checker.has_cycle():
            assert known == expected - private


@settings(max_examples=60, deadline=None)
@given(st.lists(choices, max_size=30))
def test_a_process_holds_at_the_home_what_it_uses_and_nothing_else(program: list[Choice]) -> None:
    world = World(LAYOUT)
    Checker(world)
    clients = list(world.clients.values())
    for action, who, first, second in program:
        others = [other for other in clients if other is not clients[who]]
        world.act(clients[who].process, action, lambda c: act(c, others, action, first, second))  # noqa: B023
        if world.channels and first % 3:
            world.deliver(sorted(world.channels)[second % len(world.channels)])
    settle(world)
    for directory in world.directories.values():
        for row in directory.rows():
            for holder in row.holders:
                if holder in world.clients:
                    assert row.id in next(c for c in clients if c.process == holder).strong
