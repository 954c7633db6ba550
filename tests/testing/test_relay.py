"""The bad line: what the seed and the conditions make of packets."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from remora.testing.relay import HELD_BACK_S, BadLine, LineConditions

PACKETS = [number.to_bytes(4, "big") for number in range(2000)]
SHARES = st.floats(0, 1)
CONDITIONS = st.builds(LineConditions, st.floats(0, 0.1), st.floats(0, 0.1), SHARES, SHARES, SHARES)
GAPS_S = st.lists(st.floats(0, 0.02), max_size=50)


def sent(line: BadLine, gap_s: float = 0.001) -> list[bytes]:
    """What comes out when the packets go in one after the other, in the order in which it comes out."""
    out = []
    for number, packet in enumerate(PACKETS):
        out += line.take_due(number * gap_s)
        line.put(packet, number * gap_s)
    return out + line.take_due(1e9)


def test_a_good_line_gives_every_packet_at_once_and_in_order() -> None:
    line = BadLine(1, LineConditions())
    line.put(b"a", 5.0)
    line.put(b"b", 5.0)
    assert line.next_due_s == 5.0
    assert line.take_due(5.0) == [b"a", b"b"]
    assert line.next_due_s is None


def test_a_packet_leaves_when_its_delay_is_over_and_not_before() -> None:
    line = BadLine(1, LineConditions(delay_s=0.5))
    line.put(b"a", 1.0)
    assert line.take_due(1.49) == []
    assert line.next_due_s == 1.5
    assert line.take_due(1.5) == [b"a"]


def test_jitter_spreads_the_delay_and_keeps_the_order() -> None:
    line = BadLine(1, LineConditions(delay_s=0.5, jitter_s=0.2))
    under_way_s = []
    for number, packet in enumerate(PACKETS):
        line.put(packet, number)
        assert line.next_due_s is not None
        under_way_s.append(line.next_due_s - number)
        assert line.take_due(number + 0.75) == [packet]
    assert min(under_way_s) < 0.51
    assert max(under_way_s) > 0.69
    assert 0.59 < sum(under_way_s) / len(PACKETS) < 0.61
    assert sent(BadLine(1, LineConditions(jitter_s=0.2))) == PACKETS


@pytest.mark.parametrize("loss", [0.0, 0.1, 1.0])
def test_the_wanted_share_is_lost(loss: float) -> None:
    line = BadLine(1, LineConditions(loss=loss))
    assert len(sent(line)) == pytest.approx(len(PACKETS) * (1 - loss), abs=0.02 * len(PACKETS))
    assert line.counts.lost == len(PACKETS) - line.counts.left


def test_the_wanted_share_comes_twice_in_a_row() -> None:
    line = BadLine(1, LineConditions(duplicate=0.1))
    out = sent(line)
    assert sorted(set(out)) == PACKETS
    twice = [first for first, second in itertools.pairwise(out) if first == second]
    assert len(twice) == line.counts.duplicated == pytest.approx(200, abs=40)


def test_the_wanted_share_is_overtaken() -> None:
    line = BadLine(1, LineConditions(reorder=0.1))
    out = sent(line)
    assert sorted(out) == PACKETS
    overtaken = [packet for packet, next_packet in itertools.pairwise(out) if next_packet < packet]
    assert 120 < len(overtaken) <= 2 * line.counts.held_back
    assert line.counts.held_back == pytest.approx(200, abs=40)


def test_without_followers_a_packet_to_be_overtaken_is_late_by_a_little_only() -> None:
    line = BadLine(1, LineConditions(delay_s=1.0, reorder=1.0))
    line.put(b"a", 0.0)
    assert line.next_due_s == 1.0 + HELD_BACK_S


def test_a_seed_decides_the_same_each_time_and_another_seed_something_else() -> None:
    bad = LineConditions(jitter_s=0.01, loss=0.1, reorder=0.1, duplicate=0.1)
    assert sent(BadLine(1, bad)) == sent(BadLine(1, bad)) != sent(BadLine(2, bad))


def test_one_condition_does_not_change_what_another_decides() -> None:
    lossy = set(sent(BadLine(1, LineConditions(loss=0.1))))
    assert set(sent(BadLine(1, LineConditions(loss=0.1, jitter_s=1, reorder=0.5, duplicate=0.5)))) == lossy
    assert set(sent(BadLine(1, LineConditions(loss=0.2)))) < lossy


def test_new_conditions_hold_for_packets_that_arrive_afterwards() -> None:
    line = BadLine(1, LineConditions(delay_s=1.0))
    line.put(b"before", 0.0)
    line.conditions = LineConditions(loss=1.0)
    line.put(b"after", 0.0)
    assert line.take_due(1.0) == [b"before"]
    assert line.next_due_s is None


@given(CONDITIONS, GAPS_S, st.integers())
def test_nothing_is_made_up_kept_for_ever_or_early(conditions: LineConditions, gaps_s: list[float], seed: int) -> None:
    line = BadLine(seed, conditions)
    now_s, put_s, out = 0.0, {}, []
    for number, gap_s in enumerate(gaps_s):
        now_s += gap_s
        packet = PACKETS[number]
        put_s[packet] = now_s
        line.put(packet, now_s)
        due = line.take_due(now_s)
        assert all(now_s >= put_s[one] + conditions.delay_s for one in due)
        out += due
    out += line.take_due(now_s + conditions.delay_s + conditions.jitter_s + 2 * HELD_BACK_S)
    assert line.next_due_s is None
    counts = line.counts
    assert counts.arrived == len(gaps_s)
    assert counts.left == len(out) == counts.arrived - counts.lost + counts.duplicated
    assert len(set(out)) == counts.arrived - counts.lost


@pytest.mark.parametrize("wrong", [{"loss": 1.1}, {"reorder": -0.1}, {"delay_s": -1.0}, {"jitter_s": float("nan")}])
def test_conditions_that_cannot_be_are_refused_by_name(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        LineConditions(**wrong)
