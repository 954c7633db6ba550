"""A cluster for the counting machines: nodes, processes, channels that keep their order, deaths and broken links.

Nothing happens by itself. Who drives the world (a story, a seed) chooses every step: deliver the oldest message of
one channel, let a program do something, tell deaths of refs, let time pass, kill, cut. The world keeps a log of it.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Collection

import msgspec

from remora.base.ids import NodeId, ObjectId, ProcessId, make_process_id, node_of
from remora.core.counting.directory import Directory
from remora.core.counting.entries import Entry
from remora.core.counting.process import ProcessRefs
from remora.core.counting.vocabulary import (
    DAEMON,
    CancelPull,
    Effect,
    FreeLocation,
    KeepLocation,
    LetGo,
    Send,
    StartPull,
)
from remora.messages import copies
from remora.messages import counting as m
from remora.messages.objects import (
    CopiesReleased,
    ForgetGet,
    GetObjects,
    HomeDied,
    Location,
    ObjectAt,
    ObjectValue,
    OfferValues,
    ReleaseCopies,
    Value,
    WantCopies,
)
from remora.messages.tasks import Close, Reply, ReplyAck, Task
from remora.testing.counting_client import SimulatedClient
from remora.testing.counting_parts import End, Item, Network, NodeDied
from remora.testing.counting_pulls import Chunk, PullShell, ReadChunk

Layout = dict[str, list[str]]
"""Names of nodes, and of the processes of each."""


HEAD = make_process_id(0, 0)
"""Says which nodes are dead, to all in the same order."""


class Violation(AssertionError):
    """The protocol was broken."""


class World(Network):
    """The cluster. *process_machine* and *directory_machine* may be broken on purpose, to test the tests."""

    def __init__(
        self,
        layout: Layout,
        process_machine: type[ProcessRefs] = ProcessRefs,
        directory_machine: type[Directory] = Directory,
        grace_s: float = 0.0,
    ) -> None:
        self.names: dict[bytes, str] = {HEAD: "head"}
        self.clients: dict[ProcessId, SimulatedClient] = {}
        self.directories: dict[NodeId, Directory] = {}
        self.alive: set[bytes] = set()
        self.actors: dict[ProcessId, ObjectId] = {}
        self.channels: dict[tuple[bytes, bytes], deque[tuple[int, msgspec.Struct]]] = {}
        self.peers: dict[bytes, dict[bytes, None]] = {}
        self.arena: set[tuple[bytes, int]] = set()
        self.freed: set[ObjectId] = set()
        self.faults = 0
        self.node_deaths = 0
        self.log: list[str] = []
        self.message_counts: Counter[str] = Counter()
        self.now_s = 0.0
        self.was_impatient = False
        """Whether time passed while processes were asked what they know; then they may have been left out."""
        self.on_free: Callable[[ObjectId, Entry], None] | None = None
        self.on_send: Callable[[bytes, bytes, msgspec.Struct], None] | None = None
        self._sent = 0
        self._locations = 0
        self.pulls: dict[NodeId, PullShell] = {}
        self.on_place_freed: Callable[[Location], None] | None = None
        observed = _observed(directory_machine, self)
        for node_number, (node_name, process_names) in enumerate(layout.items(), 1):
            node = node_of(make_process_id(node_number, 0))
            self.names[node] = node_name
            self.alive.add(node)
            self.directories[node] = observed(node, lambda loss: loss.reason.name.encode(), grace_s)
            directory = self.directories[node]
            self.pulls[node] = PullShell(directory, self.send, self.new_place, self._free_place)
            for number, name in enumerate(process_names, 1):
                process = make_process_id(node_number, number)
                self.names[process] = name
                self.alive.add(process)
                self.clients[process] = SimulatedClient(self, process, process_machine(process))
                directory.process_connected(process)
        for directory in self.directories.values():
            directory.nodes_changed(self.directories)

    def client(self, name: str) -> SimulatedClient:
        return next(client for client in self.clients.values() if self.names[client.process] == name)

    def node(self, name: str) -> NodeId:
        return next(node for node in self.directories if self.names[node] == name)

    # The network

    def send(self, sender: bytes, to: bytes, message: msgspec.Struct) -> None:
        if sender not in self.alive:
            return
        if not isinstance(message, ReadChunk | Chunk):
            self.message_counts[type(message).__name__] += len(getattr(message, "ids", " "))
        if self.on_send is not None:
            self.on_send(sender, to, message)
        between_processes = sender in self.clients and to in self.clients
        if between_processes:
            self.peers.setdefault(sender, {})[to] = None
            self.peers.setdefault(to, {})[sender] = None
        if to in self.alive:
            self._enqueue(sender, to, message)
        elif between_processes and (to, sender) not in self.channels:
            self._enqueue(to, sender, End())

    def _enqueue(self, sender: bytes, to: bytes, message: msgspec.Struct) -> None:
        self._sent += 1
        self.channels.setdefault((sender, to), deque()).append((self._sent, message))

    def new_location(self, node: NodeId) -> Location:
        self._locations += 1
        return Location(node, self._locations, 1)

    def new_place(self, node: NodeId) -> Location:
        """The same, taken by a daemon for a copy that arrives."""
        location = self.new_location(node)
        self.arena.add((node, location.offset))
        return location

    def oldest(self, stalled: Collection[tuple[bytes, bytes]] = ()) -> tuple[bytes, bytes]:
        """The channel, of those not stalled, whose first message was sent first."""
        moving = [channel for channel in self.channels if channel not in stalled]
        return min(moving, key=lambda channel: self.channels[channel][0][0])

    def deliver(self, channel: tuple[bytes, bytes]) -> None:
        """Hand over the first message of the channel, and all that its receiver's machine then wants."""
        sender, to = channel
        queue = self.channels[channel]
        _, message = queue.popleft()
        if not queue:
            del self.channels[channel]
        if to not in self.alive:
            return
        self.log.append(f"{self.name(sender)} -> {self.name(to)}: {self.describe(message)}")
        if to in self.clients:
            self.clients[ProcessId(to)].receive(sender, message)
            self.after(ProcessId(to))
        else:
            self._daemon_receives(NodeId(to), sender, message)
            self.after_daemon(NodeId(to))

    def _daemon_receives(self, node: NodeId, sender: bytes, message: msgspec.Struct) -> None:
        directory = self.directories[node]
        if isinstance(message, End) and sender in self.clients:
            directory.process_ended(ProcessId(sender), self.now_s, at_once=not self.peers.get(sender))
        elif isinstance(message, NodeDied):
            directory.node_dead(NodeId(message.node), NodeId(message.heir), self.now_s)
            self.pulls[node].node_ended(NodeId(message.node))
        elif isinstance(message, ReadChunk):
            self.pulls[node].read_chunk(NodeId(sender), message)
        elif isinstance(message, Chunk):
            self.pulls[node].chunk(NodeId(sender), message)
        elif sender in self.clients:
            directory.process_message(ProcessId(sender), message)
        else:
            directory.node_message(NodeId(sender), message)

    def home(self, object_id: bytes) -> Directory | None:
        """The living directory that knows the object now."""
        return next(
            (self.directories[node] for node in self.living_nodes() if object_id in self.directories[node]._entries),
            None,
        )

    # What the machines want

    def after(self, process: ProcessId) -> None:
        """Do what the process's machine left in its outbox."""
        client = self.clients[process]
        while client.refs.outbox:
            effects, client.refs.outbox = client.refs.outbox, []
            for effect in effects:
                if isinstance(effect, LetGo):
                    client.arguments_go(effect.call)
                elif isinstance(effect, Send):
                    self.send(process, client.node if effect.to == DAEMON else effect.to, effect.message)
        client.refs.validate()

    def after_daemon(self, node: NodeId) -> None:
        """Do what the daemon's machine left in its outbox."""
        directory = self.directories[node]
        while directory.outbox:
            effects = directory.outbox[:]
            directory.outbox.clear()
            for effect in effects:
                self._do(node, effect)
        self.pulls[node].look_again()
        directory.validate()

    def _do(self, node: NodeId, effect: Effect) -> None:
        if isinstance(effect, Send):
            self.send(node, effect.to, effect.message)
        elif isinstance(effect, KeepLocation):
            self.arena.add((node, effect.location.offset))
        elif isinstance(effect, FreeLocation):
            self._free_place(effect.location)
        elif isinstance(effect, StartPull):
            self.pulls[node].start(effect)
        elif isinstance(effect, CancelPull):
            self.pulls[node].cancel(effect)

    def _free_place(self, location: Location) -> None:
        if self.on_place_freed is not None:
            self.on_place_freed(location)
        self.arena.discard((location.node, location.offset))

    def look(self, location: Location) -> None:
        is_there = (location.node, location.offset) in self.arena
        if not is_there and (not self.faults or not location.offset):
            raise Violation(f"a process looks at place {location.offset} of {self.name(location.node)}, which is free")

    def evict(self, node: NodeId, size_bytes: int) -> None:
        """The store of the node is full."""
        self.log.append(f"{self.name(node)} needs space for {size_bytes}")
        self.directories[node].evict(size_bytes)
        self.after_daemon(node)

    def act(self, process: ProcessId, line: str, action: Callable[[SimulatedClient], None]) -> None:
        """The program of the process does something."""
        self.log.append(f"{self.name(process)}: {line}")
        action(self.clients[process])
        self.after(process)

    def tell_deaths(self, process: ProcessId) -> None:
        """The process's machine hears which refs have died."""
        self.clients[process].tell_deaths()
        self.after(process)

    def pass_time(self, seconds: float) -> None:
        self.now_s += seconds
        asking = any(self.directories[node]._asking for node in self.living_nodes())
        self.was_impatient = self.was_impatient or (asking and seconds > 0)
        for node in self.living_nodes():
            self.directories[node].tick(self.now_s)
            self.after_daemon(node)

    # Faults

    def kill(self, process: ProcessId, lose_last: bool = False) -> None:
        """The process dies. What it wrote is still read, except, on *lose_last*, by other processes."""
        self.log.append(f"{self.name(process)} dies{', its last messages to peers are lost' if lose_last else ''}")
        self.faults += 1
        self._end_process(process, lose_last)

    def _end_process(self, process: ProcessId, lose_last: bool) -> None:
        client = self.clients[process]
        client.alive = False
        self.alive.discard(process)
        for sender, to in list(self.channels):
            if to == process or (sender == process and lose_last and to != client.node):
                del self.channels[sender, to]
        for other in [*self.peers.get(process, ()), client.node]:
            if other in self.alive:
                self._enqueue(process, other, End())

    def kill_node(self, node: NodeId, lose_last: bool = False) -> None:
        """The node dies with all its processes; the others are told once, and who is its heir."""
        self.log.append(f"node {self.name(node)} dies")
        self.faults += 1
        self.node_deaths += 1
        self.alive.discard(node)
        for process, client in self.clients.items():
            if client.node == node and client.alive:
                self._end_process(process, lose_last)
        for sender, to in list(self.channels):
            if to == node or (sender == node and lose_last):
                del self.channels[sender, to]
        living = self.living_nodes()
        for other in living:
            heir = next((later for later in living if later > node), living[0])
            self._enqueue(HEAD, other, NodeDied(node, heir))

    def cut(self, one: NodeId, other: NodeId) -> None:
        """The link between two daemons breaks and comes back; what was in it is lost."""
        self.log.append(f"the link {self.name(one)}-{self.name(other)} breaks and comes back")
        self.channels.pop((one, other), None)
        self.channels.pop((other, one), None)
        for near, far in ((one, other), (other, one)):
            self.directories[near].node_reconnected(far)
            self.pulls[near].link_lost(far)
            self.after_daemon(near)

    def living_nodes(self) -> list[NodeId]:
        return [node for node in self.directories if node in self.alive]

    def living_clients(self) -> list[SimulatedClient]:
        return [client for client in self.clients.values() if client.alive]

    # Reading the log

    def name(self, any_id: bytes) -> str:
        if any_id in self.names:
            return self.names[any_id]
        process, call, item = any_id[:8], int.from_bytes(any_id[8:12], "big"), int.from_bytes(any_id[12:16], "big")
        return f"{self.names[process]}{call}" + (f".{item}" if item else "")

    def list_names(self, ids: object) -> str:
        assert isinstance(ids, list | tuple)
        return "[" + ", ".join(self.name(object_id) for object_id in ids) + "]"

    def describe(self, message: msgspec.Struct) -> str:
        """The message in one line with names instead of ids."""
        kind = type(message).__name__
        match message:
            case m.Publish(object_id, value) | m.Resolve(object_id, value) | ObjectValue(object_id, value):
                return f"{kind} {self.name(object_id)} {self._value(value)}"
            case m.NodeRegister(ids, holder) | m.NodeRelease(ids, holder):
                return f"{kind} {self.list_names(ids)} for {self.name(holder)}"
            case m.NodeAck(ids, holder, ok):
                return f"{kind} {self.list_names(ids)} for {self.name(holder)}{'' if ok else ', gone'}"
            case m.Ack(ids, ok):
                return f"{kind} {self.list_names(ids)}{'' if ok else ', gone'}"
            case m.Register(ids) | m.Release(ids) | m.PublishAck(ids) | GetObjects(ids) | ForgetGet(ids):
                return f"{kind} {self.list_names(ids)}"
            case copies.CopyArrived(ids) | copies.CopyDropped(ids) | copies.FreeCopies(ids):
                return f"{kind} {self.list_names(ids)}"
            case ReleaseCopies(ids) | CopiesReleased(ids):
                return f"{kind} {self.list_names(ids)}"
            case WantCopies(ids, count):
                return f"{kind} {self.list_names(ids)} on {count} nodes"
            case copies.CopyFailed(ids, source):
                return f"{kind} {self.list_names(ids)} from {self.name(source)}"
            case ObjectAt(object_id, _, _, sources) | copies.MakeCopy(object_id, _, _, sources):
                return f"{kind} {self.name(object_id)} from {self.list_names(sources)}"
            case copies.KeepCopy(object_id):
                return f"{kind} {self.name(object_id)}"
            case copies.CopyKept(object_id, _, ok):
                return f"{kind} {self.name(object_id)}{'' if ok else ', not there'}"
            case NodeDied(dead, heir):
                return f"{kind} {self.name(dead)}, heir {self.name(heir)}"
            case HomeDied(nodes):
                return f"{kind} {self.list_names(nodes)}"
            case OfferValues(nodes, values):
                return f"{kind} {self.list_names([object_id for object_id, _ in values])}"
            case copies.HomeReport(dead, held, reported, values, contained):
                return (
                    f"{kind} of {self.name(dead)}: held {self.list_names([object_id for object_id, _ in held])}, "
                    f"copies {self.list_names([copy.id for copy in reported])}, "
                    f"values {self.list_names([object_id for object_id, _ in values])}, "
                    f"containers {self.list_names([container for container, _ in contained])}"
                )
            case copies.NodeResolve(object_id, value):
                return f"{kind} {self.name(object_id)} {self._value(value)}"
            case copies.NodeResolved(ids):
                return f"{kind} {self.list_names(ids)}"
            case ReadChunk(object_id, _, chunk):
                return f"{kind} {chunk} of {self.name(object_id)}"
            case Chunk(object_id, _, chunk, found):
                return f"{kind} {chunk} of {self.name(object_id)}{'' if found else ', not there'}"
            case m.Store(object_id) | m.DropCopy(object_id) | m.Keep(object_id) | m.Unkeep(object_id):
                return f"{kind} {self.name(object_id)}"
            case m.KeepAck(object_id, ok):
                return f"{kind} {self.name(object_id)}{'' if ok else ', lost'}"
            case m.DropUnclaimed(writer):
                return f"{kind} of {self.name(writer)}"
            case m.Sync(held, kept):
                pairs = [f"{self.name(object_id)} for {self.name(holder)}" for object_id, holder in held]
                return f"{kind} holds [{', '.join(pairs)}], keeps {self.list_names([copied for copied, _ in kept])}"
            case Task(call, refs=refs, values=values):
                top_level = [argument.id for argument in values]
                return f"{kind} {call} {self.list_names(refs)}" + (
                    f" values of {self.list_names(top_level)}" if top_level else ""
                )
            case Reply(call, [value], closed):
                return f"{kind} {call} {self._value(value)}{'' if closed else ', not closed'}"
            case Item(call, item, value):
                return f"{kind} {call}.{item} {self._value(value)}"
            case Close(call) | ReplyAck(call):
                return f"{kind} {call}"
            case _:
                return " ".join([kind, *map(str, msgspec.structs.astuple(message))])

    def _value(self, value: Value) -> str:
        states = ("pending", "borrowed", "value", "stored", "failed")
        return states[value.state] + (" " + self.list_names(value.contents) if value.contents else "")


def _observed(machine: type[Directory], world: World) -> type[Directory]:
    """The directory machine, telling its world of every object that it frees."""

    class Observed(machine):  # type: ignore[misc, valid-type]
        def _freed(self, object_id: ObjectId, entry: Entry) -> None:
            world.freed.add(object_id)
            world.log.append(f"  {world.name(self.node)} frees {world.name(object_id)}")
            if world.on_free is not None:
                world.on_free(object_id, entry)
            super()._freed(object_id, entry)

    return Observed
