"""The nearest valid name, for errors about names."""

from __future__ import annotations

from collections.abc import Iterable


def nearest_name(name: str, valid_names: Iterable[str]) -> str | None:
    """The valid name that *name* was most likely meant to be, or None when none is close.

    Example:
        >>> nearest_name("num_cpu", ["num_cpus", "num_gpus", "resources"])
        'num_cpus'
    """
    import difflib

    matches = difflib.get_close_matches(name, list(valid_names), n=1, cutoff=0.6)
    return matches[0] if matches else None


def did_you_mean(name: str, valid_names: Iterable[str]) -> str:
    """A sentence to end an error message with: the nearest name, or else all valid ones.

    Example:
        >>> did_you_mean("num_cpu", ["num_cpus", "num_gpus"])
        "Did you mean 'num_cpus'?"
    """
    names = sorted(valid_names)
    nearest = nearest_name(name, names)
    if nearest is not None:
        return f"Did you mean {nearest!r}?"
    return f"Valid names: {', '.join(names)}."
