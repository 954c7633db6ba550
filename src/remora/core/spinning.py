"""Whether it is worth to poll without blocking for a moment, on a machine whose cores others may want.

A spin that hits saves a wake-up of 40-60 us. A yield that takes long means that another program had the core for a
time slice. One of these is nothing, because any program wakes up now and then; several without a hit in between mean
that the core is wanted, and then spinning rests, each time twice as long.
"""

from __future__ import annotations

LONG_YIELD_S = 50e-6
MANY_LONG_YIELDS = 4
FIRST_REST_S = 0.01
LONGEST_REST_S = 1.0


class SpinPolicy:
    """The memory of one leadership's spins.

    Example:
        >>> policy = SpinPolicy()
        >>> policy.may_spin(now_s=0.0)
        True
    """

    __slots__ = ("_again_at_s", "_long_yields", "_rest_s")

    def __init__(self) -> None:
        self._again_at_s = 0.0
        self._rest_s = FIRST_REST_S
        self._long_yields = 0

    def may_spin(self, now_s: float) -> bool:
        """Whether to spin before blocking."""
        return now_s >= self._again_at_s

    def hit(self) -> None:
        """What was awaited came during a spin."""
        self._long_yields = 0
        self._rest_s = FIRST_REST_S

    def long_yield(self, now_s: float) -> bool:
        """A yield took longer than ``LONG_YIELD_S``. Whether to stop spinning."""
        self._long_yields += 1
        if self._long_yields < MANY_LONG_YIELDS:
            return False
        self._long_yields = 0
        self._again_at_s = now_s + self._rest_s
        self._rest_s = min(2 * self._rest_s, LONGEST_REST_S)
        return True

    def __repr__(self) -> str:
        return f"<SpinPolicy again at {self._again_at_s:.3f} s, {self._long_yields} long yields>"
