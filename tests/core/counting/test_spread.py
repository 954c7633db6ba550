"""Who reads from whom: examples, and hypothesis against the plain rules."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from remora.base.ids import NodeId
from remora.core.counting.spread import Spread

PRIMARY, A, B, C, D = (NodeId(bytes([0, 0, 0, number])) for number in (1, 2, 3, 4, 5))
READERS = (A, B, C, D)


def test_readers_that_come_together_form_a_chain() -> None:
    spread = Spread()
    assert [spread.sources_for(reader, PRIMARY)[0] for reader in READERS] == [PRIMARY, A, B, C]


def test_the_sources_behind_the_first_are_whole() -> None:
    spread = Spread()
    spread.sources_for(A, PRIMARY)
    spread.arrived(A)
    spread.sources_for(B, PRIMARY)
    assert spread.sources_for(C, PRIMARY) == [B, PRIMARY, A]


def test_a_reader_that_comes_later_is_sent_to_who_has_served_the_fewest() -> None:
    spread = Spread()
    for reader in (A, B):
        spread.sources_for(reader, PRIMARY)
        spread.arrived(reader)
    assert spread.sources_for(C, PRIMARY)[0] == B


def test_a_node_that_has_the_value_is_sent_to_itself() -> None:
    spread = Spread()
    spread.keep(A)
    assert spread.sources_for(A, PRIMARY) == [A]
    assert spread.sources_for(PRIMARY, PRIMARY) == [PRIMARY]


def test_who_failed_a_reader_is_not_named_again_until_it_has_the_value_anew() -> None:
    spread = Spread()
    spread.sources_for(A, PRIMARY)
    spread.arrived(A)
    spread.sources_for(B, PRIMARY)
    spread.receiving[B].failed |= {A, PRIMARY}
    spread.receiving[B].failed.discard(PRIMARY)
    assert spread.sources_for(B, PRIMARY) == [PRIMARY]
    spread.dropped(A)
    spread.sources_for(A, PRIMARY)
    spread.arrived(A)
    assert A in spread.sources_for(B, PRIMARY)


def test_a_reader_whom_everybody_failed_is_forgotten() -> None:
    spread = Spread()
    spread.sources_for(A, PRIMARY)
    spread.receiving[A].failed.add(PRIMARY)
    assert spread.sources_for(A, PRIMARY) == []
    assert not spread.receiving


def test_a_node_that_asks_again_is_not_sent_to_one_that_may_read_from_it() -> None:
    spread = Spread()
    spread.sources_for(A, PRIMARY)
    spread.arrived(A)
    assert spread.sources_for(B, PRIMARY) == [A, PRIMARY]
    spread.dropped(A)
    assert spread.sources_for(A, PRIMARY) == [PRIMARY]


events = st.tuples(st.sampled_from(["ask", "arrive", "drop", "fail", "keep"]), st.sampled_from(READERS))


@given(st.lists(events, max_size=40))
def test_no_reader_waits_for_itself_and_few_read_from_one(program: list[tuple[str, NodeId]]) -> None:
    spread = Spread()
    for event, node in program:
        receiver = spread.receiving.get(node)
        if event == "ask" and node not in spread.kept:
            spread.sources_for(node, PRIMARY)
        elif event == "arrive" and receiver is not None:
            spread.arrived(node)
        elif event == "drop":
            spread.dropped(node)
        elif event == "fail" and receiver is not None and receiver.sources:
            receiver.failed.add(receiver.sources[0])
            spread.sources_for(node, PRIMARY)
        elif event == "keep" and node in spread.complete:
            spread.keep(node)
        for start in spread.receiving:
            assert not reaches(spread, start, start)
            assert start not in spread.complete
            assert start not in spread.kept


def reaches(spread: Spread, start: NodeId, target: NodeId) -> bool:
    """Whether what *start* receives may come from *target*, by a walk over all sources."""
    seen: set[NodeId] = set()
    todo = list(spread.receiving[start].sources)
    while todo:
        node = todo.pop()
        if node == target:
            return True
        if node not in seen and node in spread.receiving:
            seen.add(node)
            todo += spread.receiving[node].sources
    return False
