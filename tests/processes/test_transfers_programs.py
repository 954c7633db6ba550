"""Random programs of a few nodes over real connections: every value arrives as it was, and nothing stays behind."""

from __future__ import annotations

import random
from collections.abc import Callable
from time import monotonic

import pytest
from transfer_node import WRITER, TransferNode, TransferNodes, object_id, value_of

from remora.core import served_chunks

SIZES_BYTES = [0, 10, 5000, 100_000, 1 << 20, (1 << 20) + 1, 9_999_999]
STEPS = 1200


class Program:
    """Objects whose homes are the first two nodes; everybody pulls, cancels, drops; the last two may die."""

    def __init__(self, nodes: TransferNodes, seed: int) -> None:
        self.nodes = nodes
        self.random = random.Random(seed)
        limits = [1, 3 << 20, 64 << 20]
        self.alive = [nodes.add(limit_bytes=self.random.choice(limits)) for _ in range(5)]
        self.mortal = self.alive[3:]
        self.values = [value_of(self.random.choice(SIZES_BYTES), bytes([number])) for number in range(15)]
        self.homes = [self.random.choice(self.alive[:2]) for _ in self.values]
        for number, home in enumerate(self.homes):
            home.put(object_id(number), self.values[number])
        self.pulled: dict[tuple[TransferNode, int], None] = {}

    def step(self) -> None:
        node, number = self.random.choice(self.alive), self.random.randrange(len(self.values))
        actions: list[Callable[[TransferNode, int], None]] = [self.pull, self.cancel, self.drop, self.hurry]
        self.random.choices(actions, [10, 2, 4, 1])[0](node, number)
        if self.mortal and self.random.random() < 0.001:
            self.kill(self.mortal.pop())
        if self.random.random() < 0.1:
            self.random.choice(self.alive).transfers.tick(monotonic())
        self.nodes.reactor.poll(0.001)
        self.look()

    def pull(self, node: TransferNode, number: int) -> None:
        if node.has(object_id(number)) or (node, number) in self.pulled:
            return
        home = self.homes[number]
        others = [other for other in self.alive if (other, number) in self.pulled or other.has(object_id(number))]
        sources = [other for other in others if other is not home]
        self.random.shuffle(sources)
        purpose = self.random.randrange(3)
        node.pull(object_id(number), len(self.values[number]), *sources, home, purpose=purpose)
        self.pulled[node, number] = None

    def cancel(self, node: TransferNode, number: int) -> None:
        if (node, number) in self.pulled:
            del self.pulled[node, number]
            node.transfers.cancel(object_id(number), WRITER)

    def drop(self, node: TransferNode, number: int) -> None:
        if node.has(object_id(number)) and node is not self.homes[number]:
            self.check(node, number)
            node.drop(object_id(number))

    def hurry(self, node: TransferNode, number: int) -> None:
        node.transfers.raise_priority(object_id(number), WRITER, 0)

    def kill(self, node: TransferNode) -> None:
        self.alive.remove(node)
        node.kill()
        self.pulled = {key: None for key in self.pulled if key[0] is not node}
        for other in self.alive:
            other.transfers.node_dead(node.node)

    def look(self) -> None:
        for node, number in list(self.pulled):
            if node.has(object_id(number)):
                del self.pulled[node, number]
                self.check(node, number)
        for node in self.alive:
            failures, node.failures = node.failures, []
            for failed, source, _ in failures:
                number = failed[-1]
                assert source, "a store was full, or no source was named"
                if (node, number) in self.pulled:
                    node.pull(failed, len(self.values[number]), self.homes[number])

    def check(self, node: TransferNode, number: int) -> None:
        assert node.read(object_id(number)) == self.values[number]

    def end(self) -> None:
        """Everything that is wanted comes from the homes now, and then everything is quiet."""

        def nothing_is_pulled() -> bool:
            self.look()
            return not self.pulled

        for node, number in self.pulled:
            node.pull(object_id(number), len(self.values[number]), self.homes[number])
        self.nodes.run_until(nothing_is_pulled)
        for node in self.alive:
            self.nodes.run_until(lambda node=node: node.arena.reserved_by(node.process) == 0)
            self.nodes.run_until(lambda node=node: len(node.transfers.serving.blocks) == 0)
            node.arena.validate()
            node.transfers.pulls.validate()
            assert node.transfers.statistics().in_flight_bytes == 0
            assert node.transfers.statistics().pulls == 0


@pytest.mark.parametrize("seed", [1, 2])
def test_every_value_arrives_as_it_was_and_nothing_stays(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(served_chunks, "UNKNOWN_WAIT_S", 0.1)
    monkeypatch.setattr(served_chunks, "QUEUED_WAIT_S", 0.1)
    monkeypatch.setattr(served_chunks, "ARRIVAL_WAIT_S", 0.5)
    nodes = TransferNodes()
    try:
        program = Program(nodes, seed)
        for _ in range(STEPS):
            program.step()
        program.end()
    finally:
        nodes.close()
