"""Telling all nodes what each of them has: changes together, and not too often."""

from __future__ import annotations

from remora.messages.head import MembersChanged, MemberView

VIEW_INTERVAL_S = 0.1
"""Changes of what nodes have are told together, at most so often; a new node is told at once."""


class ChangedViews:
    """What changed since all were told."""

    def __init__(self) -> None:
        self._changed: dict[bytes, MemberView] = {}
        self._due_s: float | None = None
        self._told_s = -VIEW_INTERVAL_S

    def add(self, view: MemberView, is_new: bool, now_s: float) -> None:
        """The node joined, or has something else now."""
        self._changed[view.node] = view
        due_s = now_s if is_new else max(now_s, self._told_s + VIEW_INTERVAL_S)
        self._due_s = due_s if self._due_s is None else min(due_s, self._due_s)

    def drop(self, node: bytes) -> None:
        """The node is no member any more."""
        self._changed.pop(node, None)

    def take(self, now_s: float) -> MembersChanged | None:
        """What is to be told now, if it is time."""
        if self._due_s is None or now_s < self._due_s:
            return None
        self._due_s = None
        self._told_s = now_s
        message = MembersChanged(list(self._changed.values()))
        self._changed.clear()
        return message

    def __repr__(self) -> str:
        return f"<ChangedViews {len(self._changed)} due at {self._due_s}>"
