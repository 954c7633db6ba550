"""The arguments of calls: from what the user passed to a message that can leave.

Top-level refs are awaited and replaced by their values; nested refs are listed and published; arguments that are too
large for a message lie in the arena as an object of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from remora.base.limits import INLINE_LIMIT_BYTES, MAX_INLINE_BYTES
from remora.base.object_ref import BORROWED, FAILED, PENDING, STORED, ObjectRef
from remora.base.options import is_retried
from remora.core.wanted_values import TO_KNOW
from remora.messages.objects import Value
from remora.messages.tasks import Argument, Task
from remora.processes.client.leadership import subscribe, unsubscribe
from remora.processes.client.peers import Peer
from remora.processes.client.pending import PendingCall
from remora.processes.client.refs import ELSEWHERE, ErrorForNow, Refs, value_of
from remora.processes.client.values import is_unknown
from remora.serialization import deserialize_error, serialize_arguments

if TYPE_CHECKING:
    from remora.processes.client.client import Client

Dispatch = Callable[[PendingCall], None]


class Arguments:
    """Attaches arguments to pending calls."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._unresolved: dict[int, PendingCall] = {}

    def unresolved(self) -> list[PendingCall]:
        """Calls that wait for the values of their arguments. Wants the lock; for inspection."""
        return [record for record in self._unresolved.values() if not record.is_cancelled]

    def attach(
        self, record: PendingCall, args: tuple[Any, ...], kwargs: dict[str, Any], captured: tuple[ObjectRef[Any], ...]
    ) -> bool:
        """Serialize the arguments into the call's message. Whether it can be sent now; if not, :meth:`when_resolved`.

        Raises:
            SerializationError: an argument cannot be pickled; its path is named.
        """
        message = record.message
        stored: tuple[ObjectRef[Any], ...] = ()
        nested = captured
        top_level: list[ObjectRef[Any]] = []
        if args or kwargs:
            serialized, top_level = serialize_arguments(args, kwargs, function_name=record.name)
            if serialized.size_bytes <= INLINE_LIMIT_BYTES:
                message.arguments = serialized.to_bytes()
                if not top_level and not serialized.refs and not captured:
                    return True
            else:
                ref = self._client.values.store_arguments(serialized)
                message.stored = Argument(ref.id, value_of(ref))
                stored = (ref,)
            nested = (*serialized.refs, *captured)
        record.references = (*nested, *top_level, *stored)
        record.top_level = tuple(top_level)
        message.refs = tuple([ref.id for ref in nested])
        with self._client.lock:
            for ref in nested:
                self._client.refs.publish(ref)
        for ref in top_level:
            if is_unknown(ref):
                return False
        return self._complete(record)

    def when_resolved(self, record: PendingCall, dispatch: Dispatch) -> None:
        """Call ``dispatch(record)``, perhaps at once, when every top-level ref has a value and none is an error."""
        waiting = {ref: None for ref in record.top_level if is_unknown(ref)}

        def resolved(ref: ObjectRef[Any]) -> bool:
            # May be told twice of a ref, by two threads.
            with self._client.lock:
                if ref not in waiting:
                    return True
                del waiting[ref]
                if waiting:
                    return True
                del self._unresolved[record.call]
            if not record.is_cancelled and self._complete(record):
                dispatch(record)
            return True

        if not waiting:
            if self._complete(record):
                dispatch(record)
            return
        pending = list(waiting)
        with self._client.lock:
            self._unresolved[record.call] = record
        self._client.values.request([ref for ref in pending if ref.state == BORROWED], TO_KNOW)
        for ref in pending:
            subscribe(ref, resolved)
            if not is_unknown(ref) and resolved(ref):  # it came to be on another node before it was subscribed to
                unsubscribe(ref, resolved)

    def pass_pending(self, record: PendingCall) -> None:
        """Put what is known of the top-level refs into the message; whoever runs it awaits the others."""
        with self._client.lock:
            for ref in record.top_level:
                self._client.refs.publish(ref)
            record.message.values = values_of(record.top_level)

    def _complete(self, record: PendingCall) -> bool:
        """All top-level refs have values: put them into the message. False when one of them is an error."""
        for ref in record.top_level:
            if ref.state == FAILED and type(ref.data) is not ErrorForNow:
                self._client.values.fail(record.return_refs(), ref.data)
                self._client.forget_call(record)
                return False
        values = values_of(record.top_level)
        with self._client.lock:
            for ref, argument in zip(record.top_level, values, strict=True):
                if ref.state == STORED or argument.value.state == PENDING:
                    self._client.refs.publish(ref)
                for inner in ref.contents:
                    if type(inner) is ObjectRef:
                        self._client.refs.publish(inner)
        record.message.values = values
        return True

    def may_retry(self, record: PendingCall, error: Value) -> bool:
        """Whether ``retry_exceptions`` covers the error that the call raised."""
        wanted = record.retry_exceptions
        if not wanted or not record.retries_left:
            return False
        if wanted is True:
            return True
        cause = getattr(deserialize_error(error.data), "cause", None)
        return isinstance(cause, BaseException) and is_retried(wanted, cause)


def values_of(refs: Iterable[ObjectRef[Any]]) -> tuple[Argument, ...]:
    """What takes the places of top-level refs in a call that is sent now.

    What is not known yet, and what is too much for one message, is awaited by who runs the call.
    """
    arguments = [Argument(ref.id, Value(PENDING) if is_unknown(ref) else value_of(ref)) for ref in refs]
    if len(arguments) * INLINE_LIMIT_BYTES > MAX_INLINE_BYTES:
        room_bytes = MAX_INLINE_BYTES
        for position, argument in enumerate(arguments):
            size_bytes = len(argument.value.data)
            if size_bytes <= room_bytes:
                room_bytes -= size_bytes
            else:
                arguments[position] = Argument(argument.id, Value(PENDING))
    return tuple(arguments)


def without_places(arguments: Iterable[Argument]) -> tuple[Argument, ...]:
    """The same for a call that somebody else sends, some time: where stored values lie is found out then."""
    return tuple(
        [
            argument
            if argument.value.location is None
            else Argument(
                argument.id, replace(argument.value, location=replace(argument.value.location, node=ELSEWHERE))
            )
            for argument in arguments
        ]
    )


def listed_ids(task: Task) -> list[bytes]:
    """The ids that travel in a call: nested and captured refs, refs inside inlined values, stored arguments."""
    ids = list(task.refs)
    for argument in task.values:
        if argument.value.location is not None or argument.value.state == PENDING:
            ids.append(argument.id)
        ids += argument.value.contents
    if task.stored is not None:
        ids.append(task.stored.id)
    return ids


def put_on_wire(refs: Refs, peer: Peer, call: PendingCall) -> list[Any]:
    """Put the call into the peer's next frame, behind its function if that is new there; the frame. Wants the lock."""
    outgoing = peer.outgoing
    message = call.message
    if message.function not in peer.defined:
        peer.defined.add(message.function)
        outgoing.append(call.function.definition)
    if call.references:
        if refs.may_move and call.top_level:
            message.values = values_of(call.top_level)  # a copy may have left this node while the call waited
        refs.call_sent(peer.process, call.call, listed_ids(message), call.references)
    outgoing.append(message)
    return outgoing
