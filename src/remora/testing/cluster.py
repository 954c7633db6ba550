"""Several nodes on one machine, for tests of programs that use a cluster."""

from __future__ import annotations

import atexit
import os
import signal
from collections.abc import Mapping
from time import monotonic, sleep
from typing import Any, Self

from remora.api.init import init, shutdown
from remora.base.join_string import JoinString
from remora.cli.inspector import ask, tell
from remora.messages.inspection import GetNodes, NodeReport, Nodes
from remora.messages.session import StopNode
from remora.processes.node_start import NodeOptions, join_string_of, start_head_node, start_joining_node
from remora.system.launch import LaunchedNode
from remora.system.session_directory import running_sessions

POLL_S = 0.01


class ClusterNode:
    """One node. ``directory`` is its session's folder, which ``remora.init(address=...)`` takes, too."""

    def __init__(self, launched: LaunchedNode) -> None:
        self._launched = launched
        self.directory = launched.session.path
        self.pid = launched.pid
        """Of its daemon."""

    def __repr__(self) -> str:
        return f"<ClusterNode {self.directory} daemon {self.pid}>"

    @property
    def log(self) -> str:
        """What its daemon has logged last."""
        return self._launched.log_tail()

    def is_running(self) -> bool:
        """Whether its daemon lives."""
        return self._launched.exit_status() is None

    def stop(self, timeout_s: float = 10.0) -> None:
        """Have it leave the cluster in order."""
        if self.is_running():
            tell(self.directory, StopNode("the test cluster removes the node"))
        self._launched.end(timeout_s)

    def kill(self) -> None:
        """End its daemon by SIGKILL, and all that belongs to it with it."""
        if self.is_running():
            os.kill(self.pid, signal.SIGKILL)
        self._launched.end()


class Cluster:
    """A cluster whose nodes are all on this machine, each a daemon with a store and workers of its own.

    Parameters:
        initialize_head: start the first node at once.
        connect: connect this process, as :meth:`connect` does.
        head_node_args: arguments of :meth:`add_node` for the first node.
        encrypt: whether the nodes speak TLS with each other.

    Example:
        >>> with Cluster(head_node_args={"num_cpus": 1}) as cluster:
        ...     cluster.add_node(num_cpus=2, resources={"disk": 1})
        ...     cluster.wait_for_nodes()
        ...     remora.init(address=cluster.address)
    """

    def __init__(
        self,
        initialize_head: bool = True,
        connect: bool = False,
        head_node_args: Mapping[str, Any] | None = None,
        *,
        encrypt: bool = True,
        state: str = "",
    ) -> None:
        self.nodes: list[ClusterNode] = []
        self._encrypt = encrypt
        self._state = state
        self._join: JoinString | None = None
        self._is_connected = False
        atexit.register(self.shutdown)
        if initialize_head or connect:
            self.add_node(**(head_node_args or {}))
        if connect:
            self.connect()

    def __repr__(self) -> str:
        return f"<Cluster of {len(self.nodes)} nodes>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()

    @property
    def head_node(self) -> ClusterNode:
        """The node with the head: the first one.

        Raises:
            RuntimeError: there is none yet.
        """
        if not self.nodes:
            raise RuntimeError("the cluster has no node yet: call add_node()")
        return self.nodes[0]

    @property
    def worker_nodes(self) -> list[ClusterNode]:
        """All others."""
        return self.nodes[1:]

    @property
    def address(self) -> str:
        """For ``remora.init(address=...)``: connects to the head's node."""
        return self.head_node.directory

    @property
    def join_string(self) -> str:
        """For `remora start --join`, and for ``init`` of a program that is to be a node of its own."""
        return join_string_of(self.head_node.directory)

    def add_node(
        self,
        num_cpus: float = 1,
        num_gpus: float = 0,
        resources: Mapping[str, float] | None = None,
        labels: Mapping[str, str] | None = None,
        object_store_memory: int = 256 << 20,
        host: str = "127.0.0.1",
    ) -> ClusterNode:
        """Start a node; returns when it is a member.

        Parameters:
            num_cpus, num_gpus, resources, labels: what it has.
            object_store_memory: limit of its store in bytes.
            host: where it listens.

        Raises:
            NodeStartError: it did not start; its log is in the text.
        """
        options = NodeOptions(
            host=host,
            num_cpus=num_cpus,
            num_gpus=num_gpus,
            resources=dict(resources or {}),
            labels=dict(labels or {}),
            store_limit_bytes=object_store_memory,
        )
        if not self.nodes:
            launched = start_head_node(options, encrypt=self._encrypt, state=self._state, is_detached=False)
            self._join = JoinString.parse(join_string_of(launched.session.path))
        else:
            assert self._join is not None, "the first node made it"
            launched = start_joining_node(options, self._join, is_detached=False)
        node = ClusterNode(launched)
        self.nodes.append(node)
        return node

    def remove_node(self, node: ClusterNode, allow_graceful: bool = True) -> None:
        """End a node: in order, or by SIGKILL."""
        if allow_graceful:
            node.stop()
        else:
            node.kill()
        self.nodes.remove(node)

    def list_all_nodes(self) -> list[NodeReport]:
        """What the head's node knows of the members."""
        directory = self.head_node.directory
        record = next(one for one in running_sessions() if one.directory == directory)
        return ask(record, GetNodes(1), Nodes).nodes

    def wait_for_nodes(self, timeout: float = 30.0) -> None:
        """Wait until just the nodes that were added and not removed are alive, for *timeout* seconds.

        Raises:
            TimeoutError: they are not.
        """
        deadline_s = monotonic() + timeout
        while True:
            alive = [node for node in self.list_all_nodes() if node.is_alive]
            if len(alive) == len(self.nodes):
                return
            if monotonic() > deadline_s:
                raise TimeoutError(f"{len(alive)} nodes are alive after {timeout:g} s instead of {len(self.nodes)}")
            sleep(POLL_S)

    def connect(self, namespace: str | None = None) -> None:
        """Connect this process to the head's node."""
        init(address=self.address, namespace=namespace)
        self._is_connected = True

    def shutdown(self) -> None:
        """Disconnect this process if :meth:`connect` was called, and end all nodes. Again does nothing."""
        atexit.unregister(self.shutdown)
        if self._is_connected:
            self._is_connected = False
            shutdown()
        while self.nodes:
            self.remove_node(self.nodes[-1])
