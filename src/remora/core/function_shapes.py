"""The shapes in which a function was called: how deep it may be queued was learned of each, so it is remembered."""

from __future__ import annotations

from itertools import islice
from typing import Any

from remora.core.task_queue import TaskShape

REMEMBERED_SHAPES = 20


class FunctionShapes:
    """The shapes of one remote function, by its options. One that has nothing to do may be forgotten, and made anew.

    There may be as many as the program makes placement groups. So of those that have nothing to do no more than
    ``REMEMBERED_SHAPES`` are kept for long.
    """

    def __init__(self) -> None:
        self._shapes: dict[Any, TaskShape] = {}

    def __len__(self) -> int:
        return len(self._shapes)

    def get(self, key: Any) -> TaskShape | None:
        """The shape that is kept for these options."""
        return self._shapes.get(key)

    def keep(self, key: Any, shape: TaskShape) -> None:
        """A new one. The oldest two are looked at, so that all are in time."""
        for oldest in list(islice(self._shapes, 2)):
            if len(self._shapes) < REMEMBERED_SHAPES:
                break
            looked_at = self._shapes.pop(oldest)
            if not looked_at.queue.is_dropped:
                self._shapes[oldest] = looked_at
        self._shapes[key] = shape

    def __repr__(self) -> str:
        return f"<FunctionShapes {len(self._shapes)}>"
