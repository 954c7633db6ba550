"""What counting costs: messages of each pattern, exactly. Ids are counted, so that lists in one message are no cheat.

Each pattern is a story of A on N1, and W and X beside it on the same node or on N2. The end of everything is
included, so releases are too.
"""

from __future__ import annotations

from collections import Counter

import pytest

from remora.testing.counting_stories import Story
from remora.testing.counting_telling import Telling

BETWEEN_DAEMONS = {"NodeRegister", "NodeAck", "NodeRelease", "Keep", "KeepAck", "Unkeep"}
BETWEEN_PROCESSES = {"Close", "ReplyAck", "ItemAck"}
CARRIERS = {"Task", "Reply", "Item"}
ASKING_FOR_VALUES = {"GetObjects", "ObjectValue"}
SAME_NODE = {"N1": ["A", "W", "X"]}
ACROSS_NODES = {"N1": ["A"], "N2": ["W", "X"]}

Cost = tuple[int, int, int]
"""Between processes and daemons, between daemons, and extra between processes."""

PATTERNS: dict[str, tuple[str, Cost, Cost]] = {
    "small put and result, values only": (
        "A put o | A put K [o] | A call W t1 [] -> r | W return t1 | A drop K",
        (0, 0, 0),
        (0, 0, 0),
    ),
    "put in the arena": ("A store o | A drop o", (2, 0, 0), (2, 0, 0)),
    "nested ref in the arguments, dropped by the worker": (
        "A put o | A call W t1 [o] -> r | W return t1",
        (2, 0, 0),
        (2, 0, 0),
    ),
    "the same, three calls": (
        "A put o | A call W t1 [o] -> r | W return t1 | A call W t2 [o] -> r2 | W return t2 | A call X t3 [o] -> r3 "
        "| X return t3",
        (2, 0, 0),
        (2, 0, 0),
    ),
    "nested ref kept by an actor": (
        "A put o | A call W t1 [o] -> r | W keep t1 o | W return t1 | W drop o",
        (5, 0, 1),
        (5, 3, 1),
    ),
    "kept by two processes of a node": (
        "A put o | A call W t1 [o] -> r | A call X t2 [o] -> r2 | W keep t1 o | W return t1 | X keep t2 o "
        "| X return t2",
        (8, 0, 2),
        (8, 6, 2),
    ),
    "result with a fresh ref": (
        "A call W t1 [] -> r | W put o | W return t1 [o] | W drop o | A has r | A get r | A drop r | A drop o",
        (5, 0, 1),
        (5, 3, 1),
    ),
    "generator item with a fresh ref": (
        "A call W t1 [] -> r | W put o | W yield t1 [o] -> i | W drop o | W return t1",
        (5, 0, 1),
        (5, 3, 1),
    ),
    "ref of the arguments returned": (
        "A put o | A call W t1 [o] -> r | W return t1 [o] | A has r | A get r",
        (2, 0, 0),
        (2, 0, 0),
    ),
    "container as argument, unpacked, dropped": (
        "A put o | A put K [o] | A call W t1 [K] -> r | W get K in t1 | settle | W return t1",
        (5, 0, 0),
        (5, 0, 0),
    ),
    "container as argument, what is inside kept": (
        "A put o | A put K [o] | A call W t1 [K] -> r | W get K in t1 | settle | W keep t1 o | W return t1 | W drop o",
        (8, 0, 1),
        (8, 3, 1),
    ),
    "argument wrapped in a container that is returned": (
        "A put o | A call W t1 [o] -> r | W put K [o] | W return t1 [K] | W drop K | settle | A drop r",
        (8, 0, 2),
        (8, 6, 2),
    ),
    "pending ref passed on and kept": (
        "A call W t1 [] -> r | A call X t2 [r] -> r2 | X keep t2 r | X return t2 | settle | W return t1",
        (6, 0, 1),
        (6, 3, 1),
    ),
    "big result": ("A call W t1 [] -> r | W return t1 large | settle", (3, 0, 0), (5, 3, 1)),
    "big result that nobody wants": ("A call W t1 [] -> r | A drop r | W return t1 large", (2, 0, 0), (2, 0, 1)),
}


def cost(text: str, layout: dict[str, list[str]]) -> Cost:
    """Messages of the pattern when every message arrives before the next step."""
    steps: list[tuple[str, list[str]]] = []
    for step in text.split("|"):
        story_line = Story.parse("pattern", step)
        steps += [*story_line.steps, ("", ["settle"])]
    telling = Telling(Story("pattern", layout, steps))
    telling.tell_in_order()
    counts = Counter(telling.world.message_counts)
    for kind in CARRIERS | ASKING_FOR_VALUES:
        counts.pop(kind, None)
    between_daemons = sum(counts.pop(kind, 0) for kind in BETWEEN_DAEMONS)
    between_processes = sum(counts.pop(kind, 0) for kind in BETWEEN_PROCESSES)
    return sum(counts.values()), between_daemons, between_processes


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_pattern_costs_exactly_its_budget_on_one_node(pattern: str) -> None:
    text, on_one_node, _ = PATTERNS[pattern]
    assert cost(text, SAME_NODE) == on_one_node


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_pattern_costs_exactly_its_budget_across_nodes(pattern: str) -> None:
    text, _, across_nodes = PATTERNS[pattern]
    assert cost(text, ACROSS_NODES) == across_nodes


READERS = ["B", "C", "D"]


def test_a_value_comes_to_a_node_once_however_many_of_its_processes_ask() -> None:
    reads = [f"A call {who} t{who} [o] -> r{who} | {who} get o in t{who}" for who in READERS]
    ends = [f"{who} return t{who}" for who in READERS]
    text = " | ".join(["A store o", *reads, *ends, "A drop o"])
    steps = [step for line in text.split("|") for step in Story.parse("pattern", line).steps]
    telling = Telling(Story("pattern", {"N1": ["A"], "N2": READERS}, steps))
    telling.tell_in_order()
    counts = telling.world.message_counts
    assert {kind: counts[kind] for kind in ("ObjectAt", "CopyArrived", "FreeCopies")} == {
        "ObjectAt": 1,
        "CopyArrived": 1,
        "FreeCopies": 1,
    }
    assert counts["GetObjects"] == len(READERS) + 1
