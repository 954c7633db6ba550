"""What this process knows of the values of refs: making, awaiting, loading and filling them."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import count
from struct import Struct
from time import monotonic
from typing import TYPE_CHECKING, Any

from remora.base.errors import GetTimeoutError, LocalRayletDiedError, RemoraError
from remora.base.ids import ObjectId, ProcessId, short
from remora.base.limits import INLINE_LIMIT_BYTES
from remora.base.object_ref import (
    BORROWED,
    FAILED,
    FIRST_FINISHED,
    IMMEDIATE,
    INLINE,
    STORED,
    ObjectRef,
)
from remora.messages.objects import GetObjects, Location, ObjectValue, Value
from remora.processes.client.inline_budget import COUNTED_FROM_BYTES, InlineBudget
from remora.processes.client.pending import PendingCall
from remora.serialization import Serialized, deserialize, deserialize_error, serialize, serialize_system_error

if TYPE_CHECKING:
    from remora.processes.client.client import Client

_pack_pair = Struct(">II").pack

IMMEDIATE_CLASSES = frozenset({int, float, bool, type(None), complex})
SIZED_IMMEDIATE_CLASSES = frozenset({str, bytes})


class Values:
    """The values of this process's refs. Any thread may call the public methods."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._prefix = client.process
        self._next_call: count[int] = client.next_call
        self._asked: set[bytes] = set()
        self.inline_budget = InlineBudget()

    # ------------------------------------------------------------------ making

    def put(self, value: Any) -> ObjectRef[Any]:
        """A new object with this value."""
        value_class = type(value)
        object_id = ObjectId(self._prefix + _pack_pair(next(self._next_call), 0))
        # Nobody can change these, so they are their own copies; they are serialized when they leave the process.
        if value_class in IMMEDIATE_CLASSES:
            return ObjectRef(object_id, IMMEDIATE, value)
        if value_class in SIZED_IMMEDIATE_CLASSES and len(value) <= INLINE_LIMIT_BYTES:
            ref: ObjectRef[Any] = ObjectRef(object_id, IMMEDIATE, value)
            if len(value) < COUNTED_FROM_BYTES or self._keep_inline(ref, len(value)):
                return ref
        if self._client.arena.has_created:
            sealed = self._put_created(object_id, value)
            if sealed is not None:
                return sealed
        return self.put_serialized(object_id, serialize(value))

    def put_serialized(self, object_id: ObjectId, serialized: Serialized) -> ObjectRef[Any]:
        """A new object; large ones go to the arena, and so do others when many are in this process already."""
        size_bytes = serialized.size_bytes
        if size_bytes < COUNTED_FROM_BYTES:
            return ObjectRef(object_id, INLINE, serialized.to_bytes(), tuple(serialized.refs))
        if size_bytes <= INLINE_LIMIT_BYTES:
            inline: ObjectRef[Any] = ObjectRef(object_id, INLINE, None, tuple(serialized.refs))
            if self._keep_inline(inline, size_bytes):
                inline.data = serialized.to_bytes()
                return inline
        location = self._client.arena.store(serialized)
        ref: ObjectRef[Any] = ObjectRef(object_id, STORED, location, tuple(serialized.refs))
        with self._client.lock:
            self._client.arena.publish_soon(ref)
        self._client.leadership.nudge_soon()
        return ref

    def _keep_inline(self, ref: ObjectRef[Any], size_bytes: int) -> bool:
        """Whether a value of this size may stay in this process; it is counted for as long as *ref* lives."""
        with self._client.lock:
            return self.inline_budget.try_hold(ref, size_bytes)

    def _put_created(self, object_id: ObjectId, value: Any) -> ObjectRef[Any] | None:
        with self._client.lock:
            ref = self._client.arena.seal(value, object_id)
            if ref is None:
                return None
            self._client.refs.publish(ref)
        self._client.leadership.nudge_soon()
        return ref

    def store_arguments(self, serialized: Serialized) -> ObjectRef[Any]:
        """Arguments too large for a message, as an object. The refs in them travel in the call itself."""
        object_id = ObjectId(self._prefix + _pack_pair(next(self._next_call), 0))
        location = self._client.arena.store(serialized)
        ref: ObjectRef[Any] = ObjectRef(object_id, STORED, location)
        with self._client.lock:
            self._client.refs.publish(ref)
        return ref

    # ------------------------------------------------------------------ getting

    def get_one(self, ref: ObjectRef[Any], timeout_s: float | None, copy: bool = False) -> Any:
        """See :meth:`remora.base.runtime.Runtime.get_one`."""
        state = ref.state
        if state == IMMEDIATE:
            return ref.data
        if state < FIRST_FINISHED:
            self._await([ref], timeout_s)
        return self.load(ref, copy)

    def get_many(self, refs: list[ObjectRef[Any]], timeout_s: float | None, copy: bool = False) -> list[Any]:
        """See :meth:`remora.base.runtime.Runtime.get_many`."""
        for ref in refs:
            if ref.state < FIRST_FINISHED:
                self._await(refs, timeout_s)
                break
        load = self.load
        return [ref.data if ref.state == IMMEDIATE else load(ref, copy) for ref in refs]

    def load(self, ref: ObjectRef[Any], copy: bool = False) -> Any:
        """The value of a finished ref, or its error raised."""
        state = ref.state
        if state == IMMEDIATE:
            return ref.data
        if state == FAILED:
            raise deserialize_error(ref.data)
        resolve = None
        if ref.contents:
            with self._client.lock:
                resolve = self._client.refs.unpack(ref)
        if state == INLINE:
            data = ref.data
        else:
            data = self._client.arena.view(ref.data, ref)
        return deserialize(data, resolve, object_id=ref.id, writable=copy)

    def _await(self, refs: list[ObjectRef[Any]], timeout_s: float | None) -> None:
        """Until all are finished, or one of them, in their order, has failed."""
        borrowed = [ref for ref in refs if ref.state == BORROWED]
        if borrowed:
            self.request(borrowed)
        deadline_s = None if timeout_s is None else monotonic() + timeout_s
        wait_until = self._client.wait_until
        for ref in refs:
            if ref.state >= FIRST_FINISHED:
                if ref.state == FAILED:
                    return
                continue
            if not wait_until(lambda ref=ref: ref.state >= FIRST_FINISHED, deadline_s, ref):  # type: ignore[misc]
                raise self._timeout_error(refs, ref, timeout_s)

    def _timeout_error(
        self, refs: list[ObjectRef[Any]], first: ObjectRef[Any], timeout_s: float | None
    ) -> GetTimeoutError:
        missing = sum(ref.state < FIRST_FINISHED for ref in refs)
        of_what = f"object {short(first.id)} is" if len(refs) == 1 else f"{missing} of {len(refs)} objects are"
        return GetTimeoutError(f"{of_what} not ready after {timeout_s} s; {self._client.describe_pending(first)}")

    def request(self, refs: Iterable[ObjectRef[Any]]) -> None:
        """Ask the daemon for the values of borrowed refs, once each."""
        self._client.check_alive()
        with self._client.lock:
            ids = [ref.id for ref in refs if ref.id not in self._asked]
            if not ids:
                return
            self._asked.update(ids)
            self._client.send_to_daemon(GetObjects(list(dict.fromkeys(ids))))
        self._client.nudge()

    # ------------------------------------------------------------------ waiting

    def wait(
        self, refs: list[ObjectRef[Any]], num_returns: int, timeout_s: float | None, fetch_local: bool
    ) -> tuple[list[ObjectRef[Any]], list[ObjectRef[Any]]]:
        """See :meth:`remora.base.runtime.Runtime.wait`."""
        split = split_ready(refs, num_returns)
        if len(split[0]) == num_returns:
            return split
        missing = [ref for ref in refs if ref.state < FIRST_FINISHED]
        borrowed = [ref for ref in missing if ref.state == BORROWED]
        if borrowed:
            self.request(borrowed)
        allowed = len(refs) - num_returns

        def enough() -> bool:
            nonlocal missing
            missing = [ref for ref in missing if ref.state < FIRST_FINISHED]
            return len(missing) <= allowed

        self._client.wait_until(enough, None if timeout_s is None else monotonic() + timeout_s)
        return split_ready(refs, num_returns)

    # ------------------------------------------------------------------ filling

    def fill_returns(
        self, record: PendingCall, returns: list[Value], worker: ProcessId
    ) -> tuple[list[ObjectRef[Any]], list[bytes], list[ObjectId]]:
        """Give the refs of a call their values. Wants the lock.

        Returns:
            The refs that somebody waits for, the ids in all values, and those for which a ref was made here.
        """
        waited_for: list[ObjectRef[Any]] = []
        contents: list[bytes] = []
        appeared: list[ObjectId] = []
        refs = record.return_refs()
        if len(returns) == 1 and len(refs) != 1:
            returns = returns * len(refs)  # one error for all, and for nobody when nothing is returned
        for ref, value in zip(refs, returns, strict=True):
            if ref.state >= FIRST_FINISHED:
                # It has an error already. What the worker keeps for this process must still be taken off it.
                contents += value.contents
                if value.state == STORED:
                    self._client.refs.machine.drop_copy(ref.id, worker)
                continue
            if value.contents:
                inner, new = self._client.refs.instances(value.contents)
                ref.contents = tuple(inner)
                contents += value.contents
                appeared += new
            self._set(ref, value, worker)
            if ref.waiters is not None:
                waited_for.append(ref)
        return waited_for, contents, appeared

    def _set(self, ref: ObjectRef[Any], value: Value, writer: ProcessId | None) -> None:
        ref.data = value.location if value.state == STORED else value.data
        ref.state = value.state
        ref.task = None
        if len(value.data) >= COUNTED_FROM_BYTES:
            self.inline_budget.hold(ref, len(value.data))
        if ref.published:
            self._client.refs.resolve(ref, writer if value.state == STORED else None)
        elif value.state == STORED:
            self._client.refs.publish(ref, writer)

    def fail(self, refs: Iterable[ObjectRef[Any]], data: bytes) -> None:
        """Give refs an error, and wake who waits for them. Not under the lock."""
        waited_for = []
        with self._client.lock:
            for ref in refs:
                if ref.state < FIRST_FINISHED:
                    self._set(ref, Value(FAILED, data), None)
                    waited_for.append(ref)
            self._client.refs.carry_out()
        for ref in waited_for:
            tell_waiters(ref)

    def lose_stored(self, reason: str) -> None:
        """The store is out of reach: what lies there must not be looked for in another one. Views stay."""
        data = serialize_system_error(LocalRayletDiedError(f"the object is lost with its session: {reason}"))
        with self._client.lock:
            self._client.arena.drain()
            for ref in self._client.refs.live():
                if ref.state == STORED:
                    ref.data = data
                    ref.state = FAILED

    def fail_call(self, record: PendingCall, error: RemoraError) -> None:
        """The call ends with an error of the system's."""
        self.fail(record.return_refs(), serialize_system_error(error))

    def on_value(self, message: ObjectValue) -> ObjectRef[Any] | None:
        """The daemon tells the value of a borrowed ref. Returns the ref, whose waiters are to be told, if it lives."""
        with self._client.lock:
            self._asked.discard(message.id)
            ref = self._client.refs.find(message.id)
            if ref is None or ref.state >= FIRST_FINISHED:
                return None
            value = message.value
            ref.contents = tuple(value.contents)
            ref.data = value.location if value.state == STORED else value.data
            ref.state = value.state
        return ref


def split_ready(refs: list[ObjectRef[Any]], num_returns: int) -> tuple[list[ObjectRef[Any]], list[ObjectRef[Any]]]:
    """The first *num_returns* finished refs, or all that are, and all others; both in order.

    Looks no further than it must: in a loop that waits for one of many at a time, the first is often finished.
    """
    ready: list[ObjectRef[Any]] = []
    not_ready: list[ObjectRef[Any]] = []
    for index, ref in enumerate(refs):
        if ref.state >= FIRST_FINISHED:
            ready.append(ref)
            if len(ready) == num_returns:
                not_ready += refs[index + 1 :]
                return ready, not_ready
        else:
            not_ready.append(ref)
    return ready, not_ready


def tell_waiters(ref: ObjectRef[Any]) -> None:
    """Call back whoever waits for the ref, which has its value. Not under a lock: futures run user code."""
    waiters, ref.waiters = ref.waiters, None
    for callback in waiters or ():
        callback(ref)


def location_of(value: Value) -> Location:
    """The location of a stored value."""
    if value.location is None:
        raise ValueError("a stored value without a location")
    return value.location
