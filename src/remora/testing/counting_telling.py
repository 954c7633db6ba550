"""Telling a story about counting on a simulated cluster: in order, or shuffled from a seed."""

from __future__ import annotations

import random
from collections.abc import Callable

from remora.base.ids import ObjectId, ProcessId, make_object_id
from remora.base.object_ref import PENDING
from remora.core.counting.directory import Directory
from remora.core.counting.process import ProcessRefs
from remora.testing.counting_checker import Checker
from remora.testing.counting_client import SimulatedClient
from remora.testing.counting_stories import TIMING, Death, Step, Story, names_in
from remora.testing.counting_world import Violation, World

MakeWorld = Callable[..., World]


class Telling:
    """One telling of a story."""

    def __init__(
        self,
        story: Story,
        process_machine: type[ProcessRefs] = ProcessRefs,
        directory_machine: type[Directory] = Directory,
        make_world: MakeWorld = World,
    ) -> None:
        self.story = story
        self.world = make_world(story.layout, process_machine, directory_machine)
        self.checker = Checker(self.world)
        self.ids: dict[str, ObjectId] = {}
        self.tasks: dict[str, tuple[ProcessId, int]] = {}
        self.stalled: set[tuple[bytes, bytes]] = set()

    def tell_in_order(self, death: Death | None = None) -> None:
        """
        Raises:
            Violation: the protocol was broken, or a step could never be done.
        """
        left = list(self.story.steps)
        while left:
            if death is not None and len(left) == len(self.story.steps) - death.after_steps:
                self._happen(death)
                death = None
            able = self._first_able(left)
            if able is not None:
                self._do(*left.pop(able))
            elif self._is_still() and self.world.faults:
                left.clear()  # it cannot go on without the dead
            elif self._is_still():
                raise Violation(f"nothing moves any more, and {left[0][0]} cannot {' '.join(left[0][1])}")
            else:
                self._deliver_oldest()
        self.stalled.clear()
        self._deliver_all()
        self.world.log.append("--- everything ends")
        while self._finish() or not self._is_still():
            self._deliver_all()
        self.checker.check_quiet()

    def tell_shuffled(self, seed: int, fault: str = "") -> None:
        """*fault* is ``kill`` or ``cut``: one of it, of whomever, at any step.

        Raises:
            Violation: the protocol was broken.
        """
        rng = random.Random(seed)
        left: dict[str, list[Step]] = {}
        for who, step in self.story.steps:
            if step[0] not in TIMING:
                left.setdefault(who, []).append(step)
        self._schedule(rng, left, rng.randrange(2 * len(self.story.steps)) if fault else -1, fault)
        while self._finish() or self.world.channels:
            while self.world.channels:
                self.world.deliver(rng.choice(sorted(self.world.channels)))
        self.checker.check_quiet()

    def _schedule(self, rng: random.Random, left: dict[str, list[Step]], fault_at: int, fault: str) -> None:
        stalled: tuple[bytes, bytes] | None = None
        stalled_until = done = 0
        while True:
            if done == fault_at:
                self._random_fault(rng, fault)
            channels = sorted(self.world.channels)
            if done >= stalled_until:
                stalled = rng.choice(channels) if channels and rng.random() < 0.7 else None
                stalled_until = done + rng.randint(3, 14)
            if stalled in channels and len(channels) > 1:
                channels.remove(stalled)
            able = [who for who, steps in left.items() if steps and self._can(who, steps[0])]
            deaf = [client.process for client in self.world.living_clients() if client.deaths]
            if not channels and not able and not deaf:
                return
            done += 1
            choice = rng.randrange(len(channels) + len(able) + len(deaf))
            if choice < len(channels):
                self.world.deliver(channels[choice])
            elif choice < len(channels) + len(able):
                who = able[choice - len(channels)]
                self._do(who, left[who].pop(0))
            else:
                self.world.tell_deaths(deaf[choice - len(channels) - len(able)])

    def _happen(self, death: Death) -> None:
        if death.settled:
            self._deliver_all()
        self._fault(["kill", *death.victim.split()])

    def _random_fault(self, rng: random.Random, fault: str) -> None:
        nodes = self.world.living_nodes()
        if fault == "cut" and len(nodes) > 1:
            self.world.cut(*rng.sample(nodes, 2))
        elif fault == "kill" and rng.random() < 0.3:
            self.world.kill_node(rng.choice(nodes), lose_last=rng.random() < 0.5)
        elif fault == "kill":
            self.world.kill(rng.choice(self.world.living_clients()).process, lose_last=rng.random() < 0.5)

    @property
    def text(self) -> str:
        """The log, and what it cost."""
        counts = self.world.message_counts
        total = " ".join(f"{kind} {counts[kind]}" for kind in sorted(counts))
        return "\n".join([*self.world.log, f"sent: {total}", ""])

    # Steps

    def _can(self, who: str, step: Step) -> bool:
        if not who:
            return True
        client = self.world.client(who)
        if not client.alive:
            return False
        kind, words = step[0], step[1:]
        if kind == "quiet":
            return self._is_still()
        if kind == "closed":
            return words[0] in self.tasks and self._is_closed(client, self.tasks[words[0]])
        if kind == "has":
            if words[0] in self.tasks:
                return self.tasks[words[0]] in client.running
            own = client.objects.get(self.ids.get(words[0], ObjectId(b"")))
            return own is not None and own.value.state != PENDING
        if kind in ("return", "yield", "keep") and self.tasks.get(words[0]) not in client.running:
            return False
        if kind == "keep":
            return self.ids.get(words[1]) in client.running[self.tasks[words[0]]].variables
        if kind == "get" and len(words) == 3 and self.tasks.get(words[2]) not in client.running:
            return False
        return all(self.ids.get(name) in client.in_hand() for name in self._refs_used(kind, words))

    def _refs_used(self, kind: str, words: list[str]) -> list[str]:
        if kind in ("drop", "get", "know", "close"):
            return words[:1]
        return [name for word in words if word.startswith("[") for name in names_in(word)]

    def _is_closed(self, client: SimulatedClient, key: tuple[ProcessId, int]) -> bool:
        arrived = not any(
            client.process == to and sender == key[0] and getattr(message, "call", None) == key[1]
            for (sender, to), queue in self.world.channels.items()
            for _, message in queue
        )
        return arrived and key not in client.running and key not in client.refs._tasks

    def _do(self, who: str, step: Step) -> None:
        if not who and step[0] in TIMING:
            self._timing(step)
        elif not who:
            self._fault(step)
        elif step[0] not in ("quiet", "has", "closed"):
            client = self.world.client(who)
            self.world.act(client.process, " ".join(step), lambda c: self._step(c, step[0], step[1:]))

    def _timing(self, step: Step) -> None:
        if step[0] == "settle":
            self._deliver_all()
            return
        if step[0] == "wait":
            self.world.pass_time(float(step[1]))
            return
        if step[0] == "evict":
            self.world.evict(self.world.node(step[1]), 1000)
            return
        sender, to = (
            next(object_id for object_id, name in self.world.names.items() if name == word) for word in step[1:]
        )
        self.world.log.append(" ".join(step))
        if step[0] == "stall":
            self.stalled.add((sender, to))
        else:
            self.stalled.discard((sender, to))

    def _fault(self, step: Step) -> None:
        if step[0] == "cut":
            self.world.cut(self.world.node(step[1]), self.world.node(step[2]))
        elif step[1] == "node":
            if self.world.node(step[2]) in self.world.alive:
                self.world.kill_node(self.world.node(step[2]))
        elif self.world.client(step[1]).alive:
            self.world.kill(self.world.client(step[1]).process)

    def _step(self, client: SimulatedClient, kind: str, words: list[str]) -> None:
        refs = [self.ids[name] for word in words if word.startswith("[") for name in names_in(word)]
        match kind:
            case "put" | "store":
                copies = int(words[-1]) if "copies" in words else 1
                self._name(words[0], client.new(refs, large=kind == "store", copies=copies))
            case "actor":
                handle = client.new()
                client.escape(handle)
                self.world.client(words[0]).become_actor(handle)
                self._name(words[1], handle)
            case "call":
                worker = self.world.client(words[0]).process
                nested, top_level = ([], refs) if "values" in words else (refs, [])
                call, result = client.submit(worker, nested, top_level)
                self.tasks[words[1]] = (client.process, call)
                self._name(words[-1], result)
            case "return":
                client.end(self.tasks[words[0]], refs, large="large" in words)
            case "yield":
                key = self.tasks[words[0]]
                client.give_item(key, refs)
                self._name(words[-1], make_object_id(key[0], key[1], client.running[key].items))
            case "keep":
                client.keep(self.tasks[words[0]], self.ids[words[1]])
            case "get":
                task = client.running[self.tasks[words[2]]] if len(words) == 3 else None
                client.get(self.ids[words[0]], task)
            case "know":
                client.know(self.ids[words[0]])
            case "close":
                client.close_view(self.ids[words[0]])
            case "drop":
                client.drop(self.ids[words[0]])
            case _:
                raise ValueError(f"no such step: {kind}")

    def _name(self, name: str, object_id: ObjectId) -> None:
        self.ids[name] = object_id
        self.world.names[object_id] = name

    # Time

    def _first_able(self, left: list[tuple[str, Step]]) -> int | None:
        """The first step that can be done now; each process keeps its order, a line of nobody that of all."""
        waiting: set[str] = set()
        for index, (who, step) in enumerate(left):
            if not who:
                return None if waiting else index
            if who not in waiting and self._can(who, step):
                return index
            waiting.add(who)
        return None

    def _is_still(self) -> bool:
        return not self._moving() and not any(client.deaths for client in self.world.living_clients())

    def _moving(self) -> bool:
        return any(channel not in self.stalled for channel in self.world.channels)

    def _deliver_oldest(self) -> None:
        for client in self.world.living_clients():
            if client.deaths:
                self.world.tell_deaths(client.process)
        if self._moving():
            self.world.deliver(self.world.oldest(self.stalled))

    def _deliver_all(self) -> None:
        while not self._is_still():
            self._deliver_oldest()

    def _finish(self) -> bool:
        """End every task, drop every ref. Returns whether there was anything."""
        moved = False
        for client in self.world.living_clients():
            for key in sorted(client.running):
                self.world.act(client.process, f"return {self._task_name(key)}", lambda c: c.end(key))  # noqa: B023
                moved = True
            for object_id in sorted(client.in_hand()):
                while object_id in client.in_hand():
                    self.world.act(client.process, f"drop {self.world.name(object_id)}", lambda c: c.drop(object_id))  # noqa: B023
                    moved = True
            if client.deaths:
                self.world.tell_deaths(client.process)
                moved = True
        if any(d.next_deadline_s is not None for d in self.world.directories.values()):
            self.world.pass_time(0.0)
        return moved

    def _task_name(self, key: tuple[ProcessId, int]) -> str:
        return next(name for name, value in self.tasks.items() if value == key)
