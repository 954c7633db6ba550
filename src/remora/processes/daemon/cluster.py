"""What makes a node daemon a member of a cluster: its port, the head beside it, links to others.

Everything that has a state has it elsewhere: the head's link, the links between daemons, the router of leases, the
directory, the transfers. This joins them;
:mod:`~remora.processes.daemon.cluster_messages` passes on what they say.
"""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

from remora.base.configuration import JOIN_FILE, NodeConfiguration, worker_sockets_name
from remora.base.ids import NodeId, daemon_of, node_of, short
from remora.base.join_string import JoinString
from remora.base.network_address import join_address, split_address
from remora.base.resources import Resources
from remora.core.pulls import DEFAULT_LIMIT_BYTES
from remora.processes.daemon.cluster_actors import ClusterActorService
from remora.processes.daemon.cluster_messages import ClusterMessages
from remora.processes.daemon.connected import ConnectedProcesses
from remora.processes.daemon.head_link import HeadLink, JoinError
from remora.processes.daemon.heartbeats import HEAD_PROCESS
from remora.processes.daemon.known_nodes import KnownNodes
from remora.processes.daemon.links import Links
from remora.processes.daemon.objects import ObjectService
from remora.processes.daemon.remote_objects import RemoteObjects
from remora.processes.daemon.transfers import Transfers
from remora.processes.daemon.workers import WorkerService
from remora.processes.head.configuration import HeadConfiguration
from remora.processes.head.keeper import HeadKeeper, HeadStartError
from remora.system.certificates import install_credentials
from remora.system.network.doorkeeper import Doorkeeper
from remora.system.network.own_address import own_address
from remora.system.network.preface import Preface, Purpose
from remora.system.network.refusals import Refusal, refuse
from remora.system.network.socket_passing import pass_socket
from remora.system.network.sockets import ListenError, is_any_address
from remora.system.network.stream import Stream, StreamAcceptor
from remora.system.reactor import Reactor

if TYPE_CHECKING:
    from remora.processes.daemon.main import NodeDaemon

__all__ = ["ClusterService", "HeadStartError", "JoinError", "ListenError"]

CREDENTIALS_FOLDER = "cluster"
LONGEST_TURN_S = 0.5
"""The head's watch over a hanging daemon looks at turns of the loop."""


class ClusterService:
    """One node's membership. Made before the daemon, since the cluster gives the node its number.

    Raises:
        JoinError: the cluster refused this node, or its head cannot be reached.
        HeadStartError: the head beside this node cannot be started.
        ListenError: the port is taken, or the address is none of this machine.
    """

    def __init__(self, configuration: NodeConfiguration, reactor: Reactor, total: Resources) -> None:
        assert configuration.cluster is not None, "a session alone is in no cluster"
        cluster = configuration.cluster
        self._configuration = configuration
        self._reactor = reactor
        self._daemon: NodeDaemon | None = None
        self.node = NodeId(b"")
        self.credentials = cluster.credentials
        head_host = split_address(cluster.head_address)[0] if cluster.head_address else ""
        host = cluster.host or own_address(head_host)
        self._doorkeeper = Doorkeeper(reactor, host, cluster.port, self.credentials, self._on_preface)
        told_host = own_address(head_host) if is_any_address(host) else host
        self.address = join_address(told_host, self._doorkeeper.port)
        self._keeper = self._start_head() if cluster.is_head else None
        self._join = JoinString(*split_address(cluster.head_address or self.address), self.credentials)
        self.nodes = KnownNodes()
        self.messages = ClusterMessages(self)
        self.head = HeadLink(reactor, self._join.address, self.credentials, self.messages)
        joined = self.head.join(
            self.address,
            dict(total.units),
            configuration.store_limit_bytes,
            configuration.labels,
            cluster.is_head,
        )
        self.node = NodeId(joined.node)
        if not self.credentials.key_path and joined.key:
            folder = os.path.join(configuration.session_directory, CREDENTIALS_FOLDER)
            self.credentials = install_credentials(folder, self.credentials.secret, joined.certificate, joined.key)
        self._acceptor = StreamAcceptor(reactor, self.credentials, self._on_stream, self._doorkeeper.log)
        self.links = Links(reactor, self.node, self.credentials, self.nodes.address_of, self.messages)

    def __repr__(self) -> str:
        return f"<ClusterService node {short(self.node)} at {self.address}, {self.nodes!r}>"

    def _start_head(self) -> HeadKeeper:
        configuration = self._configuration
        assert configuration.cluster is not None, "a session alone has no head"
        keeper = HeadKeeper(
            HeadConfiguration(
                session_directory=configuration.session_directory,
                credentials=self.credentials,
                state=configuration.cluster.state,
            ),
            self._reactor,
        )
        keeper.start()
        return keeper

    @property
    def number(self) -> int:
        """This node's number."""
        return int.from_bytes(self.node, "big")

    @property
    def has_started(self) -> bool:
        """Whether there is a daemon that can be told what others say."""
        return self._daemon is not None

    @property
    def daemon(self) -> NodeDaemon:
        """The daemon that this belongs to."""
        assert self._daemon is not None, "nothing is said to a node before it has started"
        return self._daemon

    def start(self, daemon: NodeDaemon) -> None:
        """The daemon is complete: what was heard of others until now is told, and what comes goes to it."""
        self._daemon = daemon
        if self._keeper is not None:
            self._keeper.tell_pids(daemon.workers.spare)
        objects = daemon.objects
        remote = RemoteObjects(self.node, objects.directory, objects.arena, objects.carry_out, self.nodes.address_of)
        limit_bytes = min(DEFAULT_LIMIT_BYTES, daemon.store_limit_bytes // 4)
        self.transfers = remote.transfers = Transfers(
            self._reactor,
            objects.memory,
            self.credentials,
            self.node,
            remote,
            limit_bytes,
            log=self._doorkeeper.log,
        )
        daemon.processes.node_address = self.address
        daemon.workers.router.address = self.address
        objects.join_cluster(remote)
        daemon.groups.use_head(self.head.process_message)
        self.messages.start()
        path = os.path.join(self._configuration.session_directory, JOIN_FILE)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(descriptor, "w") as file:
            file.write(str(self._join))

    def make_actor_service(
        self, processes: ConnectedProcesses, workers: WorkerService, objects: ObjectService
    ) -> ClusterActorService:
        """What stands for the registry of actors, which is in the head."""
        self.actors = ClusterActorService(self.head, processes, workers, objects)
        return self.actors

    # ------------------------------------------------------------------ the turn of the loop

    def flush(self, now_s: float) -> float:
        """Do what is due and write what is to be said to others, once per turn; when the next turn is due."""
        due_s = self.transfers.next_deadline_s
        if due_s is not None and due_s <= now_s:
            self.transfers.tick(now_s)
            due_s = self.transfers.next_deadline_s
        workers = self.daemon.workers
        ledger, demand = workers.leases.ledger, workers.router.demand()
        count = sum(count for _, count in demand)
        free_bytes = self.daemon.objects.arena.space.free_bytes
        self.head.tell_load(ledger.total.units, ledger.free(), count, demand, free_bytes)
        self.links.flush()
        self.head.flush()
        return due_s if due_s is not None else now_s + LONGEST_TURN_S

    def leave(self, reason: str) -> None:
        """Leave in order, and close everything."""
        self.head.leave(reason)
        self.close()

    def close(self) -> None:
        """Close the port and all streams; the head is ended with its node."""
        self.transfers.close()
        self._doorkeeper.close()
        self._acceptor.close()
        self.links.close()
        self.head.close()
        if self._keeper is not None:
            self._keeper.close()

    # ------------------------------------------------------------------ who knocks

    def _on_preface(self, sock: socket.socket, preface: Preface) -> None:
        target = preface.target
        if target == HEAD_PROCESS and self._keeper is not None:
            pass_socket(self._keeper.socket_path, sock, preface)
        elif self._daemon is None:
            refuse(sock, Refusal.STARTING)
        elif node_of(target) != self.node:
            refuse(sock, Refusal.UNKNOWN_TARGET)
        elif target != daemon_of(self.node):
            self._pass_to_worker(sock, preface)
        elif preface.purpose == Purpose.LINK:
            self._acceptor.take(sock, preface)
        elif preface.purpose == Purpose.DATA:
            self.transfers.accept(sock, preface)
        else:
            refuse(sock, Refusal.UNKNOWN_TARGET)

    def _pass_to_worker(self, sock: socket.socket, preface: Preface) -> None:
        assert self._daemon is not None, "asked for before"
        number = self._daemon.workers.number_of(preface.target)
        if number is None:
            refuse(sock, Refusal.UNKNOWN_TARGET)
        else:
            path = os.path.join(self._configuration.session_directory, worker_sockets_name(number))
            pass_socket(path, sock, preface)

    def _on_stream(self, stream: Stream, sender: bytes) -> None:
        self.links.accept(stream, sender)
