"""When spinning rests, and for how long."""

from __future__ import annotations

from remora.core.spinning import FIRST_REST_S, LONGEST_REST_S, MANY_LONG_YIELDS, SpinPolicy


def yields(policy: SpinPolicy, count: int, now_s: float) -> list[bool]:
    return [policy.long_yield(now_s) for _ in range(count)]


def test_one_long_yield_is_nothing() -> None:
    policy = SpinPolicy()
    assert not any(yields(policy, MANY_LONG_YIELDS - 1, 1.0))
    assert policy.may_spin(1.0)


def test_many_without_a_hit_rest() -> None:
    policy = SpinPolicy()
    assert yields(policy, MANY_LONG_YIELDS, 1.0)[-1]
    assert not policy.may_spin(1.0 + FIRST_REST_S / 2)
    assert policy.may_spin(1.0 + FIRST_REST_S)


def test_a_hit_in_between_starts_the_count_again() -> None:
    policy = SpinPolicy()
    yields(policy, MANY_LONG_YIELDS - 1, 1.0)
    policy.hit()
    assert not any(yields(policy, MANY_LONG_YIELDS - 1, 1.0))


def test_each_rest_is_twice_as_long_up_to_a_limit_and_a_hit_ends_the_growth() -> None:
    policy = SpinPolicy()
    yields(policy, MANY_LONG_YIELDS, 0.0)
    yields(policy, MANY_LONG_YIELDS, 0.0)
    assert not policy.may_spin(1.9 * FIRST_REST_S)
    assert policy.may_spin(2 * FIRST_REST_S)
    for _ in range(20):
        yields(policy, MANY_LONG_YIELDS, 0.0)
    assert policy.may_spin(LONGEST_REST_S)
    policy.hit()
    yields(policy, MANY_LONG_YIELDS, 0.0)
    assert policy.may_spin(FIRST_REST_S)
