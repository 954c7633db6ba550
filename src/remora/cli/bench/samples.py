"""What is said of a handful of measurements."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median


def spread(values: Sequence[float]) -> float:
    """How far apart the values are: largest less smallest, as a share of the median.

    Example:
        >>> spread([90.0, 100.0, 110.0])
        0.2
    """
    middle = median(values)
    return (max(values) - min(values)) / middle if middle else 0.0


def pairwise_ratios(ours: Sequence[float], theirs: Sequence[float], *, lower_is_better: bool) -> list[float]:
    """How many times better ours is, pair by pair; pairs with a zero in the divisor are left out.

    Example:
        >>> pairwise_ratios([20.0, 30.0], [10.0, 10.0], lower_is_better=False)
        [2.0, 3.0]
    """
    pairs = [(their, our) if lower_is_better else (our, their) for our, their in zip(ours, theirs)]
    return [better / base for better, base in pairs if base]


def median_ratio(ours: Sequence[float], theirs: Sequence[float], *, lower_is_better: bool = False) -> float | None:
    """The median of `pairwise_ratios`, or None where there is no pair.

    Each pair was measured within seconds, so a machine that slows down later moves both halves of the later pairs;
    a ratio of two medians would mix early and late.
    """
    ratios = pairwise_ratios(ours, theirs, lower_is_better=lower_is_better)
    return median(ratios) if ratios else None
