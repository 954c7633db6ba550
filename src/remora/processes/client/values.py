"""What this process knows of the values of refs: making, awaiting, loading and filling them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
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
    PENDING,
    STORED,
    ObjectRef,
)
from remora.core.wanted_values import AS_ARGUMENT, TO_KNOW, TO_READ, WantedValues
from remora.messages.objects import ForgetGet, GetObjects, Location, ObjectValue, Value, WantCopies
from remora.processes.client.inline_budget import COUNTED_FROM_BYTES, InlineBudget
from remora.processes.client.leadership import unsubscribe
from remora.processes.client.pending import PendingCall
from remora.processes.client.refs import ELSEWHERE, CopyLocation, ErrorForNow
from remora.serialization import Serialized, deserialize, deserialize_error, serialize, serialize_system_error

if TYPE_CHECKING:
    from remora.processes.client.client import Client

_pack_pair = Struct(">II").pack

IMMEDIATE_CLASSES = frozenset({int, float, bool, type(None), complex})
SIZED_IMMEDIATE_CLASSES = frozenset({str, bytes})


class CopyLeft(Exception):
    """The copy of a value that was here had to make room for others."""


class FilledReturns:
    """What :meth:`Values.fill_returns` did."""

    __slots__ = ("appeared", "contents", "remote_copies", "waited_for")

    def __init__(self) -> None:
        self.waited_for: list[ObjectRef[Any]] = []
        """Refs that somebody waits for, to be told."""
        self.contents: list[bytes] = []
        """The ids in all values."""
        self.appeared: list[ObjectId] = []
        """Those of them for which a ref was made here."""
        self.remote_copies: list[ObjectId] = []
        """Returns that are stored on another node."""


class Values:
    """The values of this process's refs. Any thread may call the public methods."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._prefix = client.process
        self._next_call: count[int] = client.next_call
        self.wanted = WantedValues()
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

    def put_copies(self, value: Any, copies: int) -> ObjectRef[Any]:
        """A new object that lies in the stores of several nodes, however small it is."""
        object_id = ObjectId(self._prefix + _pack_pair(next(self._next_call), 0))
        serialized = serialize(value)
        location = self._client.arena.store(serialized)
        ref: ObjectRef[Any] = ObjectRef(object_id, STORED, location, tuple(serialized.refs))
        with self._client.lock:
            self._client.refs.publish(ref)
            if self._client.is_in_cluster:
                self._client.send_to_daemon(WantCopies([object_id], copies))
        self._client.flush_daemon()
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
        if self._client.is_in_cluster:
            return self._read_in_turn([ref], timeout_s, copy)[0]
        if state < FIRST_FINISHED:
            self._await([ref], timeout_s)
        return self.load(ref, copy)

    def get_many(self, refs: list[ObjectRef[Any]], timeout_s: float | None, copy: bool = False) -> list[Any]:
        """See :meth:`remora.base.runtime.Runtime.get_many`."""
        if self._client.is_in_cluster:
            return self._read_in_turn(refs, timeout_s, copy)
        for ref in refs:
            if ref.state < FIRST_FINISHED:
                self._await(refs, timeout_s)
                break
        load = self.load
        return [ref.data if ref.state == IMMEDIATE else load(ref, copy) for ref in refs]

    def load(self, ref: ObjectRef[Any], copy: bool = False) -> Any:
        """The value of a finished ref, or its error raised.

        Raises:
            CopyLeft: it is on another node again. Never of what is in use (:meth:`using`).
        """
        state = ref.state
        if state == IMMEDIATE:
            return ref.data
        if state == FAILED:
            error = ref.data
            if isinstance(error, Location):  # another thread has asked again
                raise CopyLeft
            raise deserialize_error(error)
        resolve = None
        if ref.contents:
            with self._client.lock:
                resolve = self._client.refs.unpack(ref)
        if state == INLINE:
            data = ref.data
        else:
            with self._client.lock:  # under which a copy is let go of
                if ref.state != STORED:
                    raise CopyLeft
                data = self._client.arena.view(ref.data, ref)
        return deserialize(data, resolve, object_id=ref.id, writable=copy)

    def _await(self, refs: list[ObjectRef[Any]], timeout_s: float | None) -> None:
        """Until all are finished, or one of them, in their order, has failed."""
        self._want_here(refs)
        deadline_s = None if timeout_s is None else monotonic() + timeout_s
        wait_until = self._client.wait_until
        for ref in refs:
            if ref.state >= FIRST_FINISHED:
                if ref.state == FAILED:
                    return
                continue
            if not wait_until(lambda ref=ref: ref.state >= FIRST_FINISHED, deadline_s, ref):  # type: ignore[misc]
                raise self._timeout_error(refs, ref, timeout_s)

    def _read_in_turn(self, refs: list[ObjectRef[Any]], timeout_s: float | None, copy: bool) -> list[Any]:
        """Await and load one after the other. All are on their way at once, but each may leave until its turn comes:
        together they may be more than the store of this node holds.
        """
        self.ask_again(refs)
        if any(ref.state < FIRST_FINISHED for ref in refs):
            self._want_here(refs)
        deadline_s = None if timeout_s is None else monotonic() + timeout_s
        wait_until = self._client.wait_until
        values = []
        for ref in refs:
            if ref.state == PENDING and not wait_until(lambda ref=ref: ref.state != PENDING, deadline_s, ref):  # type: ignore[misc]
                raise self._timeout_error(refs, ref, timeout_s)
            state = ref.state
            if state == IMMEDIATE:
                values.append(ref.data)
            elif state == INLINE:
                values.append(self.load(ref, copy))
            else:
                with self.using(ref):
                    self.request([ref] if ref.state == BORROWED else ())
                    if not wait_until(lambda ref=ref: ref.state >= FIRST_FINISHED, deadline_s, ref):  # type: ignore[misc]
                        raise self._timeout_error(refs, ref, timeout_s)
                    values.append(self.load(ref, copy))
        return values

    @contextmanager
    def using(self, ref: ObjectRef[Any]) -> Iterator[None]:
        """What is here, or comes here, of the value of *ref* stays meanwhile."""
        lock = self._client.lock
        with lock:
            self.wanted.begin_use(ref.id)
        try:
            yield
        finally:
            with lock:
                self.wanted.end_use(ref.id)

    def ask_again(self, refs: Iterable[ObjectRef[Any]]) -> None:
        """Somebody begins to read these: those that could not be brought here are borrowed again. Not what another
        thread is about to read, which shall see the error.
        """
        for ref in refs:
            if ref.state == FAILED and type(ref.data) is ErrorForNow:
                with self._client.lock:
                    error = ref.data
                    if type(error) is ErrorForNow and not self.wanted.is_in_use(ref.id):
                        ref.data = error.location
                        ref.state = BORROWED

    def _want_here(self, refs: Iterable[ObjectRef[Any]]) -> None:
        """The values of these are to come to this node: now, or as soon as they are made on another one."""
        borrowed = [ref for ref in refs if ref.state == BORROWED]
        if borrowed:
            self.request(borrowed)
        if self._client.is_in_cluster:
            with self._client.lock:
                self.wanted.when_made.update(ref.id for ref in refs if ref.state == PENDING)
                borrowed = [ref for ref in refs if ref.state == BORROWED]
            self.request(borrowed)  # those that came to be on another node meanwhile

    def view(self, ref: ObjectRef[Any]) -> memoryview:
        """The stored value of *ref*, an argument of a task; it is fetched if it is on another node.

        It stays where it is as long as the view lives.

        Raises:
            RemoraError: it is lost, or there is no room for it.
        """
        self.ask_again([ref])
        with self.using(ref):
            if ref.state < FIRST_FINISHED:
                self.request([ref], AS_ARGUMENT)
                self._client.wait_until(lambda: ref.state >= FIRST_FINISHED or self._client.ended, None, ref)
                self._client.check_alive()
            if ref.state == FAILED:
                raise deserialize_error(ref.data)
            return self._client.arena.view(ref.data, ref)

    def _timeout_error(
        self, refs: list[ObjectRef[Any]], first: ObjectRef[Any], timeout_s: float | None
    ) -> GetTimeoutError:
        missing = sum(ref.state < FIRST_FINISHED for ref in refs)
        of_what = f"object {short(first.id)} is" if len(refs) == 1 else f"{missing} of {len(refs)} objects are"
        return GetTimeoutError(f"{of_what} not ready after {timeout_s} s; {self._client.describe_pending(first)}")

    def request(self, refs: Iterable[ObjectRef[Any]], purpose: int = TO_READ) -> None:
        """Ask the daemon for the values of borrowed refs, once each."""
        self._client.check_alive()
        with self._client.lock:
            ids = self.wanted.ask((ref.id for ref in refs), purpose)
            if not ids:
                return
            self._client.send_to_daemon(GetObjects(ids, purpose))
        self._client.nudge()

    def on_refs_died(self, ids: Iterable[bytes]) -> None:
        """Nobody here can use their values any more, not even who gave up waiting and might have come again."""
        unwanted = self.wanted.died(one for one in ids if self._client.refs.find(one) is None)
        if unwanted:
            self._client.send_to_daemon(ForgetGet(unwanted))

    # ------------------------------------------------------------------ waiting

    def wait(
        self, refs: list[ObjectRef[Any]], num_returns: int, timeout_s: float | None, fetch_local: bool
    ) -> tuple[list[ObjectRef[Any]], list[ObjectRef[Any]]]:
        """See :meth:`remora.base.runtime.Runtime.wait`."""
        found = split_ready(refs, num_returns)
        if len(found[0]) == num_returns:
            return found
        missing = [ref for ref in refs if ref.state < FIRST_FINISHED]
        if fetch_local:
            self._want_here(missing)
        else:
            self.request([ref for ref in missing if ref.state == BORROWED and ref.data is None], TO_KNOW)
        is_missing: Callable[[ObjectRef[Any]], bool] = is_unknown
        if fetch_local:
            is_missing = has_not_come if self._client.is_in_cluster else is_unfinished
        allowed = len(refs) - num_returns

        def enough() -> bool:
            nonlocal missing
            missing = [ref for ref in missing if is_missing(ref)]
            return len(missing) <= allowed

        self._client.wait_until(enough, None if timeout_s is None else monotonic() + timeout_s)
        return split(refs, num_returns, is_missing)

    # ------------------------------------------------------------------ filling

    def fill_returns(self, record: PendingCall, returns: list[Value], worker: ProcessId) -> FilledReturns:
        """Give the refs of a call their values. Wants the lock."""
        filled = FilledReturns()
        refs = record.return_refs()
        if len(returns) == 1 and len(refs) != 1:
            returns = returns * len(refs)  # one error for all, and for nobody when nothing is returned
        for ref, value in zip(refs, returns, strict=True):
            if ref.state >= FIRST_FINISHED:
                # It has an error already. What the worker keeps for this process must still be taken off it.
                filled.contents += value.contents
                if self._is_elsewhere(value):
                    filled.remote_copies.append(ref.id)  # the acknowledgement says that nobody wants it
                elif value.state == STORED:
                    self._client.refs.machine.drop_copy(ref.id, worker)
                continue
            if value.contents:
                inner, new = self._client.refs.instances(value.contents)
                ref.contents = tuple(inner)
                filled.contents += value.contents
                filled.appeared += new
            if self._is_elsewhere(value):
                filled.remote_copies.append(ref.id)
            self._set(ref, value, worker)
            if ref.waiters is not None:
                filled.waited_for.append(ref)
        return filled

    def _is_elsewhere(self, value: Value) -> bool:
        return value.location is not None and value.location.node != self._client.node

    def _set(self, ref: ObjectRef[Any], value: Value, writer: ProcessId | None) -> None:
        location = value.location
        ref.data = value.data if location is None else location
        ref.state = BORROWED if self._is_elsewhere(value) else value.state
        ref.task = None
        if len(value.data) >= COUNTED_FROM_BYTES:
            self.inline_budget.hold(ref, len(value.data))
        if ref.published:
            self._client.refs.resolve(ref, writer if location is not None else None)
        elif location is not None:
            self._client.refs.publish(ref, writer)
        if self.wanted.when_made and self.wanted.made(ref.id) and ref.state == BORROWED:
            self.request([ref])

    def fail(self, refs: Iterable[ObjectRef[Any]], data: bytes) -> None:
        """Give refs an error, and wake who waits for them. Not under the lock."""
        self.settle(refs, Value(FAILED, data))

    def settle(self, refs: Iterable[ObjectRef[Any]], value: Value) -> None:
        """Give refs that have none a value without refs in it, and wake who waits for them. Not under the lock."""
        waited_for = []
        with self._client.lock:
            for ref in refs:
                if ref.state < FIRST_FINISHED:
                    self._set(ref, value, None)
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
            ref = self._client.refs.find(message.id)
            location = message.value.location
            if location is not None and location.node != self._client.node:
                # The answer to who only wants to know; who wants to read is answered when it is here.
                self.wanted.answered(message.id, is_here=False)
                if ref is not None and ref.state < FIRST_FINISHED:
                    ref.contents = ref.contents or tuple(message.value.contents)
                    ref.data = location
                return ref
            self.wanted.answered(message.id, is_here=True)
            if ref is None or ref.state >= FIRST_FINISHED:
                # Who waits for it is told also when it came meanwhile, as the argument of a call that runs here.
                return ref
            value = message.value
            if message.for_now:
                error = ErrorForNow(value.data)
                error.location = ref.data or Location(ELSEWHERE, 0, 0)
                ref.data = error
                ref.state = FAILED
                return ref
            ref.contents = tuple(value.contents)
            ref.data = value.data if location is None else location
            if message.evictable and location is not None:
                ref.data = CopyLocation(location.node, location.offset, location.size_bytes)
            ref.state = value.state
        return ref

    def release_copies(self, ids: Iterable[bytes]) -> list[bytes]:
        """The node needs space: those of *ids*, copies of values on other nodes, that are not in use here.

        Their refs are borrowed again. Calls do not matter: nobody was told in one of such a place. Wants the lock.
        """
        client = self._client
        viewed: set[bytes] = {pin.kept.id for pin in client.arena.pins() if type(pin.kept) is ObjectRef}
        released = self.wanted.may_leave(ids, viewed)
        for object_id in released:
            ref = client.refs.find(object_id)
            if ref is not None and ref.state == STORED:
                ref.data = Location(ELSEWHERE, 0, ref.data.size_bytes)
                ref.state = BORROWED
        return released


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


def split(
    refs: list[ObjectRef[Any]], num_returns: int, is_missing: Callable[[ObjectRef[Any]], bool]
) -> tuple[list[ObjectRef[Any]], list[ObjectRef[Any]]]:
    """The same, with another meaning of finished."""
    ready = [ref for ref in refs if not is_missing(ref)][:num_returns]
    chosen = set(map(id, ready))
    return ready, [ref for ref in refs if id(ref) not in chosen]


def is_unfinished(ref: ObjectRef[Any]) -> bool:
    """Whether the ref has no value on this node."""
    return ref.state < FIRST_FINISHED


def has_not_come(ref: ObjectRef[Any]) -> bool:
    """The same, but one whose copy was here and had to leave has come: else a store that is too small for all that is
    waited for would make the wait endless.
    """
    return ref.state < FIRST_FINISHED and (ref.state == PENDING or ref.data is None or ref.data.node != ELSEWHERE)


def is_unknown(ref: ObjectRef[Any]) -> bool:
    """Whether the ref is not known to have a value, here or on another node."""
    return ref.state < FIRST_FINISHED and (ref.state == PENDING or ref.data is None)


def tell_waiters(ref: ObjectRef[Any]) -> None:
    """Call back whoever waits for the ref, which has its value. Not under a lock: futures run user code."""
    if ref.state == BORROWED:
        # Its value is on another node: that is enough for some of them, and the others are told again.
        # Who stayed listed for nothing might keep the ref alive, which keeps its list.
        for callback in tuple(ref.waiters or ()):
            if callback(ref) is True:
                unsubscribe(ref, callback)
        return
    waiters, ref.waiters = ref.waiters, None
    for callback in waiters or ():
        callback(ref)


def location_of(value: Value) -> Location:
    """The location of a stored value."""
    if value.location is None:
        raise ValueError("a stored value without a location")
    return value.location
