"""The main function of a worker process: joins its node, takes calls, runs them."""

from __future__ import annotations

import os
import socket
import traceback
from typing import TYPE_CHECKING, Any

from remora.base import runtime
from remora.base.bundle_names import without_group
from remora.base.configuration import WorkerConfiguration, worker_socket_name, worker_sockets_name
from remora.base.credentials import ClusterCredentials
from remora.base.ids import ProcessId, make_task_id
from remora.base.resources import CPU, UNITS_PER_ONE
from remora.core.counting.vocabulary import CountingError
from remora.core.wanted_values import AS_ARGUMENT
from remora.messages.actors import ActorExiting, ConstructActor, EndActor
from remora.messages.counting import ItemAck
from remora.messages.leases import WORKER_BLOCKED, WORKER_IDLE, WORKER_RUNNING, LeaseEnded, WorkerState
from remora.messages.objects import GetObjects
from remora.messages.session import Leaving, SessionEnded
from remora.messages.tasks import CancelTask, DefineFunction, DefineMethod, LeaseTerms, ReplyAck, Task
from remora.messages.wire import MAX_FRAME_BYTES
from remora.processes.client import fork_guard, ref_hooks
from remora.processes.client.arguments import listed_ids
from remora.processes.client.client import Client
from remora.processes.worker.actor import construct_actor
from remora.processes.worker.call_runner import CallRunner, WorkerExit, call_user
from remora.processes.worker.cancellation import cancel_call, install_cancel_handler
from remora.processes.worker.context import ActorContext
from remora.processes.worker.serial_executor import SerialExecutor
from remora.processes.worker.submitters import Submitter
from remora.processes.worker.threaded_executor import ThreadedExecutor
from remora.processes.worker.worker_runtime import WorkerRuntime
from remora.system.blas_threads import set_blas_threads
from remora.system.connection import Connection
from remora.system.handshake import (
    MAX_FIRST_FRAME_BYTES,
    connect_unix,
    listen_unix,
    peer_is_same_user,
    receive_welcome,
    refusal_of,
    send_hello,
)
from remora.system.session_directory import DAEMON_SOCKET

if TYPE_CHECKING:
    from remora.system.network.socket_passing import SocketReceiver


def main(configuration: WorkerConfiguration) -> int:
    """Run the worker to its end; the exit code."""
    worker = Worker(configuration)
    try:
        worker.run()
    except WorkerExit as leaving:
        if worker.actor is not None and not leaving.exit_code:
            worker.client.send_to_daemon(ActorExiting(worker.actor.actor, worker.actor.incarnation))
        worker.leave()
        return leaving.exit_code
    worker.leave()
    return 0


class Worker:
    """One worker process."""

    def __init__(self, configuration: WorkerConfiguration) -> None:
        directory = configuration.session_directory
        self._listener = listen_unix(os.path.join(directory, worker_socket_name(configuration.worker_number)))
        if configuration.is_in_cluster:
            # Before anybody hears of this worker: submitters of other nodes come as soon as they do.
            from remora.system.network.socket_passing import bind_receiver

            sockets_path = os.path.join(directory, worker_sockets_name(configuration.worker_number))
            passed = bind_receiver(sockets_path)
        daemon = connect_unix(os.path.join(directory, DAEMON_SOCKET))
        send_hello(daemon, "worker", ProcessId(configuration.process_id))
        welcome, descriptors = receive_welcome(daemon)
        self.client = client = Client(daemon, welcome, descriptors)
        client.on_message = self._on_daemon_message
        client.periodic.append(self._look)
        client.on_block = self._on_block
        client.on_unblock = self._on_unblock
        client.running_calls = self._running_calls
        self.runner = CallRunner(client, welcome.slot)
        self.executor: Any = SerialExecutor(client, self.runner, hands_back=True)
        self.job = ProcessId(welcome.job)
        self.actor: ActorContext | None = None
        self.terms = LeaseTerms({})
        """What the calls that run here may use."""
        self._blocked_threads = 0
        self._construct: ConstructActor | None = None
        client.reactor.register(self._listener.fileno(), self._on_connect)
        self._receiver: SocketReceiver | None = None
        if welcome.credentials is not None:
            self._accept_streams(sockets_path, passed, welcome.credentials)
        runtime.current = WorkerRuntime(client, self)
        fork_guard.watch(client, self._abandon_in_child)
        ref_hooks.install(client)

    def _accept_streams(self, path: str, passed: socket.socket, credentials: ClusterCredentials) -> None:
        """The daemon passes the sockets of submitters on other nodes."""
        from remora.system.network.socket_passing import SocketReceiver
        from remora.system.network.stream import StreamAcceptor

        reactor = self.client.reactor
        acceptor = StreamAcceptor(reactor, credentials, self._on_stream)
        self._receiver = SocketReceiver(path, reactor, acceptor.take, passed)

    def run(self) -> None:
        """Take and run calls until told to leave."""
        install_cancel_handler()
        self.client.leadership.start_io_thread()
        while True:
            self.executor.run()
            if self._construct is None or self.client.ended:
                return
            message, self._construct = self._construct, None
            construct_actor(self, message)

    def leave(self) -> None:
        """Let an actor clean up, write what is unwritten, say goodbye, close."""
        client = self.client
        clean_up = getattr(self.runner.instance, "__ray_shutdown__", None)
        if clean_up is not None and not client.ended:
            try:
                call_user(clean_up, (), {})
            except BaseException:  # noqa: BLE001 - code of the user's, and nobody waits for its result
                traceback.print_exc()
        client.flush()
        for connection in client.submitters.values():
            connection.flush()
        client.wait_until(self._is_settled, None)
        if not client.ended:
            client.send_to_daemon(Leaving())
            client.flush()
        client.close()
        self._listener.close()

    def _abandon_in_child(self) -> None:
        self.runner.is_forked_copy = True
        self._listener.close()
        if self._receiver is not None:
            self._receiver.abandon_in_child()

    def _is_settled(self) -> bool:
        """Nobody depends on anything that this process keeps for them, and all is written."""
        if self.client.ended:
            return True
        # Its submitters hear of this worker's end, and that these have not begun.
        self._drop_waiting()
        unsent = sum(connection.unsent_bytes for connection in self.client.submitters.values())
        return self.client.refs.machine.is_quiet and not unsent

    # ------------------------------------------------------------------ submitters

    def _on_connect(self, mask: int) -> None:
        try:
            sock, _ = self._listener.accept()
        except BlockingIOError:
            return
        if not peer_is_same_user(sock):
            sock.close()
            return
        connection = Connection(sock, self.client.reactor, self._on_hello, self._on_submitter_lost)
        connection.frame_limit_bytes = MAX_FIRST_FRAME_BYTES

    def _on_hello(self, connection: Connection, messages: list[Any]) -> None:
        hello: Any = messages[0] if messages else None
        if refusal_of(hello) is not None:
            connection.close()
            return
        submitter = Submitter(connection, ProcessId(hello.process))
        connection.peer = submitter
        connection.frame_limit_bytes = MAX_FRAME_BYTES
        connection.on_messages = self._on_messages
        self._add_submitter(submitter)
        if len(messages) > 1:
            self._on_messages(connection, messages[1:])

    def _add_submitter(self, submitter: Submitter) -> None:
        older = self.client.submitters.get(submitter.process)
        if older is not None:
            # Its end is slower than the new one, and would be taken for the end of both.
            older.close()
            self._on_submitter_lost(older, None)
        self.client.submitters[submitter.process] = submitter.connection

    def _on_stream(self, stream: Any, sender: bytes) -> None:
        """A process of another node submits here."""
        submitter = Submitter(stream, ProcessId(sender))
        stream.peer = submitter
        stream.on_messages = self._on_messages
        stream.on_closed = self._on_submitter_lost
        self._add_submitter(submitter)

    def _on_messages(self, connection: Connection, messages: list[Any]) -> None:
        submitter: Submitter = connection.peer
        try:
            self._take(submitter, messages)
        except (CountingError, ValueError, KeyError) as error:
            # The submitter broke the protocol: its connection ends, not this worker.
            traceback.print_exc()
            connection.close()
            self._on_submitter_lost(connection, error)

    def _take(self, submitter: Submitter, messages: list[Any]) -> None:
        add = self.executor.add
        for message in messages:
            kind = type(message)
            if kind is Task:
                if message.refs or message.values or message.stored is not None:
                    self._note_refs(submitter, message)
                add((submitter, message))
            elif kind is DefineFunction or kind is DefineMethod:
                submitter.definitions[message.function] = message
            elif kind is ReplyAck:
                self._count(self.client.refs.machine.reply_acked, submitter.process, message.call)
            elif kind is ItemAck:
                self._count(self.client.refs.machine.item_acked, submitter.process, message.call, message.item)
            elif kind is LeaseTerms:
                self.take_terms(message)
            elif kind is CancelTask:
                self.cancel(submitter, message)
            else:
                raise ValueError(f"{submitter!r} sent {message!r}, which no submitter says")

    def _note_refs(self, submitter: Submitter, task: Task) -> None:
        ids = listed_ids(task)
        if ids:
            self._count(self.client.refs.machine.task_received, submitter.process, task.call, ids)
        if self.client.is_in_cluster:
            self._prefetch(task)

    def _prefetch(self, task: Task) -> None:
        """Arguments that lie on other nodes come while the call waits for its turn."""
        stored = [*task.values, task.stored] if task.stored is not None else task.values
        locations = [(argument.id, argument.value.location) for argument in stored if argument is not None]
        ids = [one for one, location in locations if location is not None and location.node != self.client.node]
        if ids:
            self.client.send_to_daemon(GetObjects(ids, AS_ARGUMENT))

    def _count(self, told: Any, *arguments: Any) -> None:
        with self.client.lock:
            told(*arguments)
            self.client.refs.carry_out()

    def _on_submitter_lost(self, connection: Connection, error: Exception | None) -> None:
        submitter: Submitter | None = connection.peer
        if submitter is None:
            return
        connection.peer = None
        self._drop_waiting(submitter)
        with self.client.lock:
            if self.client.submitters.get(submitter.process) is connection:
                del self.client.submitters[submitter.process]
            submitter.function_refs.clear()
            self.client.refs.peer_died(submitter.process)

    def _drop_waiting(self, submitter: Submitter | None = None) -> None:
        """What has not begun is not wanted any more, of one submitter or of all: nothing will end it otherwise."""
        for caller, task in self.executor.waiting_calls():
            if (submitter is None or caller is submitter) and self.executor.drop(caller, task.call) is not None:
                self._count(self.client.refs.machine.task_handed_back, caller.process, task.call)

    def take_terms(self, terms: LeaseTerms) -> None:
        """What runs here from now on may use this: libraries learn of GPUs from the environment, of CPUs by a call."""
        cpus = _cpus(terms)
        if terms.gpu_ids != self.terms.gpu_ids:
            os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, terms.gpu_ids))
        if cpus != _cpus(self.terms):
            set_blas_threads(cpus)
        self.terms = terms
        if self.client.groups.enter(terms.resources):
            self.client.tasks.renew_plans()

    def make_executor(self, is_async: bool, max_concurrency: int) -> Any:
        """What runs the calls of an actor with these options."""
        if is_async:
            # It imports asyncio, which costs 40 ms.
            from remora.processes.worker.async_executor import AsyncExecutor

            return AsyncExecutor(self.client, self.runner, max_concurrency)
        if max_concurrency > 1:
            return ThreadedExecutor(self.client, self.runner, max_concurrency)
        return SerialExecutor(self.client, self.runner, hands_back=False)

    def cancel(self, submitter: Submitter, message: CancelTask) -> None:
        """A submitter wants a call to end."""
        cancel_call(self, submitter, message)

    # ------------------------------------------------------------------ the daemon

    def _on_daemon_message(self, message: Any) -> bool:
        kind = type(message)
        if kind is SessionEnded or kind is EndActor:
            self.executor.end()
        elif kind is ConstructActor:
            # By the main thread, which leaves the executor for it: this worker has run nothing yet, or is idle.
            self._construct = message
            self.executor.end()
        elif kind is LeaseEnded:
            if self._report_idle not in self.client.periodic:
                self.client.periodic.append(self._report_idle)
        else:
            return False
        return True

    def _running_calls(self) -> tuple[list[tuple[str, bytes]], int]:
        running, waiting = self.executor.calls()
        names: list[tuple[str, bytes]] = [
            (submitter.call_name(task), make_task_id(submitter.process, task.call)) for submitter, task in running
        ]
        return names, waiting

    def _report_idle(self, now_s: float) -> float:
        """The holder of the lease is gone: say when what it sent has ended."""
        if not self.executor.is_idle:
            return 0.005
        self.client.periodic.remove(self._report_idle)
        self.client.send_to_daemon(WorkerState(WORKER_IDLE))
        self.client.flush_daemon()  # the leader is about to sleep, and has flushed already
        return -1

    def _look(self, now_s: float) -> float:
        return float(self.executor.look(now_s))

    # ------------------------------------------------------------------ blocking

    def _on_block(self) -> None:
        """A thread of this process waits for another process: the CPU is free, and what is queued here may be it."""
        self.executor.flush_submitters()
        self.executor.hand_back()
        with self.client.lock:
            self._blocked_threads += 1
            if self._blocked_threads == 1:
                self.client.send_to_daemon(WorkerState(WORKER_BLOCKED))

    def _on_unblock(self) -> None:
        with self.client.lock:
            self._blocked_threads -= 1
            if not self._blocked_threads:
                self.client.send_to_daemon(WorkerState(WORKER_RUNNING))


def _cpus(terms: LeaseTerms) -> int:
    """How many threads a library may use."""
    return max(1, without_group(terms.resources).get(CPU, 0) // UNITS_PER_ONE)
