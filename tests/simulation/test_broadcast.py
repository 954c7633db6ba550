"""One object read by many nodes at once: each node serves about one of the others, so its maker sends it about once."""

from __future__ import annotations

import random

import pytest

from remora.base.ids import ObjectId
from remora.testing.counting_checker import Checker
from remora.testing.counting_pulls import CHUNKS
from remora.testing.counting_world import World

READERS = 8


def broadcast(seed: int, deaths: int = 0) -> tuple[World, ObjectId, int]:
    """Returns the world when all have read, the object, and the most readers that any node had at any moment."""
    rng = random.Random(seed)
    names = [f"W{number}" for number in range(READERS)]
    world = World({"N0": ["A"], **{f"N{number + 1}": [name] for number, name in enumerate(names)}})
    checker = Checker(world)
    maker = world.client("A")
    shared = maker.new(large=True)
    world.after(maker.process)
    for name in names:
        world.act(maker.process, "call", lambda c, name=name: c.submit(world.client(name).process, [shared]))  # type: ignore[misc]
    while world.channels:
        world.deliver(world.oldest())
    for name in names:
        world.act(world.client(name).process, "get", lambda c: c.get(shared))
    most = 0
    entry = world.directories[maker.node]._entries[shared]
    while world.channels:
        if deaths and rng.random() < 0.02:
            deaths -= 1
            world.kill_node(rng.choice([node for node in world.living_nodes() if node != maker.node]))
        world.deliver(rng.choice(sorted(world.channels)))
        if entry.spread is not None:
            most = max(most, *entry.spread._load().values(), 0)
    assert all(not client.gets for client in world.living_clients())
    assert checker.world is world
    return world, shared, most


@pytest.mark.parametrize("seed", range(20))
def test_eight_readers_cost_the_maker_at_most_two_copies_and_no_node_serves_more_than_two(seed: int) -> None:
    world, shared, most = broadcast(seed)
    sent = [shell.sent_chunks.get(shared, 0) for shell in world.pulls.values()]
    assert sent[0] <= 2 * CHUNKS
    assert sum(sent) == READERS * CHUNKS
    assert most <= 2


@pytest.mark.parametrize("seed", range(20))
def test_readers_of_a_node_that_dies_go_on_with_another_one(seed: int) -> None:
    world, shared, _ = broadcast(seed, deaths=3)
    for client in world.living_clients():
        assert client.process == world.client("A").process or shared in client.shown
