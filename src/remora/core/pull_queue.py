"""Which pull starts next: by who waits, first come first served inside, within a bound on the bytes in flight."""

from __future__ import annotations

from remora.core.pull_records import Pull, PullPurpose, PullState


class PullQueue:
    """Pulls that wait to start, and how much is in flight of those that have.

    One starts when it fits into the bound, or when nothing as urgent is in flight; what is behind it waits with it.
    """

    __slots__ = ("_in_flight", "_queued", "in_flight_bytes", "limit_bytes")

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.in_flight_bytes = 0
        self._queued: tuple[dict[int, Pull], ...] = tuple({} for _ in PullPurpose)
        self._in_flight = [0 for _ in PullPurpose]

    def __len__(self) -> int:
        return sum(map(len, self._queued))

    def __repr__(self) -> str:
        return f"<PullQueue {len(self)} wait, {sum(self._in_flight)} in flight with {self.in_flight_bytes} bytes>"

    def add(self, pull: Pull) -> None:
        """The pull waits to start."""
        self._queued[pull.purpose][pull.number] = pull

    def remove(self, pull: Pull) -> None:
        """It waits no more, and does not start."""
        del self._queued[pull.purpose][pull.number]

    def set_purpose(self, pull: Pull, purpose: PullPurpose) -> None:
        """Somebody else waits for it now; it comes behind the others of that purpose."""
        if pull.state is PullState.QUEUED:
            del self._queued[pull.purpose][pull.number]
            self._queued[purpose][pull.number] = pull
        else:
            self._in_flight[pull.purpose] -= 1
            self._in_flight[purpose] += 1

    def take_next(self) -> Pull | None:
        """The pull that starts now, which is in flight from here on; None when none may."""
        pull = next((pull for pulls in self._queued for pull in pulls.values()), None)
        if pull is None:
            return None
        is_alone = not any(self._in_flight[: pull.purpose + 1])
        if self.in_flight_bytes + pull.size_bytes > self.limit_bytes and not is_alone:
            return None
        self.remove(pull)
        self.in_flight_bytes += pull.size_bytes
        self._in_flight[pull.purpose] += 1
        return pull

    def left(self, pull: Pull) -> None:
        """It is not in flight any more."""
        self.in_flight_bytes -= pull.size_bytes
        self._in_flight[pull.purpose] -= 1

    def validate(self, in_flight: list[Pull]) -> None:
        """Raise AssertionError when the sums are not those of these pulls."""
        assert self.in_flight_bytes == sum(pull.size_bytes for pull in in_flight), repr(self)
        for purpose in PullPurpose:
            assert self._in_flight[purpose] == sum(pull.purpose == purpose for pull in in_flight), repr(self)
            assert all(pull.state is PullState.QUEUED for pull in self._queued[purpose].values()), repr(self)
