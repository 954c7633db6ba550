"""A driver or worker of a simulated cluster: what its code has in its variables, and the calls that it runs.

User code is played by whoever drives the world: it acts inside a :class:`Frame`, which is a task, a method, a
constructor, or the globals of the process. What ``processes/worker`` does around user code is done here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from remora.base.ids import ObjectId, ProcessId, call_and_item_of, make_object_id, make_task_id, node_of, process_of
from remora.base.object_ref import BORROWED, FAILED, INLINE, PENDING, STORED
from remora.messages import actors as a
from remora.messages import counting as c
from remora.messages.leases import WORKER_BLOCKED, WORKER_IDLE, WORKER_RUNNING, LeaseEnded, WorkerState
from remora.messages.objects import GetObjects, HomeDied, Location, ObjectValue, ReleaseCopies, Value
from remora.messages.session import Leaving, SessionEnded
from remora.messages.tasks import Argument, Done, HandedBack, Reply, ReplyAck, Task
from remora.testing.cluster_calls import ProcessCalls, listed_ids
from remora.testing.cluster_network import REPLIES, End, Unit
from remora.testing.cluster_refs import AS_ARGUMENT, LiveRef

if TYPE_CHECKING:
    from remora.testing.cluster_world import World

Key = tuple[ProcessId, int]
"""Submitter and call."""


class Frame:
    """Code that runs, and its variables. ``pins`` are arguments that it looks at without having refs to them."""

    def __init__(self, name: str, key: Key | None = None, task: Task | None = None) -> None:
        self.name = name
        self.key = key
        self.task = task
        self.variables: list[ObjectId] = []
        self.pins: list[ObjectId] = []
        self.groups: list[bytes] = []
        self.awaited: set[ObjectId] = set()
        self.children: set[ObjectId] = set()
        """Results of its own calls that wait for no values."""
        self.is_orphaned = False
        self.is_constructor = False
        self.argument_error = b""

    @property
    def is_waiting(self) -> bool:
        """Whether the code waits for a value."""
        return bool(self.awaited)

    def __repr__(self) -> str:
        return f"<Frame {self.name}{' waits' if self.is_waiting else ''}>"


class SimulatedProcess(ProcessCalls):
    """One driver or worker."""

    def __init__(self, world: World, process: ProcessId, job: ProcessId, worker_number: int) -> None:
        super().__init__(world, process)
        self.job = job
        self.worker_number = worker_number
        self.main = Frame("main")
        """Globals, and the attributes of the actor."""
        self.queue: deque[tuple[ProcessId, Task]] = deque()
        self.running: dict[Key, Frame] = {}
        self.submitters: set[ProcessId] = set()
        self.actor: ObjectId | None = None
        self.incarnation = 0
        self._max_running = 1
        self._hands_back = worker_number > 0
        self._construct: a.ConstructActor | None = None
        self.is_ending = False
        self._reports_idle = False
        self._blocked_frames = 0

    @property
    def is_driver(self) -> bool:
        """Whether it is the process of a user's program."""
        return self.worker_number == 0

    def frames(self) -> list[Frame]:
        """Code that may act now."""
        frames = [frame for frame in self.running.values() if not frame.is_waiting]
        return [self.main, *frames] if self.is_driver else frames

    # ------------------------------------------------------------------ what arrives

    def receive(self, sender: bytes, unit: Unit, lane: int = 0) -> None:
        """One unit, and all that follows from it at once."""
        message = unit[0]
        if sender == self.node:
            self._from_daemon(message)
        elif lane == REPLIES:
            self.from_worker(ProcessId(sender), message)
        else:
            self._from_submitter(ProcessId(sender), message)
        self.end_turn()

    def end_turn(self) -> None:
        """What was put off, and what an idle worker owes."""
        self.run_later()
        if self._reports_idle and not self.queue and not self.running:
            self._reports_idle = False
            self.tell_daemon(WorkerState(WORKER_IDLE))

    def _from_daemon(self, message: Any) -> None:
        if isinstance(message, c.Ack):
            self.refs.acknowledged([ObjectId(one) for one in message.ids], message.ok)
        elif isinstance(message, c.PublishAck):
            self.refs.publish_acknowledged([ObjectId(one) for one in message.ids])
        elif isinstance(message, c.Ping):
            self.refs.pinged(message.number)
        elif isinstance(message, ObjectValue):
            self.value_arrived(message)
        elif isinstance(message, ReleaseCopies):
            self.release_copies(message)
        elif isinstance(message, HomeDied):
            self.offer_values(message)
        elif isinstance(message, SessionEnded | a.EndActor):
            self.is_ending = True
        elif isinstance(message, a.ConstructActor):
            self._construct = message
        elif isinstance(message, LeaseEnded):
            self._reports_idle = True
        elif isinstance(message, End):
            self.world.end_process(self.process, "its daemon is gone")
        elif not self.from_daemon(message):
            raise AssertionError(f"nothing in {self.process!r} expects {message!r}")
        self.carry_out()

    def _from_submitter(self, submitter: ProcessId, message: Any) -> None:
        if isinstance(message, Task):
            self.submitters.add(submitter)
            self._note_refs(submitter, message)
            self.queue.append((submitter, message))
        elif isinstance(message, ReplyAck):
            self.refs.reply_acked(submitter, message.call)
        elif isinstance(message, End):
            self._submitter_lost(submitter)
        self.carry_out()

    def _note_refs(self, submitter: ProcessId, task: Task) -> None:
        ids = listed_ids(task)
        if ids:
            self.refs.task_received(submitter, task.call, ids)
            self.carry_out()
        stored = [*task.values, task.stored] if task.stored is not None else task.values
        wanted: list[bytes] = [
            one.id
            for one in stored
            if one is not None and one.value.location is not None and one.value.location.node != self.node
        ]
        if wanted:
            self.tell_daemon(GetObjects(wanted, AS_ARGUMENT))

    def _submitter_lost(self, submitter: ProcessId) -> None:
        if submitter not in self.submitters:
            return
        self.submitters.discard(submitter)
        self._drop_waiting(submitter)
        for (caller, _), frame in self.running.items():
            frame.is_orphaned = frame.is_orphaned or caller == submitter
        self.refs.peer_died(submitter)

    def _drop_waiting(self, submitter: ProcessId | None = None) -> None:
        """What has not begun is not wanted any more, of one submitter or of all."""
        kept = [one for one in self.queue if submitter not in (None, one[0])]
        dropped = [one for one in self.queue if submitter in (None, one[0])]
        self.queue = deque(kept)
        for caller, task in dropped:
            self.refs.task_handed_back(caller, task.call)
            self.carry_out()

    def received_ids(self) -> set[ObjectId]:
        tasks = [frame.task for frame in self.running.values() if frame.task is not None]
        tasks += [task for _, task in self.queue]
        return {one for task in tasks for one in listed_ids(task)}

    # ------------------------------------------------------------------ running calls

    @property
    def can_start(self) -> bool:
        """Whether a call, or the constructor, could begin."""
        if self._construct is not None:
            return not self.queue and not self.running
        return bool(self.queue) and len(self.running) < self._max_running

    @property
    def can_leave(self) -> bool:
        """Whether a worker that was told to end may."""
        return self.is_ending and not self.queue and not self.running and self.refs.is_quiet

    def start_next(self) -> None:
        """The oldest call begins."""
        if self._construct is not None:
            self._start_constructor(self._construct)
            return
        submitter, task = self.queue.popleft()
        name = self.world.name(make_task_id(submitter, task.call))
        self.world.task_began(self, submitter, task.call)
        frame = self.running[submitter, task.call] = Frame(f"task {name}", (submitter, task.call), task)
        frame.is_orphaned = submitter not in self.submitters
        self._load_arguments(frame, task)

    def _start_constructor(self, message: a.ConstructActor) -> None:
        spec, creator = message.spec, process_of(message.actor)
        call, _ = call_and_item_of(message.actor)
        self._construct = None
        self.actor = ObjectId(message.actor)
        self.incarnation = message.incarnation
        self.world.actor_began(self, self.actor, message)
        self.constructor_call = (creator, call)
        self.refs.become_actor(self.actor)
        self._max_running = spec.max_concurrency
        self._hands_back = False
        task = Task(call, 0, b"", 0, spec.refs, spec.values)
        self.refs.task_received(creator, call, listed_ids(task))
        frame = Frame(f"constructor of {self.world.name(self.actor)}", (creator, call), task)
        frame.is_constructor = True
        self.running[creator, call] = frame
        self._load_arguments(frame, task)

    def _load_arguments(self, frame: Frame, task: Task) -> None:
        self.adopt(task.refs)
        frame.variables += [ObjectId(one) for one in task.refs]
        stored = (task.stored,) if task.stored is not None else ()
        for argument in task.values:
            self._load_argument(frame, argument)
        for argument in stored:
            self._view(frame, argument)
        self.end_turn()

    def _load_argument(self, frame: Frame, argument: Argument) -> None:
        value = argument.value
        if value.state == FAILED:
            frame.argument_error = value.data
        elif value.state == PENDING:
            self.adopt([argument.id])
            frame.pins.append(ObjectId(argument.id))
            self.await_value(frame, ObjectId(argument.id))
        else:
            self.adopt(value.contents)
            frame.variables += [ObjectId(one) for one in value.contents]
            if value.state != INLINE:
                self._view(frame, argument)

    def _view(self, frame: Frame, argument: Argument) -> None:
        object_id, location = ObjectId(argument.id), argument.value.location
        self.adopt([object_id])
        frame.pins.append(object_id)
        ref = self.live[object_id]
        if ref.state == BORROWED:
            ref.contents = tuple(ObjectId(one) for one in argument.value.contents)
            ref.location = location
            assert location is not None, "a stored argument without a place"
            if location.node == self.node:
                ref.state = STORED
                self.world.look(self.process, object_id, location)
            else:
                self.request(object_id, AS_ARGUMENT)
                self._wait_in(frame, object_id)

    # ------------------------------------------------------------------ waiting

    def await_value(self, frame: Frame, object_id: ObjectId) -> None:
        """The code gets a value; the refs inside become its variables."""
        self._wait_in(frame, object_id, unpack=True)

    def _wait_in(self, frame: Frame, object_id: ObjectId, unpack: bool = False) -> None:
        self.acquire([object_id])
        frame.awaited.add(object_id)
        has_returned = False

        def arrived(ref: LiveRef) -> None:
            frame.awaited.discard(object_id)
            if ref.state == FAILED:
                frame.argument_error = frame.argument_error or ref.data
                self.world.get_failed(self, ref)
            elif unpack:
                self.world.note(self.process, f"has {self.world.name(object_id)}", object_id)
                frame.variables += self.unpack(ref)
                if ref.state == STORED and ref.location is not None:
                    self.world.look(self.process, object_id, ref.location)
            self.let_go([object_id])
            if has_returned and not frame.is_waiting:
                self._unblocked(frame)

        self.get(object_id, arrived)
        has_returned = True
        if frame.is_waiting and len(frame.awaited) == 1:
            self._blocked(frame)

    def _blocked(self, frame: Frame) -> None:
        if self.is_driver:
            return
        self.hand_back()
        self._blocked_frames += 1
        if self._blocked_frames == 1:
            self.tell_daemon(WorkerState(WORKER_BLOCKED))

    def _unblocked(self, frame: Frame) -> None:
        if self.is_driver:
            return
        self._blocked_frames -= 1
        if not self._blocked_frames:
            self.tell_daemon(WorkerState(WORKER_RUNNING))

    def tick(self) -> None:
        """Housekeeping; and what waits behind a call that runs for long goes back."""
        if self.running and self.queue:
            self.hand_back()
        super().tick()

    def hand_back(self) -> None:
        """Give what has not begun back to its submitters."""
        if not self._hands_back:
            return
        by_submitter: dict[ProcessId, list[int]] = {}
        for submitter, task in self.queue:
            by_submitter.setdefault(submitter, []).append(task.call)
        self.queue.clear()
        for submitter, calls in by_submitter.items():
            for call in calls:
                self.refs.task_handed_back(submitter, call)
            self.send_to(submitter, HandedBack(calls))
            self.carry_out()

    # ------------------------------------------------------------------ ending calls

    def end_call(
        self, frame: Frame, contents: Iterable[ObjectId] = (), size_bytes: int = 0, error: bytes = b""
    ) -> None:
        """The code returns a value with these refs inside, which are variables of it, or raises."""
        assert frame.key is not None, "only a call can return"
        submitter, call = frame.key
        del self.running[frame.key]
        inside = [] if error or frame.is_constructor else list(contents)
        self.acquire(inside)
        self.let_go(frame.variables + frame.pins)
        if frame.is_constructor:
            self._constructed(frame, error)
        elif frame.is_orphaned:
            self._end_orphan(frame, inside, size_bytes, error)
        elif self._is_plain(frame, inside, size_bytes, error):
            self.send_to(submitter, Done(call, b"done"))
        else:
            self._reply(frame, inside, size_bytes, error)
        self.end_turn()

    def _is_plain(self, frame: Frame, inside: list[ObjectId], size_bytes: int, error: bytes) -> bool:
        assert frame.task is not None
        if inside or size_bytes or error or listed_ids(frame.task):
            return False
        return self.actor is None or not self.refs.own_actor_is_lent

    def _value(self, inside: list[ObjectId], size_bytes: int, error: bytes) -> Value:
        if error:
            return Value(FAILED, error)
        if not size_bytes:
            return Value(INLINE, b"value", None, list[bytes](inside))
        offset = self.world.daemons[self.node].arena.allocate(self.process)
        return Value(STORED, b"", Location(self.node, offset, size_bytes), list[bytes](inside))

    def _reply(self, frame: Frame, inside: list[ObjectId], size_bytes: int, error: bytes) -> None:
        assert frame.key is not None
        submitter, call = frame.key
        value = self._value(inside, size_bytes, error)
        for object_id in inside:
            self.publish(object_id)
        if inside:
            self.refs.result_packed(submitter, call, inside)
            self.let_go(inside)
        self.tell_deaths()
        stored = {make_object_id(submitter, call): value.location} if value.location is not None else {}
        closed = self.refs.task_ended(submitter, call, stored)
        self.send_to(submitter, Reply(call, [value], closed))
        self.carry_out()

    def _end_orphan(self, frame: Frame, inside: list[ObjectId], size_bytes: int, error: bytes) -> None:
        """The submitter is dead; its home is offered what others may wait for."""
        assert frame.key is not None
        submitter, call = frame.key
        value = self._value(inside, size_bytes, error)
        for object_id in inside:
            self.publish(object_id)
        self.refs.resolve(make_object_id(submitter, call), value)
        self.let_go(inside)
        self.tell_deaths()
        self.refs.task_ended(submitter, call, {})
        self.carry_out()

    def _constructed(self, frame: Frame, error: bytes) -> None:
        assert frame.key is not None
        assert self.actor is not None
        self.tell_deaths()
        self.refs.task_ended(*frame.key, {})
        self.carry_out()
        failed = Value(FAILED, error) if error else None
        self.tell_daemon(a.ActorConstructed(self.actor, self.incarnation, failed))
        if error:
            self._max_running = 1

    def leave(self) -> None:
        """End in order."""
        self.tell_daemon(Leaving())
        self.world.end_process(self.process, "it has left", in_order=True)

    # ------------------------------------------------------------------ what code does with refs

    def hold(self, frame: Frame, object_id: ObjectId) -> None:
        """A variable of the code refers to the object from now on."""
        self.acquire([object_id])
        frame.variables.append(object_id)

    def drop(self, frame: Frame, object_id: ObjectId) -> None:
        """One variable less."""
        frame.variables.remove(object_id)
        self.let_go([object_id])

    def keep(self, frame: Frame, object_id: ObjectId) -> None:
        """The ref is stored where it outlives the call."""
        frame.variables.remove(object_id)
        self.main.variables.append(object_id)

    def is_elsewhere(self, process: bytes) -> bool:
        """Whether the other process is on another node."""
        return node_of(process) != self.node

    def __repr__(self) -> str:
        return f"<SimulatedProcess {self.world.name(self.process)}, {len(self.queue)} queued, {self.running}>"
