"""When a process asks its daemon about an actor: one of which it knows no worker, and has been told nothing lately.

The daemon tells every change without being asked. Asked it is because what it says may be on another way than what one
hears of an actor elsewhere, and so that who waits for long can be told why.
"""

from __future__ import annotations

from remora.base.ids import short
from remora.messages.actors import RESTARTING, ActorState

EXPLANATION_TIMEOUT_S = 1.0
"""How long the daemon may take to say why an actor's connection has ended, until it is asked."""
PLACEMENT_PATIENCE_S = 2.0
"""How long an actor may wait for a worker until it is asked what for."""
UNKNOWN_PATIENCE_S = 5.0
"""How long an actor whose handle came may be unknown to the daemon: that it was created is told on another way."""
UNKNOWN_RETRY_S = 0.02


class ActorQuestions:
    """The actors that are to be asked about, and when.

    Example:
        >>> questions = ActorQuestions()
        >>> questions.lost(actor, now_s=10.0)       # its connection has ended
        >>> questions.take_due(now_s=12.0)          # and nobody has said why
        [b'...']
    """

    def __init__(self) -> None:
        self._due_s: dict[bytes, float] = {}
        self._unknown_until_s: dict[bytes, float] = {}
        """Until when an actor that nobody knows may still be about to be created."""

    def created(self, actor: bytes, now_s: float) -> None:
        """This process has asked for it; its state is told without a question."""
        self._due_s[actor] = now_s + PLACEMENT_PATIENCE_S

    def lost(self, actor: bytes, now_s: float, patience_s: float = EXPLANATION_TIMEOUT_S) -> None:
        """It has no connection: its node may be alive and the line to it broken, and then it is connected anew."""
        self._due_s[actor] = now_s + patience_s

    def told(self, state: ActorState, was: int, now_s: float) -> bool:
        """The daemon has told its state; *was* is the one that was known.

        False: nobody knows the actor, but perhaps not yet, since its creator has asked for it before it sent the
        handle. That is no news; it is asked again.
        """
        actor = state.actor
        self._due_s.pop(actor, None)
        if state.is_unknown and now_s < self._unknown_until_s.setdefault(actor, now_s + UNKNOWN_PATIENCE_S):
            self._due_s[actor] = now_s + UNKNOWN_RETRY_S
            return False
        self._unknown_until_s.pop(actor, None)
        if state.state == RESTARTING and was != RESTARTING:
            self._due_s[actor] = now_s + PLACEMENT_PATIENCE_S
        return True

    def forget(self, actor: bytes) -> None:
        """Nobody here can call it any more."""
        self._due_s.pop(actor, None)
        self._unknown_until_s.pop(actor, None)

    def take_due(self, now_s: float) -> list[bytes]:
        """The actors to ask about now; again when there is no answer."""
        due = [actor for actor, due_s in self._due_s.items() if now_s >= due_s]
        self._due_s.update(dict.fromkeys(due, now_s + EXPLANATION_TIMEOUT_S))
        return due

    @property
    def is_idle(self) -> bool:
        """Whether there will be nothing to ask until something happens."""
        return not self._due_s

    def __repr__(self) -> str:
        return f"<ActorQuestions {', '.join(map(short, self._due_s))}>"
