"""A real head process, behind a real port, with stand-ins of nodes in the test's own process."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections.abc import Callable
from time import monotonic
from typing import Any

from remora.base.credentials import ClusterCredentials
from remora.base.ids import make_object_id, make_process_id
from remora.messages import actors as a
from remora.messages import head as m
from remora.messages.session import JobEnvironment
from remora.processes.daemon.head_link import HeadLink
from remora.processes.head.configuration import HeadConfiguration
from remora.processes.head.keeper import HeadKeeper
from remora.system.network.doorkeeper import Doorkeeper
from remora.system.network.preface import Preface
from remora.system.network.socket_passing import pass_socket
from remora.system.reactor import Reactor

ENVIRONMENT = JobEnvironment([], "/", "main.py", "space")
STORE_BYTES = 1 << 20


class StandInNode:
    """What a daemon would hear, in lists."""

    def __init__(self, rig: HeadRig) -> None:
        self.rig = rig
        self.link = HeadLink(rig.reactor, rig.address, rig.credentials, self)
        self.members: dict[bytes, m.MemberView] = {}
        self.departed: list[m.Departure] = []
        self.messages: list[Any] = []
        """What the head said to processes of this node."""
        self.placings: list[m.PlaceActor] = []
        self.told: list[Any] = []
        self.expelled = ""
        self.joined: m.Joined | None = None
        self.calls = 0

    @property
    def node(self) -> bytes:
        return self.link.node

    @property
    def driver(self) -> bytes:
        return make_process_id(int.from_bytes(self.node, "big"), 1)

    def worker(self, number: int) -> bytes:
        return make_process_id(int.from_bytes(self.node, "big"), 100 + number)

    # what the head says

    def on_members(self, members: list[m.MemberView]) -> None:
        self.members.update({member.node: member for member in members})

    def on_node_dead(self, departure: m.Departure) -> None:
        self.departed.append(departure)
        self.members.pop(departure.node, None)

    def on_process_message(self, process: bytes, message: Any) -> None:
        self.messages.append(message)
        if isinstance(message, a.ConstructActor):
            self.link.process_message(process, b"", a.ActorConstructed(message.actor, message.incarnation))

    def on_place_actor(self, message: m.PlaceActor) -> None:
        self.placings.append(message)
        self.link.placed(message, self.worker(message.attempt), f"/w{message.attempt}", 1, ())

    def on_cancel_placement(self, message: m.CancelPlacement) -> None:
        self.told.append(message)

    def on_kill_process(self, process: bytes) -> None:
        self.told.append(("kill", process))

    def on_end_process(self, process: bytes, reason: str) -> None:
        self.told.append(("end", process, reason))

    def on_job_ended(self, job: bytes, cause: str) -> None:
        self.told.append(("job", job, cause))

    def on_expelled(self, reason: str) -> None:
        self.expelled = reason

    # what its processes say

    def say(self, message: Any) -> None:
        self.link.process_message(self.driver, self.driver, message)

    def ask(self, message: Any, kind: type[Any]) -> Any:
        """Say it and wait for the answer."""
        self.say(message)
        return self.rig.until(lambda: self.find(kind, message.request), f"no answer to {message!r}")

    def find(self, kind: type[Any], request: int) -> Any:
        return next((each for each in self.messages if type(each) is kind and each.request == request), None)

    def start_job(self) -> bytes:
        self.link.job_started(self.driver, ENVIRONMENT, os.getpid(), "python main.py")
        return self.driver

    def create(self, name: str = "", **options: Any) -> bytes:
        """Ask for an actor; its id."""
        self.calls += 1
        spec = a.ActorSpec(
            "Counter",
            b"class",
            b"arguments",
            b"handle",
            resources=options.pop("resources", {}),
            max_restarts=options.pop("max_restarts", 0),
        )
        actor = make_object_id(self.driver, self.calls)  # type: ignore[arg-type]
        options.setdefault("request", self.calls if name else 0)
        self.say(a.CreateActor(actor, spec, name, "space", **options))
        return actor

    def state_of(self, actor: bytes) -> a.ActorState | None:
        states = [each for each in self.messages if isinstance(each, a.ActorState) and each.actor == actor]
        return states[-1] if states else None

    def wait_state(self, actor: bytes, state: int) -> a.ActorState:
        def reached() -> a.ActorState | None:
            last = self.state_of(actor)
            return last if last is not None and last.state == state else None

        found: a.ActorState = self.rig.until(reached, f"the actor is not {a.ACTOR_STATE_NAMES[state]}")
        return found


class HeadRig:
    """A head and its node's port; nodes are made by :meth:`join`."""

    def __init__(self, directory: str, credentials: ClusterCredentials, state: str = "") -> None:
        self.directory = directory
        self.credentials = credentials
        self.reactor = Reactor()
        self.is_cut = False
        """Whether connections to the head are closed instead of passed."""
        self.passed: list[socket.socket] = []
        self.nodes: list[StandInNode] = []
        configuration = HeadConfiguration(session_directory=directory, credentials=credentials, state=state)
        self.keeper = HeadKeeper(configuration, self.reactor)
        self.door = Doorkeeper(self.reactor, "127.0.0.1", 0, credentials, self._on_preface)
        self.address = f"127.0.0.1:{self.door.port}"

    def _on_preface(self, sock: socket.socket, preface: Preface) -> None:
        if self.is_cut:
            sock.close()
        else:
            pass_socket(self.keeper.socket_path, sock, preface)

    def join(self, cpus: int = 4, is_head_node: bool | None = None) -> StandInNode:
        node = StandInNode(self)
        first = not self.nodes if is_head_node is None else is_head_node
        address = f"127.0.0.1:{4000 + len(self.nodes)}"
        node.joined = node.link.join(address, {"CPU": cpus * 10_000}, STORE_BYTES, is_head_node=first)
        self.nodes.append(node)
        return node

    def kill_head(self) -> None:
        os.kill(self.keeper.pid, signal.SIGKILL)

    def restart_head(self) -> None:
        """Kill it, and wait until all nodes speak with the next one."""
        before = self.keeper.pid
        self.kill_head()
        self.until(lambda: self.keeper.pid not in (0, before), "no other head was started")
        self.until(lambda: not any(node.link.is_head_away for node in self.nodes), "the nodes did not come back")

    def until(self, condition: Callable[[], Any], what: str, timeout_s: float = 20.0) -> Any:
        """Serve until the condition holds; its value."""
        deadline_s = monotonic() + timeout_s
        while True:
            value = condition()
            if value:
                return value
            assert monotonic() < deadline_s, what
            self.turn()

    def turn(self, timeout_s: float = 0.05) -> None:
        for node in self.nodes:
            node.link.flush()
        self.reactor.poll(timeout_s)

    def close(self) -> None:
        for node in self.nodes:
            node.link.close()
        self.keeper.close()
        self.door.close()
        self.reactor.close()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.keeper.socket_path)
