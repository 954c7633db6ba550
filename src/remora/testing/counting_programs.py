"""Random programs on a simulated cluster, from a seed: what they do, in which order messages arrive, who dies when.

Four mixes, since each finds what the others miss: *uniform* does everything, *hot* has few objects that everybody
passes on, keeps and drops, *storm* has one object that is only passed, kept, wrapped and dropped, *read* has large
objects that are read everywhere, on nodes whose stores are full now and then. One channel is stalled now and then for
2-14 deliveries, which makes long ways short and short ways long.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from remora.base.ids import NodeId, ObjectId, ProcessId
from remora.base.object_ref import FIRST_FINISHED
from remora.core.counting.directory import Directory
from remora.core.counting.process import ProcessRefs
from remora.testing.counting_checker import Checker
from remora.testing.counting_client import SimulatedClient
from remora.testing.counting_world import Layout, Violation, World

LAYOUTS: tuple[Layout, ...] = (
    {"N1": ["A", "B"], "N2": ["C", "D"], "N3": ["E", "F"]},
    {"N1": ["A", "B", "C"], "N2": ["D", "E"], "N3": ["F"]},
    {"N1": ["A"], "N2": ["B", "C"], "N3": ["D"]},
    {"N1": ["A", "B", "C"]},
    {"N1": ["A"], "N2": ["B"]},
)
WIDE: Layout = {"N1": ["A", "B"], "N2": ["C"], "N3": ["D", "E"], "N4": ["F"], "N5": ["G"]}
"""For reading: more nodes to have copies, and to be heirs."""
MIXES = ("uniform", "hot", "storm", "read")
UNIFORM: dict[str, float] = {"new": 2, "put": 2, "store": 1, "call": 5, "inline": 1, "end": 4, "end_large": 1}
UNIFORM |= {"yield": 1, "keep": 2, "get": 3, "drop": 4, "know": 0.3}
HOT = {"new": 0.1, "put": 0.3, "store": 0.7, "call": 5.0, "inline": 0.3, "end": 5.0, "end_large": 0.2, "yield": 0.3}
HOT |= {"keep": 4.0, "get": 1.0, "drop": 5.0}
READ = {"store": 1.5, "call": 6.0, "end": 1.5, "end_large": 1.5, "keep": 4.0, "get": 8.0, "know": 0.7, "drop": 1.5}
STORM = {"new": 0.05, "store": 0.8, "call": 3.5, "end": 3.0, "keep": 2.5, "drop": 2.5}
WEIGHTS: dict[str, dict[str, float]] = {"uniform": UNIFORM, "hot": HOT, "storm": STORM, "read": READ}


class Simulation:
    """One run. Everything in it follows from the seed."""

    def __init__(
        self,
        seed: int,
        process_machine: type[ProcessRefs] = ProcessRefs,
        directory_machine: type[Directory] = Directory,
        with_faults: bool = True,
        max_steps: int = 40,
    ) -> None:
        self.seed = seed
        self.rng = random.Random(seed)
        self.mix = MIXES[seed % len(MIXES)]
        grace_s = self.rng.choice((0.0, 0.0, 8.0))
        layouts = (WIDE, *LAYOUTS[:3]) if self.mix == "read" else LAYOUTS
        self.world = World(self.rng.choice(layouts), process_machine, directory_machine, grace_s)
        self.checker = Checker(self.world)
        self.steps_left = float(self.rng.randint(4, max_steps * 2 if self.mix == "read" else max_steps))
        reads = self.mix == "read"
        self.deaths_left = self.rng.choice((0, 1, 1, 2, 2) if reads else (0, 0, 1, 1, 2)) if with_faults else 0
        self.cuts_left = self.rng.choice((0, 0, 0, 2) if reads else (0, 0, 1, 2)) if with_faults else 0
        self.nodes_die = self.cuts_left == 0
        """Links are cut by nobody when nodes die: what the heir is told must arrive."""
        self.delivery_share = self.rng.choice((0.3, 0.5, 0.7))
        self.stalled: tuple[bytes, bytes] | None = None
        self.stalled_for = 0
        self.data: set[ObjectId] = set()
        self.actions: dict[str, Callable[[SimulatedClient], bool]] = {
            "new": self._new,
            "put": self._put,
            "store": self._store,
            "call": self._call,
            "inline": self._inline,
            "end": self._end,
            "end_large": self._end_large,
            "yield": self._yield,
            "keep": self._keep,
            "get": self._get,
            "drop": self._drop,
            "know": self._know,
        }

    def run(self) -> None:
        """
        Raises:
            Violation: the protocol was broken; ``world.log`` says how it came.
        """
        try:
            while self.steps_left > 0 and self.world.living_clients():
                self._step()
            self._wind_down()
            self.checker.check_quiet()
        except Violation:
            raise
        except Exception as error:
            raise Violation(f"{type(error).__name__}: {error}") from error

    def _step(self) -> None:
        rng = self.rng
        if self.world.channels and rng.random() < self.delivery_share:
            self._deliver()
        elif rng.random() < 0.25:
            self._tell_deaths()
        elif self.deaths_left and rng.random() < (0.03 if self.mix == "read" else 0.05) * self._ripeness():
            self._kill()
        elif self.cuts_left and rng.random() < 0.06:
            self._cut()
        elif rng.random() < 0.1:
            self.world.pass_time(rng.random() * 4)
        elif rng.random() < (0.15 if self.mix == "read" else 0.03):
            self._press()
        else:
            self._act(rng.choice(self.world.living_clients()))

    def _deliver(self) -> None:
        channels = sorted(self.world.channels)
        self.stalled_for -= 1
        if self.stalled_for < 0:
            self.stalled = self.rng.choice(channels) if self.rng.random() < 0.5 else None
            self.stalled_for = self.rng.randint(2, 14)
        if self.stalled in channels and len(channels) > 1:
            channels.remove(self.stalled)
        self.world.deliver(self.rng.choice(channels))

    def _tell_deaths(self) -> None:
        clients = [client for client in self.world.living_clients() if client.deaths]
        if clients:
            self.world.tell_deaths(self.rng.choice(clients).process)

    def _kill(self) -> None:
        self.deaths_left -= 1
        lose_last = self.rng.random() < 0.5
        share = 0.9 if self.mix == "read" else 0.5
        if self.nodes_die and self.rng.random() < share and len(self.world.living_nodes()) > 1:
            while self.mix == "read" and self.world.channels and self.rng.random() < 0.98:
                self._deliver()
            self.world.kill_node(self._victim(), lose_last)
        else:
            self.world.kill(self.rng.choice(self.world.living_clients()).process, lose_last)

    def _ripeness(self) -> float:
        """How much there is to lose: in programs that read, little before somebody has a copy."""
        if self.mix != "read":
            return 1.0
        return 3.0 if any(len(self.world.directories[node]._local) for node in self.world.living_nodes()) else 0.1

    def _victim(self) -> NodeId:
        """Rather a node of which the others hold or read something."""
        nodes = self.world.living_nodes()
        wanted = [
            node
            for node in nodes
            for entry in self.world.directories[node]._entries.values()
            if entry.spread is not None or any(holder[:4] != node for holder in entry.holders)
        ]
        return self.rng.choice(wanted if wanted and self.rng.random() < 0.8 else nodes)

    def _cut(self) -> None:
        nodes = self.world.living_nodes()
        if len(nodes) > 1:
            self.cuts_left -= 1
            self.world.cut(*self.rng.sample(nodes, 2))

    def _press(self) -> None:
        """A store needs space; somebody closes a view; a store is full, or has room again."""
        node = self.rng.choice(self.world.living_nodes())
        views = [(client, object_id) for client in self.world.living_clients() for object_id in sorted(client.viewed)]
        choice = self.rng.random()
        if views and choice < 0.4:
            client, object_id = self.rng.choice(views)
            client.close_view(object_id)
        elif choice < 0.8:
            self.world.evict(node, self.rng.randint(1, 3))
        elif self.mix == "read":
            self.world.pulls[node].has_room = not self.world.pulls[node].has_room

    def _act(self, client: SimulatedClient) -> None:
        weights = WEIGHTS[self.mix]
        kind = self.rng.choices(list(weights), list(weights.values()))[0]
        if kind == "new" and self.mix == "storm" and self.data:
            return
        if self.mix in ("hot", "storm") and not self.data:
            kind = "new"
        self.steps_left -= 1 if self.actions[kind](client) else 0.2

    # What a program may do; each says whether it could

    def _refs(self, client: SimulatedClient) -> list[ObjectId]:
        refs = sorted(client.in_hand())
        data = [object_id for object_id in refs if object_id in self.data]
        return data if data and self.mix != "uniform" and self.rng.random() < 0.9 else refs

    def _some(self, client: SimulatedClient, most: int) -> list[ObjectId]:
        refs = self._refs(client)
        return [self.rng.choice(refs) for _ in range(self.rng.randint(0, most))] if refs else []

    def _task(self, client: SimulatedClient) -> tuple[ProcessId, int] | None:
        return self.rng.choice(sorted(client.running)) if client.running else None

    def _new(self, client: SimulatedClient) -> bool:
        self.world.act(client.process, "put", lambda c: self.data.add(c.new()))
        return True

    def _put(self, client: SimulatedClient) -> bool:
        return self._make(client, large=False)

    def _store(self, client: SimulatedClient) -> bool:
        return self._make(client, large=True)

    def _make(self, client: SimulatedClient, large: bool) -> bool:
        inside = self._some(client, 2)
        if not inside and self.mix != "read":
            return False
        copies = self.rng.choice((1, 1, 2, 3)) if large else 1
        line = f"put {self.world.list_names(inside)}{' in the arena' if large else ''}"
        line += f" of {copies} nodes" if copies > 1 else ""

        def put(c: SimulatedClient) -> None:
            object_id = c.new(inside, large, copies)
            if self.mix == "storm":
                c.drop(object_id)
            if self.mix == "read":
                self.data.add(object_id)

        self.world.act(client.process, line, put)
        return True

    def _call(self, client: SimulatedClient) -> bool:
        if self.mix == "uniform":
            return self._submit(client, self._some(client, 2), [])
        refs = self._refs(client)
        return bool(refs) and self._submit(client, [self.rng.choice(refs)], [])

    def _inline(self, client: SimulatedClient) -> bool:
        ready = [
            own
            for own in self._refs(client)
            if own in client.objects and client.objects[own].value.state >= FIRST_FINISHED
        ]
        return bool(ready) and self._submit(client, [], [self.rng.choice(ready)])

    def _submit(self, client: SimulatedClient, nested: list[ObjectId], top_level: list[ObjectId]) -> bool:
        others = [process for process in self.world.clients if process != client.process]
        worker = self.rng.choice(others)
        drops_result = self.mix in ("hot", "storm") and self.rng.random() < 0.8
        names = self.world.list_names
        line = f"call {self.world.name(worker)} with {names(nested)}"
        line += f" and the value of {names(top_level)}" if top_level else ""
        line += ", drop the result" if drops_result else ""

        def submit(c: SimulatedClient) -> None:
            _, result = c.submit(worker, nested, top_level)
            if drops_result:
                c.drop(result)

        self.world.act(client.process, line, submit)
        return True

    def _end(self, client: SimulatedClient, large: bool = False) -> bool:
        key = self._task(client)
        if key is None:
            return False
        carries = self.mix == "uniform" or self.rng.random() < 0.15
        contents = self._some(client, 2) if carries else []
        self._end_task(client, key, contents, large)
        return True

    def _end_large(self, client: SimulatedClient) -> bool:
        return self._end(client, large=True)

    def _yield(self, client: SimulatedClient) -> bool:
        key = self._task(client)
        if key is None:
            return False
        contents = self._some(client, 1)
        line = f"yield {self.world.list_names(contents)} from {self._task_name(key)}"
        self.world.act(client.process, line, lambda c: c.give_item(key, contents))
        return True

    def _keep(self, client: SimulatedClient) -> bool:
        key = self._task(client)
        if key is None or not client.running[key].variables:
            return False
        object_id = self.rng.choice(client.running[key].variables)
        line = f"keep {self.world.name(object_id)} of {self._task_name(key)}"
        self.world.act(client.process, line, lambda c: c.keep(key, object_id))
        return True

    def _get(self, client: SimulatedClient) -> bool:
        refs = self._refs(client)
        if not refs:
            return False
        object_id = self.rng.choice(refs)
        key = self._task(client)
        task = client.running[key] if key is not None and self.rng.random() < 0.5 else None
        purpose = self.rng.choice((0, 0, 1, 2))
        self.world.act(client.process, f"get {self.world.name(object_id)}", lambda c: c.get(object_id, task, purpose))
        return True

    def _know(self, client: SimulatedClient) -> bool:
        refs = self._refs(client)
        if not refs:
            return False
        object_id = self.rng.choice(refs)
        self.world.act(client.process, f"know of {self.world.name(object_id)}", lambda c: c.know(object_id))
        return True

    def _drop(self, client: SimulatedClient) -> bool:
        refs = self._refs(client)
        if not refs:
            return False
        self._drop_ref(client, self.rng.choice(refs))
        return True

    def _task_name(self, key: tuple[ProcessId, int]) -> str:
        return f"task {key[1]} of {self.world.name(key[0])}"

    # The end

    def _wind_down(self) -> None:
        """End every task and drop every ref, in between deliver in random order, until nothing moves any more."""
        self.world.log.append("--- wind down")
        busy = True
        while busy:
            while self.world.channels:
                self._deliver()
                if self.rng.random() < 0.5:
                    self._drop_any()
            busy = self._finish_programs() or bool(self.world.channels)
            if not busy and any(d.next_deadline_s is not None for d in self.world.directories.values()):
                self.world.pass_time(100.0)
                busy = bool(self.world.channels) or any(
                    self.world.directories[node].next_deadline_s is not None for node in self.world.living_nodes()
                )

    def _drop_any(self) -> None:
        clients = [client for client in self.world.living_clients() if client.in_hand()]
        if clients:
            self._drop(self.rng.choice(clients))

    def _finish_programs(self) -> bool:
        """End every task, drop every ref. Returns whether there was anything."""
        moved = False
        for client in self.world.living_clients():
            for key in sorted(client.running):
                self._end_task(client, key, [], large=False)
                moved = True
            while client.in_hand():
                self._drop_ref(client, min(client.in_hand()))
                moved = True
            if client.deaths:
                self.world.tell_deaths(client.process)
                moved = True
        return moved

    def _end_task(
        self, client: SimulatedClient, key: tuple[ProcessId, int], contents: list[ObjectId], large: bool
    ) -> None:
        line = f"return {self.world.list_names(contents)} from {self._task_name(key)}{', large' if large else ''}"
        self.world.act(client.process, line, lambda c: c.end(key, contents, large))

    def _drop_ref(self, client: SimulatedClient, object_id: ObjectId) -> None:
        self.world.act(client.process, f"drop {self.world.name(object_id)}", lambda c: c.drop(object_id))
