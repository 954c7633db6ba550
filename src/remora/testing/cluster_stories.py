"""Stories of whole clusters: small programs as text, told to the real machines, with what came of it as text beside.

A story names its nodes with what they have and the programs on them, then says what happens, in an order that a reader
can follow::

    # A task goes to another node, since its own one has no room.
    nodes N1 cpus=1: D | N2 cpus=2:
    D put o
    D task t1 -> r1
    D task t2 [o] -> r2
    t2 return [o]
    D get r2

Code acts under the name of its program, task, method or actor (whose constructor it is). It can: ``put NAME [REFS]``,
``store NAME BYTES``, ``task NAME [REFS] values [REFS] -> RESULT`` with ``cpus=``, ``special=``, ``retries=``,
``on=NODE``, ``softly=NODE``, ``in=GROUP``; ``actor NAME [REFS]`` with ``restarts=``, ``task_retries=``, ``name=``,
``detached``, ``get``, ``on=``, ``softly=``; ``find NAME as HANDLE``, ``method ACTOR NAME [REFS] -> RESULT``, ``kill
ACTOR``, ``get REF``, ``keep REF``, ``drop REF``, ``export REF`` and ``load REF`` (pickled and unpickled by what is not
ours), ``return [REFS]``, ``return large [REFS]``, ``raise``; ``group NAME COUNT STRATEGY``, ``remove GROUP``. ``store``
may have ``copies=``.

Lines of nobody: ``settle`` (all that can happen without time does), ``wait SECONDS``, ``kill NAME`` (a program, or the
worker of a task or actor; ``unheard``: what it said last to other nodes is lost), ``kill node NODE``, ``kill head``,
``start head``, ``silence NODE SECONDS``, ``hold WHO WHO`` and ``let WHO WHO`` stop and start what one says to the
other, ``write`` is one step of the head's disk.

Told in order, each line waits until it can be done, and meanwhile the oldest of what moves goes on. Told from a seed,
what moves goes on in any order. Either ends with every call ended, every ref dropped, and nothing left.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from remora.base.bundle_names import in_group
from remora.base.ids import NodeId, ObjectId, ProcessId, make_object_id, make_task_id
from remora.base.resources import Resources
from remora.base.scheduling import Strategy
from remora.messages.actors import ActorFound, ActorSpec, KillActor
from remora.messages.placement_groups import PlacementGroups
from remora.testing.cluster_checker import Checker
from remora.testing.cluster_network import HEAD, Channel, Violation
from remora.testing.cluster_process import Frame, SimulatedProcess
from remora.testing.cluster_quiet import problems
from remora.testing.cluster_world import Machines, World

NOBODYS = ("settle", "wait", "kill", "start", "silence", "hold", "let", "write")
NOISE = ("Confirm", "MembersChanged", "NodeLoad", "HomeDied", "OfferValues", "DropUnclaimed")
"""What says nothing new in a story."""
PATIENCE_S = 20.0
TURN_S = 0.1


@dataclass
class ClusterStory:
    """A parsed story: nodes with what they have and the programs on them, and who does what, in words."""

    name: str
    nodes: list[tuple[str, dict[str, float], list[str]]]
    lines: list[tuple[str, list[str]]]

    @classmethod
    def read(cls, path: Path) -> ClusterStory:
        """The story in a file."""
        return cls.parse(path.stem, path.read_text())

    @classmethod
    def parse(cls, name: str, text: str) -> ClusterStory:
        """The story in a text. Lines that start with ``#`` are for the reader."""
        nodes: list[tuple[str, dict[str, float], list[str]]] = []
        lines: list[tuple[str, list[str]]] = []
        for line in text.splitlines():
            words = re.findall(r"\[[^\]]*\]|[^\s\[\]]+", line)
            if not words or line.startswith("#"):
                continue
            if words[0] == "nodes":
                for part in line.removeprefix("nodes").split("|"):
                    described, programs = part.split(":")
                    node, *has = described.split()
                    nodes.append((node, {key: float(value) for key, value in map(_pair, has)}, programs.split()))
            elif words[0] in NOBODYS:
                lines.append(("", words))
            else:
                lines.append((words[0], words[1:]))
        return cls(name, nodes, lines)


def _pair(word: str) -> tuple[str, str]:
    key, _, value = word.partition("=")
    return key, value


class ClusterTelling:
    """A story that is told once: in order, or in any order from a seed."""

    def __init__(self, story: ClusterStory, seed: int | None = None, machines: Machines | None = None) -> None:
        self.story = story
        self._rng = None if seed is None else random.Random(f"story {story.name} {seed}")
        self.world = World(0 if seed is None else seed, machines, grace_s=5.0)
        self.checker = Checker(self.world)
        self._ids: dict[str, bytes] = {}
        self._made: dict[str, ProcessId] = {}
        """Who made the calls and actors of the story."""
        self._refused: set[str] = set()
        if seed is None:
            self.world.loses_last = False
        for name, has, programs in story.nodes:
            cpus = has.pop("cpus", 1.0)
            daemon = self.world.add_node(Resources.of(num_cpus=cpus, resources=has or None))
            self.world.names[daemon.node] = self.world.names[daemon.process] = name
            self._ids[name] = daemon.node
            for program in programs:
                self._ids[program] = self.world.add_driver(daemon, program).process
        self._settle()
        self.world.pass_time(TURN_S)
        self._settle()
        self.world.log.clear()

    # ------------------------------------------------------------------ telling

    def tell(self) -> None:
        """
        Raises:
            Violation: the cluster did what it never may, or a line can never be done.
        """
        for who, words in self.story.lines:
            if not who:
                self._nobodys(words)
                continue
            line = f"{who} {' '.join(words)}"
            is_done = self._until(lambda: self._can(who, words), line)  # noqa: B023
            if is_done and self._is_there(who):
                self._do(who, words)
        self.world.note(b"", "--- everything ends")
        self._end()

    @property
    def text(self) -> str:
        """What happened."""
        return "\n".join([*self.world.story(without=NOISE), ""])

    def _until(self, is_so: Callable[[], bool], line: str) -> bool:
        """False when it cannot be so in the order of this telling."""
        until_s = self.world.now_s + PATIENCE_S
        while not is_so():
            if not self._move():
                self.world.pass_time(TURN_S)
                if self.world.now_s > until_s and self._rng is not None:
                    return False
                if self.world.now_s > until_s:
                    raise Violation(f"story {self.story.name}: this can never be done: {line}")
        return True

    def _settle(self) -> None:
        while self._move():
            pass

    def _move(self) -> bool:
        """Something happens; false when nothing can without time."""
        channels: list[Channel] = self.world.open_channels()
        steps = list(self.world.steps())
        if not channels and not steps:
            return False
        if self._rng is None:
            # Deaths of refs are told last, so that a reader sees what else goes on first.
            now = [step for step in steps if step[0] != "deaths"] if channels else steps
            if now:
                self.world.take_step(now[0])
            else:
                self.world.deliver(channels[0])
        elif channels and (not steps or self._rng.random() < 0.7):
            self.world.deliver(self._rng.choice(channels))
        else:
            self.world.take_step(self._rng.choice(steps))
        return True

    # ------------------------------------------------------------------ who

    def _frame(self, who: str) -> tuple[SimulatedProcess, Frame] | None:
        """Where the code of this name runs now."""
        any_id = self._ids.get(who, b"")
        driver = self.world.processes.get(ProcessId(any_id))
        if driver is not None:
            return (driver, driver.main) if driver.is_alive else None
        for process in self.world.living_processes():
            for key, frame in process.running.items():
                if any_id and make_task_id(*key) == any_id[:12]:
                    return process, frame
        return None

    def _is_there(self, who: str) -> bool:
        return self._frame(who) is not None

    def _can(self, who: str, words: list[str]) -> bool:
        if who in self._refused:
            return True
        maker = self._made.get(who)
        if maker is not None and not self.world.processes[maker].is_alive:
            return True  # it will never run
        found = self._frame(who)
        if found is None:
            return ProcessId(self._ids.get(who, b"")) in self.world.processes
        process, frame = found
        if frame.is_waiting and not process.is_driver:
            return False
        return all(self._ids.get(name, b"") in self._refs(process, frame) for name in _refs_used(words))

    def _refs(self, process: SimulatedProcess, frame: Frame) -> list[ObjectId]:
        return frame.variables + process.main.variables

    # ------------------------------------------------------------------ what code does

    def _do(self, who: str, words: list[str]) -> None:
        found = self._frame(who)
        assert found is not None
        process, frame = found
        action: Callable[[SimulatedProcess, Frame, Words], None] = getattr(self, f"_do_{words[0]}")
        told = Words(words[1:], self._ids)
        where = "" if frame is process.main else f"{who}: "
        self.world.act(process, where + " ".join(words), lambda: action(process, frame, told))

    def _name(self, name: str, maker: SimulatedProcess) -> None:
        """What the process makes next has this name."""
        any_id = make_object_id(maker.process, maker.last_call + 1)
        self._ids[name] = any_id
        self.world.names[any_id] = name
        self._made[name] = maker.process

    def _do_put(self, process: SimulatedProcess, frame: Frame, told: Words) -> None:
        self._name(told.plain[0], process)
        object_id = process.put(told.refs())
        process.hold(frame, object_id)

    def _do_store(self, process: SimulatedProcess, frame: Frame, told: Words) -> None:
        self._name(told.plain[0], process)
        object_id = process.put(told.refs(), int(told.plain[1]), int(told.options.get("copies", "1")))
        process.hold(frame, object_id)

    def _do_task(self, process: SimulatedProcess, frame: Frame, told: Words) -> None:
        shape = process.shape(self._need(told), self._strategy(told))
        retries = int(told.options.get("retries", "0"))
        self._name_call(told, process)
        result = process.submit(shape, told.refs(), told.refs("values"), retries)
        process.hold(frame, result)

    def _name_call(self, told: Words, process: SimulatedProcess) -> None:
        name = told.plain[-1]
        self._name(name, process)
        self._name(told.arrow, process)
        self.world.names[self._ids[name][:12]] = name

    def _need(self, told: Words) -> dict[str, int]:
        special = float(told.options.get("special", "0"))
        need = Resources.of(
            num_cpus=float(told.options.get("cpus", "1")), resources={"special": special} if special else None
        )
        group = told.options.get("in")
        return dict((in_group(need, self._ids[group]) if group else need).units)

    def _strategy(self, told: Words) -> str:
        for option in ("on", "softly"):
            if option in told.options:
                return Strategy(node=self._ids[told.options[option]].hex(), soft=option == "softly").encode()
        return ""

    def _do_actor(self, process: SimulatedProcess, frame: Frame, told: Words) -> None:
        spec = ActorSpec(
            class_name="Actor",
            pickled_class=b"",
            arguments=b"",
            resources=self._need(told) if "cpus" in told.options or "in" in told.options else {},
            placement=dict(Resources.of(num_cpus=1).units) if "in" not in told.options else {},
            strategy=self._strategy(told),
            max_restarts=int(told.options.get("restarts", "0")),
            max_task_retries=int(told.options.get("task_retries", "0")),
        )
        name = told.options.get("name", "")
        handle = ObjectId(b"")

        def answered(found: ActorFound) -> None:
            what = "is made" if found.created else found.error or "is there already"
            self.world.note(process.process, f"{told.plain[0]}: actor {name!r} {what}")
            if found.created:
                self.checker.name_granted(name, ObjectId(found.actor))
                frame.variables.append(handle)
                return
            process.let_go([handle])
            self._refused.add(told.plain[0])
            if found.actor:
                self._take_found(process, frame, told.plain[0], found)

        self._name(told.plain[0], process)
        handle = process.create_actor(
            spec,
            told.refs(),
            told.refs("values"),
            name=name,
            detached="detached" in told.plain,
            get_if_exists="get" in told.plain,
            then=answered,
        )
        if name:
            process.acquire([handle])
        else:
            process.hold(frame, handle)

    def _take_found(self, process: SimulatedProcess, frame: Frame, name: str, found: ActorFound) -> None:
        process.adopt([found.actor])
        frame.variables.append(ObjectId(found.actor))
        self._ids[name] = found.actor

    def _do_find(self, process: SimulatedProcess, frame: Frame, told: Words) -> None:
        name, _, handle = told.plain

        def answered(found: ActorFound) -> None:
            self.world.note(process.process, f"looked for {name!r}: {found.error or 'found'}")
            if found.actor:
                self._take_found(process, frame, handle, found)

        process.find_actor(name, answered)

    def _do_method(self, process: SimulatedProcess, frame: Frame, told: Words) -> None:
        actor = ObjectId(self._ids[told.plain[0]])
        self._name_call(told, process)
        result = process.call_method(actor, told.refs(), told.refs("values"))
        process.hold(frame, result)

    def _do_kill(self, process: SimulatedProcess, frame: Frame, told: Words) -> None:
        self.world.faults += 1
        process.kill_actor(ObjectId(self._ids[told.plain[0]]), no_restart="restart" not in told.plain)

    def _do_get(self, process: SimulatedProcess, frame: Frame, told: Words) -> None:
        process.await_value(frame, ObjectId(self._ids[told.plain[0]]))

    def _do_keep(self, process: SimulatedProcess, frame: Frame, told: Words) -> None:
        process.keep(frame, ObjectId(self._ids[told.plain[0]]))

    def _do_drop(self, process: SimulatedProcess, frame: Frame, told: Words) -> None:
        object_id = ObjectId(self._ids[told.plain[0]])
        process.drop(frame if object_id in frame.variables else process.main, object_id)

    def _do_export(self, process: SimulatedProcess, frame: Frame, told: Words) -> None:
        process.export(ObjectId(self._ids[told.plain[0]]))

    def _do_load(self, process: SimulatedProcess, frame: Frame, told: Words) -> None:
        object_id = ObjectId(self._ids[told.plain[0]])
        process.load(object_id)
        frame.variables.append(object_id)

    def _do_return(self, process: SimulatedProcess, frame: Frame, told: Words) -> None:
        process.end_call(frame, told.refs(), 1 << 20 if "large" in told.plain else 0, frame.argument_error)

    def _do_raise(self, process: SimulatedProcess, frame: Frame, told: Words) -> None:
        process.end_call(frame, error=b"an exception")

    def _do_group(self, process: SimulatedProcess, frame: Frame, told: Words) -> None:
        name, count, strategy = told.plain
        one = dict(Resources.of(num_cpus=1).units)

        def answered(answer: PlacementGroups) -> None:
            self.world.note(process.process, f"{name}: {answer.error or 'the group is asked for'}")

        self._name(name, process)
        group = process.create_group([one] * int(count), strategy, answered)
        frame.groups.append(group)

    def _do_remove(self, process: SimulatedProcess, frame: Frame, told: Words) -> None:
        self.world.faults += 1
        group = self._ids[told.plain[0]]
        frame.groups.remove(group)
        process.remove_group(group, lambda answer: None)

    # ------------------------------------------------------------------ what nobody does

    def _nobodys(self, words: list[str]) -> None:
        kind, world = words[0], self.world
        if kind == "settle":
            self._settle()
        elif kind == "wait":
            until_s = world.now_s + float(words[1])
            while world.now_s < until_s - TURN_S / 2:
                self._settle()
                world.pass_time(TURN_S)
            self._settle()
        elif kind == "write":
            if world.head.has_disk_work:
                world.take_step(("disk", None))
        elif kind == "start":
            world.restart_head()
        elif kind == "silence":
            world.silence(world.daemons[NodeId(self._ids[words[1]])], float(words[2]))
        elif kind == "kill":
            self._kill(words[1:])
        else:
            self._hold(kind, words[1:])

    def _kill(self, words: list[str]) -> None:
        if words[0] == "head":
            self.world.kill_head()
        elif words[0] == "node":
            self.world.kill_node(NodeId(self._ids[words[1]]))
        else:
            self._until(lambda: self._process_of(words[0]) is not None, f"kill {words[0]}")
            process = self._process_of(words[0])
            self.world.loses_last = True if "unheard" in words else self.world.loses_last
            if process is not None:
                self.world.kill_process(process)

    def _process_of(self, name: str) -> SimulatedProcess | None:
        any_id = self._id(name)
        found = self._frame(name)
        if found is not None:
            return found[0]
        known = (one for one in self.world.living_processes() if any_id and any_id in (one.actor, one.process))
        return next(known, None)

    def _hold(self, kind: str, words: list[str]) -> None:
        sender, to = map(self._id, words)
        channels: set[Channel] = {(sender, to, lane) for lane in (0, 1)}
        if kind == "hold":
            self.world.held_up |= channels
        else:
            self.world.held_up -= channels

    def _id(self, name: str) -> bytes:
        """Of the head, of what the story names, or of a worker by its node and number."""
        named = {"head": HEAD, **self._ids}
        return named.get(name) or next((one for one, known in self.world.names.items() if known == name), b"")

    # ------------------------------------------------------------------ the end

    def _end(self) -> None:
        self.world.held_up.clear()
        if self.world.head.head is None:
            self.world.restart_head()
        for _ in range(200):
            self._finish()
            self._settle()
            problem = next(problems(self.world, objects_stay=self.checker.objects_stay), None)
            if problem is None and not self.world.channels:
                return
            self.world.pass_time(0.4)
        if problem is not None:
            raise Violation(*problem)
        raise Violation("messages go on for ever")

    def _finish(self) -> None:
        for process in self.world.living_processes():
            for frame in process.frames():
                if frame is not process.main:
                    self.world.act(process, f"{frame.name} returns", lambda: process.end_call(frame))  # noqa: B023
            main = process.main
            for group in main.groups:
                process.remove_group(group, lambda answer: None)
            main.groups.clear()
            for object_id in list(main.variables):
                what = f"drop {self.world.name(object_id)}"
                self.world.act(process, what, lambda: process.drop(main, object_id))  # noqa: B023
        self._kill_detached()

    def _kill_detached(self) -> None:
        drivers = [one for one in self.world.living_processes() if one.is_driver]
        for actor in self.world.head.machine.registry.actors() if drivers else ():
            if actor.detached:
                self.world.faults += 1
                drivers[0].tell_daemon(KillActor(actor.id))


class Words:
    """What a line says besides who and what: plain words, ``key=value``, lists of refs, and what follows ``->``."""

    def __init__(self, words: list[str], ids: dict[str, bytes]) -> None:
        self._ids = ids
        self.plain: list[str] = []
        self.options: dict[str, str] = {}
        self.arrow = ""
        self._lists: dict[str, list[str]] = {}
        name = ""
        previous = ""
        for word in words:
            if previous == "->":
                self.arrow = word
            elif word.startswith("["):
                self._lists[name] = names_in(word)
                name = ""
            elif word == "values":
                name = "values"
            elif "=" in word:
                key, value = _pair(word)
                self.options[key] = value
            elif word != "->":
                self.plain.append(word)
            previous = word

    def refs(self, name: str = "") -> list[ObjectId]:
        """The ids in a list."""
        return [ObjectId(self._ids[one]) for one in self._lists.get(name, [])]


def names_in(word: str) -> list[str]:
    """The names in ``[a, b]``."""
    return word.strip("[]").replace(",", " ").split()


def _refs_used(words: list[str]) -> list[str]:
    names = [name for word in words if word.startswith("[") for name in names_in(word)]
    if words[0] in ("get", "drop", "keep", "export", "method", "kill"):
        names.append(words[1])
    return names


def tell(story: ClusterStory, seed: int | None = None, machines: Machines | None = None) -> str:
    """The outcome of the story.

    Raises:
        Violation: the cluster did what it never may.
    """
    telling = ClusterTelling(story, seed, machines)
    try:
        telling.tell()
    except Violation:
        raise
    except Exception as error:
        raise Violation(f"{type(error).__name__}: {error}") from error
    return telling.text


def write_outcomes(directory: Path) -> None:
    """Write ``NAME.expected`` beside each ``NAME.txt``."""
    for path in sorted(directory.glob("*.txt")):
        path.with_suffix(".expected").write_text(tell(ClusterStory.read(path)))
