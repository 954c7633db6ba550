"""Random programs on a simulated cluster, from a seed: what they do, in which order things happen, who dies when.

Five mixes, since each finds what the others miss: *uniform* does everything, *burst* submits many tasks at once, *keep*
passes refs on and stores them in actors, *read* has large objects that are read everywhere, in stores that are full now
and then, *actors* makes, names and kills many.

Each action of a program draws from a random source of its own, so an action can be left out and the others stay what
they were: that is how a failing seed is made smaller. One channel is stalled now and then for some steps, which makes
long ways short and short ways long.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import msgspec

from remora.base.bundle_names import in_group
from remora.base.ids import ObjectId
from remora.base.resources import Resources
from remora.base.scheduling import SPREAD, Strategy
from remora.messages.actors import ActorFound, ActorSpec, KillActor
from remora.messages.placement_groups import PlacementGroups
from remora.testing.cluster_checker import Checker
from remora.testing.cluster_network import Channel, Violation
from remora.testing.cluster_process import Frame, SimulatedProcess
from remora.testing.cluster_quiet import Problem, problems
from remora.testing.cluster_world import Machines, World

MEGABYTE = 1 << 20
NAMES = ("alice", "bob")
DRIVER_WEIGHTS: dict[str, float] = {"put": 3, "store": 2, "task": 8, "actor": 2, "named": 1, "find": 1, "method": 5}
DRIVER_WEIGHTS |= {
    "burst": 0.3,
    "drop": 4,
    "get": 4,
    "know": 0.5,
    "group": 0.7,
    "remove": 0.3,
    "kill_actor": 0.6,
    "evict": 0.5,
}
CALL_WEIGHTS: dict[str, float] = {"put": 2, "store": 1.5, "task": 2, "method": 1.5, "actor": 0.2, "drop": 2, "get": 2}
CALL_WEIGHTS |= {"keep": 2, "end": 9, "end_large": 2, "raise": 0.7, "hand_back": 0.3}
EXPORT_WEIGHTS = {"export": 4.0, "load": 4.0}
"""What only some programs do: what they pickle outside of our serializers stays, and so hides what else would stay."""
MORE: dict[str, dict[str, float]] = {
    "uniform": {},
    "burst": {"burst": 8, "hand_back": 5, "end": 2, "get": 2},
    "keep": {"keep": 5, "method": 4, "put": 2, "drop": 2, "task": 2},
    "read": {"store": 4, "get": 6, "evict": 12, "end_large": 4, "know": 3, "keep": 2},
    "actors": {"actor": 4, "named": 5, "find": 4, "kill_actor": 5, "method": 3},
}
"""How much more often than usual each mix does something."""
MIXES = tuple(MORE)
STRATEGIES = ("PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD")
QUIET_ROUNDS = 260
ONE_CPU = Resources.of(num_cpus=1)
ONE_SLOT = Resources.of(resources={"slot": 1})
"""Actors hold slots, and not what tasks need: else a call could wait for what an actor has that only it keeps alive."""


class Simulation:
    """One run. Everything in it follows from the seed and from which actions are left out."""

    def __init__(
        self,
        seed: int,
        skipped: frozenset[int] = frozenset(),
        machines: Machines | None = None,
        *,
        with_faults: bool = True,
        actions: int | None = None,
    ) -> None:
        self.seed = seed
        self.rng = random.Random(f"order {seed}")
        shape = random.Random(f"shape {seed}")
        self.world = World(seed, machines, grace_s=shape.choice((0.0, 1.0, 5.0)))
        self.checker = Checker(self.world)
        self.actions = actions if actions is not None else shape.choice((shape.randint(10, 60), shape.randint(60, 250)))
        self.faults_left = shape.choice((0, 1, 1, 2, 3, 5)) if with_faults else 0
        self.mix = MIXES[seed % len(MIXES)]
        self.calm = shape.choice((1, 3, 6))
        """How many steps there are for each action."""
        self.exports = random.Random(f"exports {seed}").random() < 0.2
        self.skipped = skipped
        self.done = 0
        self._stalled: Channel | None = None
        self._stalled_for = 0
        self._head_is_back_at = 0.0
        self._set_up(shape)

    def _set_up(self, shape: random.Random) -> None:
        nodes = self._nodes = shape.choice((3, 3, 4, 5, 6, 8)) if self.seed % 20 else shape.randint(10, 30)
        for number in range(nodes):
            more = {"slot": shape.choice((1, 2)), **({"special": 1} if shape.random() < 0.4 else {})}
            total = Resources.of(num_cpus=shape.choice((1, 2, 2, 4)), resources=more)
            self.world.add_node(total, {"zone": "ab"[number % 2]})
        for _ in range(shape.choice((1, 2, 2, 3))):
            self.world.add_driver(shape.choice(self.world.living_daemons()))

    # ------------------------------------------------------------------ the run

    def run(self) -> None:
        """
        Raises:
            Violation: the cluster did what it never may; ``world.story`` says how it came.
        """
        try:
            while self.done < self.actions and self.drivers():
                for _ in range(self.rng.randint(0, 2 * self.calm)):
                    self._step()
                self._act(self.done)
                self.done += 1
                if self.rng.random() < 0.2:
                    self.world.validate()
            self._wind_down()
            self._end_jobs()
        except Violation:
            raise
        except Exception as error:
            raise Violation(f"{type(error).__name__}: {error}") from error

    def drivers(self) -> list[SimulatedProcess]:
        """Programs that run."""
        return [process for process in self.world.living_processes() if process.is_driver]

    def _step(self) -> None:
        rng, world = self.rng, self.world
        if rng.random() < 0.04:
            self._pass_time(rng.choice((0.05, 0.05, 0.1, 0.3, 0.9)))
            return
        if rng.random() < 0.7 and self._deliver():
            return
        steps = list(world.steps())
        if steps:
            world.take_step(rng.choice(steps))
        elif not self._deliver():
            self._pass_time(rng.choice((0.05, 0.1, 0.3)))

    def _deliver(self) -> bool:
        channels = self.world.open_channels()
        self._stalled_for -= 1
        if self._stalled_for < 0:
            self._stalled = self.rng.choice(channels) if channels and self.rng.random() < 0.5 else None
            self._stalled_for = self.rng.randint(2, 20)
        if self._stalled in channels and len(channels) > 1:
            channels.remove(self._stalled)
        if channels:
            self.world.deliver(self.rng.choice(channels))
        return bool(channels)

    def _pass_time(self, seconds: float) -> None:
        self.world.pass_time(seconds)
        if self.world.head.head is None and self.world.now_s >= self._head_is_back_at:
            self.world.restart_head()

    # ------------------------------------------------------------------ faults

    def _fault(self, rng: random.Random) -> None:
        world = self.world
        self.faults_left -= 1
        kind = rng.choice(("worker", "worker", "start", "node", "node", "leave", "head", "silence", "driver"))
        nodes = [daemon for daemon in world.living_daemons() if daemon.node != world.head.machine.membership.head_node]
        if rng.random() < 0.9:  # a cluster without programs has nothing more to tell
            nodes = [daemon for daemon in nodes if any(one.node != daemon.node for one in self.drivers())]
        workers = [process for process in world.living_processes() if not process.is_driver]
        if kind == "worker" and workers:
            world.kill_process(rng.choice(workers))
        elif kind == "start":
            self._fail_start(rng)
        elif kind == "driver" and len(self.drivers()) > 1:
            world.kill_process(rng.choice(self.drivers()))
        elif kind == "head":
            world.kill_head()
            self._head_is_back_at = world.now_s + rng.choice((0.1, 0.5, 2.0))
        elif kind == "leave" and nodes:
            world.faults += 1
            daemon = rng.choice(nodes)
            world.note(daemon.node, "leaves in order", daemon.node)
            daemon.head.leave("it is not needed any more")
        elif kind == "silence" and nodes:
            world.silence(rng.choice(nodes), rng.choice((1.0, 6.0, 8.0)))
        elif len(nodes) > 1:
            world.kill_node(rng.choice(nodes).node)

    def _fail_start(self, rng: random.Random) -> None:
        """A worker dies before it says hello."""
        starting = [(one, worker) for one in self.world.living_daemons() for worker in one.workers.waiting_to_start()]
        if starting:
            self.world.faults += 1
            daemon, worker = rng.choice(starting)
            self.world.note(daemon.node, f"worker {worker.number} dies before it says hello", worker.process)
            daemon.workers.start_failed(worker, "it died at once")
            daemon.carry_out()

    # ------------------------------------------------------------------ what programs do

    def _act(self, index: int) -> None:
        rng = random.Random(f"action {self.seed} {index}")
        if index in self.skipped:
            return
        if self.faults_left and rng.random() < 0.06 and self.world.head.head is not None:
            self._fault(rng)
            return
        if rng.random() < 0.01 and self.world.head.head is not None:
            self.world.add_node(Resources.of(num_cpus=rng.choice((1, 2)), resources={"slot": 1}))
            return
        acting = [(process, frame) for process in self.world.living_processes() for frame in process.frames()]
        if not acting:
            return
        drivers = [one for one in acting if one[0].is_driver]
        in_calls = [one for one in acting if not one[0].is_driver]
        if drivers and (not in_calls or rng.random() < 0.4):
            process, frame = rng.choice(drivers)
            weights = DRIVER_WEIGHTS
        else:
            process, frame = rng.choice(in_calls)
            weights = CALL_WEIGHTS
        more = MORE[self.mix]
        if self.exports:
            weights = weights | EXPORT_WEIGHTS
        kind = rng.choices(list(weights), [weight * more.get(one, 1) for one, weight in weights.items()])[0]
        action: Callable[[random.Random, SimulatedProcess, Frame], None] = getattr(self, f"_do_{kind}")
        action(rng, process, frame)

    def _do(
        self, process: SimulatedProcess, frame: Frame, what: str, action: Callable[[], None], *concerns: bytes
    ) -> None:
        where = "" if frame is process.main else f"{frame.name}: "
        self.world.act(process, where + what, action, *concerns)

    def _names(self, ids: Sequence[ObjectId]) -> str:
        return " ".join(self.world.name(one) for one in ids)

    def _is_actor(self, object_id: ObjectId) -> bool:
        return object_id in self.checker.actors

    def _refs(self, frame: Frame, process: SimulatedProcess) -> list[ObjectId]:
        mine = list(dict.fromkeys(frame.variables))
        return mine + ([] if frame is process.main else list(dict.fromkeys(process.main.variables)))

    def _some(self, rng: random.Random, process: SimulatedProcess, frame: Frame, most: int) -> list[ObjectId]:
        refs = self._refs(frame, process)
        return [rng.choice(refs) for _ in range(rng.randint(0, most))] if refs else []

    def _objects(self, process: SimulatedProcess, frame: Frame) -> list[ObjectId]:
        return [one for one in self._refs(frame, process) if not self._is_actor(one)]

    def _actors(self, process: SimulatedProcess, frame: Frame) -> list[ObjectId]:
        return [one for one in self._refs(frame, process) if self._is_actor(one)]

    def _do_put(self, rng: random.Random, process: SimulatedProcess, frame: Frame, size_bytes: int = 0) -> None:
        inside = self._some(rng, process, frame, 2)
        copies = rng.choice((1, 1, 1, 2, 3)) if size_bytes else 1
        what = f"put [{self._names(inside)}]" + (f" of {size_bytes} bytes on {copies} nodes" if size_bytes else "")

        def put() -> None:
            process.hold(frame, process.put(inside, size_bytes, copies))

        self._do(process, frame, what, put, *inside)

    def _do_store(self, rng: random.Random, process: SimulatedProcess, frame: Frame) -> None:
        self._do_put(rng, process, frame, rng.choice((200_000, MEGABYTE, 3 * MEGABYTE)))

    def _do_task(self, rng: random.Random, process: SimulatedProcess, frame: Frame) -> None:
        nested = self._some(rng, process, frame, 2)
        values = [one for one in self._objects(process, frame) if rng.random() < 0.25][:2]
        retries = rng.choice((0, 0, 1, 3))
        need, strategy = self._where(rng, process, frame)
        if strategy not in ("", SPREAD):
            nested, values = [], []  # a handle inside could keep the actor alive that holds all of the node
        size_bytes = 300_000 if rng.random() < 0.1 else 0
        again = rng.random() < 0.3
        result = ObjectId(b"")

        def submit() -> None:
            nonlocal result
            shape = process.shape(need, strategy)
            result = process.submit(shape, nested, values, retries, again, size_bytes)
            process.hold(frame, result)
            if not values:  # else it may wait for what waits for a resource of the code that would wait for it
                frame.children.add(result)

        what = f"call a task, {retries} retries, with [{self._names(nested)}] and values of [{self._names(values)}]"
        self._do(process, frame, what, submit, *nested, *values)

    def _do_burst(self, rng: random.Random, process: SimulatedProcess, frame: Frame) -> None:
        count = rng.randint(3, 10)

        def submit() -> None:
            shape = process.shape(dict(ONE_CPU.units))
            for _ in range(count):
                process.hold(frame, process.submit(shape, self._some(rng, process, frame, 1), (), 1))

        self._do(process, frame, f"call {count} tasks", submit)

    def _where(self, rng: random.Random, process: SimulatedProcess, frame: Frame) -> tuple[dict[str, int], str]:
        need = ONE_CPU
        groups = [one for one in frame.groups if process.group_states.get(one) is not None]
        if process.is_driver and groups and rng.random() < 0.5:
            return dict(in_group(ONE_CPU, rng.choice(groups), rng.choice((-1, 0))).units), ""
        if process.is_driver and rng.random() < 0.1:
            need = Resources.of(num_cpus=0, resources={"special": 1})
        choice = rng.random()
        if choice < 0.2:
            return dict(need.units), SPREAD
        if choice < 0.3:
            node = rng.choice(list(self.world.daemons)).hex()
            return dict(need.units), msgspec.json.encode(Strategy(node=node, soft=rng.random() < 0.7)).decode()
        return dict(need.units), ""

    def _do_method(self, rng: random.Random, process: SimulatedProcess, frame: Frame) -> None:
        actors = self._actors(process, frame)
        if not actors:
            return
        actor = rng.choice(actors)
        nested = self._some(rng, process, frame, 2)
        values = [one for one in self._objects(process, frame) if rng.random() < 0.2][:1]

        def call() -> None:
            process.hold(frame, process.call_method(actor, nested, values, rng.random() < 0.3))

        what = f"call a method of {self._names([actor])} with [{self._names(nested)}] and [{self._names(values)}]"
        self._do(process, frame, what, call, actor, *nested, *values)

    def _spec(self, rng: random.Random) -> ActorSpec:
        return ActorSpec(
            class_name="Actor",
            pickled_class=b"",
            arguments=b"",
            resources=dict(ONE_SLOT.units) if rng.random() < 0.3 else {},
            placement=dict(ONE_CPU.units),
            strategy=rng.choice(("", "", SPREAD)),
            max_restarts=rng.choice((0, 1, 1, -1)),
            max_task_retries=rng.choice((0, 0, 1, 2)),
            max_concurrency=rng.choice((1, 1, 1, 3)),
        )

    def _do_actor(self, rng: random.Random, process: SimulatedProcess, frame: Frame) -> None:
        nested = self._some(rng, process, frame, 1)
        values = [one for one in self._objects(process, frame) if rng.random() < 0.15][:1]
        spec = self._spec(rng)

        def create() -> None:
            process.hold(frame, process.create_actor(spec, nested, values))

        what = f"make an actor with [{self._names(nested)}] and [{self._names(values)}]"
        self._do(process, frame, what, create, *nested, *values)

    def _do_named(self, rng: random.Random, process: SimulatedProcess, frame: Frame) -> None:
        name = rng.choice(NAMES)
        spec = self._spec(rng)
        nested = self._some(rng, process, frame, 1)
        detached, get_if_exists = rng.random() < 0.3, rng.random() < 0.5
        creation = ObjectId(b"")

        def answered(found: ActorFound) -> None:
            if found.created:
                self.checker.name_granted(name, ObjectId(found.actor))
                frame.variables.append(creation)
            else:
                process.let_go([creation])
                self._found(process, frame, found)

        def create() -> None:
            nonlocal creation
            creation = process.create_actor(
                spec, nested, (), name=name, detached=detached, get_if_exists=get_if_exists, then=answered
            )
            process.acquire([creation])

        how = f"{', detached' if detached else ''}{', or get it' if get_if_exists else ''}"
        self._do(process, frame, f"make actor {name!r}{how}", create, *nested)

    def _found(self, process: SimulatedProcess, frame: Frame, found: ActorFound) -> None:
        """A handle out of a name."""
        if found.actor and not found.error:
            process.adopt([found.actor])
            frame.variables.append(ObjectId(found.actor))

    def _do_find(self, rng: random.Random, process: SimulatedProcess, frame: Frame) -> None:
        name = rng.choice(NAMES)
        found = lambda answer: self._found(process, frame, answer)  # noqa: E731
        self._do(process, frame, f"look for actor {name!r}", lambda: process.find_actor(name, found))

    def _do_kill_actor(self, rng: random.Random, process: SimulatedProcess, frame: Frame) -> None:
        actors = self._actors(process, frame)
        if actors:
            self.world.faults += 1
            actor, no_restart = rng.choice(actors), rng.random() < 0.5
            what = f"kill {self._names([actor])}{'' if no_restart else ', it may restart'}"
            self._do(process, frame, what, lambda: process.kill_actor(actor, no_restart), actor)

    def _do_group(self, rng: random.Random, process: SimulatedProcess, frame: Frame) -> None:
        bundles = [dict(ONE_CPU.units) for _ in range(rng.randint(1, 3))]
        strategy = rng.choice(STRATEGIES)

        def answered(answer: PlacementGroups) -> None:
            self.world.check(not answer.error, f"the group was refused: {answer.error}")

        def create() -> None:
            frame.groups.append(process.create_group(bundles, strategy, answered))

        self._do(process, frame, f"make a group of {len(bundles)} bundles, {strategy}", create)

    def _do_remove(self, rng: random.Random, process: SimulatedProcess, frame: Frame) -> None:
        if frame.groups:
            self._remove_group(process, frame, rng.choice(frame.groups))

    def _remove_group(self, process: SimulatedProcess, frame: Frame, group: bytes) -> None:
        self.world.faults += 1
        frame.groups.remove(group)
        what = f"remove group {self.world.name(group)}"
        self._do(process, frame, what, lambda: process.remove_group(group, lambda answer: None), group)

    def _do_drop(self, rng: random.Random, process: SimulatedProcess, frame: Frame) -> None:
        if frame.variables:
            object_id = rng.choice(frame.variables)
            what = f"drop {self._names([object_id])}"
            self._do(process, frame, what, lambda: process.drop(frame, object_id), object_id)

    def _do_keep(self, rng: random.Random, process: SimulatedProcess, frame: Frame) -> None:
        if frame.variables:
            object_id = rng.choice(frame.variables)
            what = f"keep {self._names([object_id])}"
            self._do(process, frame, what, lambda: process.keep(frame, object_id), object_id)

    def _do_get(self, rng: random.Random, process: SimulatedProcess, frame: Frame) -> None:
        objects = self._objects(process, frame)
        if not process.is_driver:
            # Code in workers waits for what was put, and for its own tasks: nothing waits in a circle.
            objects = [one for one in objects if one in frame.children or one[:12] not in self.checker.retries]
        if objects:
            object_id = rng.choice(objects)
            what = f"get {self._names([object_id])}"
            self._do(process, frame, what, lambda: process.await_value(frame, object_id), object_id)

    def _do_know(self, rng: random.Random, process: SimulatedProcess, frame: Frame) -> None:
        objects = self._objects(process, frame)
        if objects:
            object_id = rng.choice(objects)

            def know() -> None:
                process.acquire([object_id])
                process.know(object_id, lambda ref: process.let_go([object_id]))

            self._do(process, frame, f"wait for {self._names([object_id])} anywhere", know, object_id)

    def _do_export(self, rng: random.Random, process: SimulatedProcess, frame: Frame) -> None:
        objects = self._objects(process, frame)
        if objects:
            object_id = rng.choice(objects)
            what = f"pickle {self._names([object_id])} outside of Remora"
            self._do(process, frame, what, lambda: process.export(object_id), object_id)
            if self.faults_left and not process.is_driver and rng.random() < 0.5:
                self.faults_left -= 1
                self.world.kill_process(process)  # what holds the object for its life is the process itself

    def _do_load(self, rng: random.Random, process: SimulatedProcess, frame: Frame) -> None:
        known = [one for one in self.checker.exports if self.checker.is_exported(one, process.job)]
        if known:
            object_id = rng.choice(known)

            def load() -> None:
                process.load(object_id)
                frame.variables.append(object_id)

            what = f"unpickle {self._names([object_id])} outside of Remora"
            self._do(process, frame, what, load, object_id)

    def _do_evict(self, rng: random.Random, process: SimulatedProcess, frame: Frame) -> None:
        daemon = rng.choice(self.world.living_daemons())
        if rng.random() < 0.3:
            daemon.transfers.has_room = not daemon.transfers.has_room
        else:
            daemon.evict(rng.randint(1, 4) * MEGABYTE)

    def _do_end(self, rng: random.Random, process: SimulatedProcess, frame: Frame, size_bytes: int = 0) -> None:
        inside = self._some(rng, process, frame, 2) if rng.random() < 0.4 else []
        self._end(process, frame, inside, size_bytes)

    def _end(
        self, process: SimulatedProcess, frame: Frame, inside: Sequence[ObjectId] = (), size_bytes: int = 0
    ) -> None:
        error = b"an argument is lost" if frame.argument_error else b""
        what = f"return [{self._names(inside)}]{' in the store' if size_bytes else ''}{' (error)' if error else ''}"
        concern = frame.key[0] + frame.key[1].to_bytes(4, "big") if frame.key else b""
        self._do(process, frame, what, lambda: process.end_call(frame, inside, size_bytes, error), concern, *inside)

    def _do_end_large(self, rng: random.Random, process: SimulatedProcess, frame: Frame) -> None:
        if not frame.is_constructor:
            self._do_end(rng, process, frame, rng.choice((200_000, 2 * MEGABYTE)))

    def _do_raise(self, rng: random.Random, process: SimulatedProcess, frame: Frame) -> None:
        if not frame.is_constructor or rng.random() < 0.3:
            self._do(process, frame, "raise an exception", lambda: process.end_call(frame, error=b"an exception"))

    def _do_hand_back(self, rng: random.Random, process: SimulatedProcess, frame: Frame) -> None:
        if process.queue:
            self._do(process, frame, "runs for long", process.hand_back)

    # ------------------------------------------------------------------ the end

    def _wind_down(self) -> None:
        """End every call and drop every ref, until nothing is left, or nothing moves any more."""
        self.world.note(b"", "--- wind down")
        if self.world.head.head is None:
            self.world.restart_head()
        for daemon in self.world.living_daemons():
            daemon.silent_until_s = 0.0
            daemon.transfers.has_room = True
        self._until_quiet(self._finish_programs)
        self.world.validate()

    def _until_quiet(self, finish: Callable[[], None]) -> None:
        problem: Problem | None = None
        for number in range(QUIET_ROUNDS):
            finish()
            self._run_dry()
            if number == QUIET_ROUNDS // 2 and self._is_short_of_something():
                self.world.add_node(Resources.of(num_cpus=1, resources={"special": 1, "slot": 8}))
            self._pass_time(0.1 if number < 5 else 0.4)
            problem = next(problems(self.world, objects_stay=self.checker.objects_stay), None)
            if problem is None and not self.world.channels and next(self.world.steps(), None) is None:
                return
        if problem is not None:
            raise Violation(*problem)
        raise Violation("messages go on for ever")

    def _is_short_of_something(self) -> bool:
        """Whether the special nodes are dead, or actors hold all slots whose handles are in calls that wait for one."""
        frees = [daemon.workers.leases.ledger.free() for daemon in self.world.living_daemons()]
        return all(free.get("slot", 0) <= 0 for free in frees) or not any("special" in free for free in frees)

    def _run_dry(self) -> None:
        for _ in range(200_000):
            if self.world.channels and (self.rng.random() < 0.7 or next(self.world.steps(), None) is None):
                if not self._deliver():
                    return
                continue
            steps = list(self.world.steps())
            if not steps:
                return
            self.world.take_step(self.rng.choice(steps))
        raise Violation("messages go on for ever")

    def _finish_programs(self) -> None:
        self._kill_detached()
        for process in self.world.living_processes():
            for frame in process.frames():
                if frame is not process.main:
                    self._end(process, frame)
            for group in list(process.main.groups):
                self._remove_group(process, process.main, group)
            while process.main.variables and process.is_alive:
                object_id = process.main.variables[0]
                what = f"drop {self._names([object_id])}"
                self._do(process, process.main, what, lambda: process.drop(process.main, object_id), object_id)  # noqa: B023

    def _kill_detached(self) -> None:
        """Only a program ends an actor that outlives its job."""
        dead = self.world.declared_dead
        drivers = [process for process in self.drivers() if process.node not in dead]
        for actor in self.world.head.machine.registry.actors() if drivers else ():
            if actor.detached:
                self.world.faults += 1
                driver, message = drivers[0], KillActor(actor.id)
                what = f"kill the detached actor {self.world.name(actor.id)}"
                self._do(driver, driver.main, what, lambda: driver.tell_daemon(message), actor.id)  # noqa: B023

    def _end_jobs(self) -> None:
        """The programs end, one after the other: nothing of them stays.

        Nodes that joined late are not looked at: to one that joined after the end of a job, which a detached actor
        of it has outlived, the job's workers are news.
        """
        self.world.note(b"", "--- the programs end")
        for process in self.drivers():
            self.world.faults += 1
            self.world.end_process(process.process, "the program has ended", in_order=True)
        self._until_quiet(lambda: self._finish_programs())
        self._check_ended()

    def _check_ended(self) -> None:
        detached = {actor.state.worker for actor in self.world.head.machine.registry.actors() if actor.detached}
        late = {daemon.node for daemon in list(self.world.daemons.values())[self._nodes :]}
        for process in self.world.living_processes():
            if process.process not in detached and process.node not in late:
                raise Violation(f"{process!r} outlives its job", process.process)
        for daemon in self.world.living_daemons():
            if daemon.workers.waiting_to_start():
                raise Violation(f"{self.world.name(daemon.node)} starts workers for nobody", daemon.node)
            for _ in range(2):  # what was told lately is kept for one look
                daemon.workers.tick(self.world.now_s)
            for job in daemon.workers.unused_jobs() if daemon.node not in late else ():
                raise Violation(f"{self.world.name(daemon.node)} never forgets {self.world.name(job)}", job)
