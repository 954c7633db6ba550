"""What a node daemon, a zygote and a worker are told when they start.

These structs are written by the process that starts another one and read by it before it does anything else. They
travel as MessagePack (in a memfd, or inside a message), never in ``argv`` where others could list them.
"""

from __future__ import annotations

import msgspec

from remora.base.credentials import ClusterCredentials

DAEMON_MAIN = "remora.processes.daemon.main:main"
WORKER_MAIN = "remora.processes.worker.main:main"


def worker_socket_name(worker_number: int) -> str:
    """The file in the session directory at which a worker listens."""
    return f"worker-{worker_number}"


JOIN_FILE = "join"
"""In the session's folder of a cluster's node: the join string, written when the node is a member."""


def worker_sockets_name(worker_number: int) -> str:
    """The file in the session directory at which a worker is given accepted sockets of other nodes."""
    return f"worker-{worker_number}.sockets"


class NodeDescriptors(msgspec.Struct, frozen=True, kw_only=True):
    """Descriptors that the node daemon is born with; -1 means that there is none.

    ``listener`` listens at ``daemon`` in the session directory. ``ready`` takes one byte when the daemon serves.
    ``lock`` keeps the session locked while the daemon lives. ``driver`` is a pidfd of the driver, readable when it
    has ended. ``control`` leads to the zygote. Nobody ever writes to ``lifeline_write``: when the daemon ends the
    kernel closes it and kills every worker that armed its own copy of ``lifeline_read``.
    """

    listener: int = -1
    ready: int = -1
    lock: int = -1
    driver: int = -1
    control: int = -1
    lifeline_read: int = -1
    lifeline_write: int = -1


class ClusterConfiguration(msgspec.Struct, frozen=True, kw_only=True):
    """What a node that belongs to a cluster is told.

    ``head_address`` is the ``host:port`` of the head's node, empty on that node itself. ``host`` is the address that
    the node listens at, empty for the one from which the head is reached. ``state`` is where the head keeps its state,
    a folder or the URL of a database; empty for the session's folder. ``is_shared``: drivers come and go, the node
    does not end with the one that is connected.
    """

    credentials: ClusterCredentials
    head_address: str = ""
    host: str = ""
    port: int = 0
    state: str = ""
    is_shared: bool = True

    @property
    def is_head(self) -> bool:
        """Whether the head is beside this node's daemon."""
        return not self.head_address


class NodeConfiguration(msgspec.Struct, frozen=True, kw_only=True):
    """What a node daemon is told.

    ``num_cpus`` of None means what affinity and cgroup leave (:func:`remora.system.cpu_count.available_cpus`), and
    ``store_limit_bytes`` of 0 means 30 % of the memory. ``driver_pid`` of 0: the node belongs to no driver.
    ``grace_s`` is how long the holds of a dead process are kept. ``hash_seed`` is the PYTHONHASHSEED of all workers.
    ``daemon_main`` and ``worker_main`` name functions as ``module:function``.
    """

    session_directory: str
    node: int = 1
    driver_pid: int = 0
    num_cpus: float | None = None
    num_gpus: float = 0.0
    resources: dict[str, float] = {}
    store_limit_bytes: int = 0
    namespace: str = ""
    logging_level: int = 20
    log_to_driver: bool = True
    labels: dict[str, str] = {}
    grace_s: float = 1.0
    hash_seed: int = 0
    daemon_main: str = DAEMON_MAIN
    worker_main: str = WORKER_MAIN
    zygote_pid: int = 0
    cluster: ClusterConfiguration | None = None
    descriptors: NodeDescriptors = NodeDescriptors()


class ZygoteConfiguration(msgspec.Struct, frozen=True, kw_only=True):
    """What a zygote is told: the session, and descriptors as in :class:`NodeDescriptors`; ``daemon`` is a pidfd too."""

    session_directory: str
    control: int
    lifeline_read: int
    daemon: int
    driver: int = -1


class WorkerConfiguration(msgspec.Struct, array_like=True, frozen=True, kw_only=True):
    """What a worker is told.

    ``environment`` overrides variables of the zygote, and a value of None removes one. ``sys_path`` and
    ``working_directory`` are the driver's; empty ones are left as they are in the zygote. ``main`` names, as
    ``module:function``, what is called with this configuration.
    """

    worker_number: int
    session_directory: str
    process_id: bytes = b""
    node: int = 1
    namespace: str = ""
    sys_path: list[str] = []
    working_directory: str = ""
    main_file: str = ""
    environment: dict[str, str | None] = {}
    logging_level: int = 20
    grace_s: float = 1.0
    main: str = WORKER_MAIN
    is_in_cluster: bool = False
