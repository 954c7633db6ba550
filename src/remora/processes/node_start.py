"""Starts a node of a cluster that does not end with this process: what `remora start` and test clusters use."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec

import msgspec

from remora.base.configuration import JOIN_FILE, ClusterConfiguration, NodeConfiguration
from remora.base.join_string import JoinString
from remora.system.launch import LaunchedNode, launch

STATE_FOLDER = "head"


class NodeOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What a node has; None and 0: it finds out by itself. ``host`` and ``port`` are where it listens."""

    host: str = ""
    port: int = 0
    num_cpus: float | None = None
    num_gpus: float = 0.0
    resources: dict[str, float] = {}
    labels: dict[str, str] = {}
    store_limit_bytes: int = 0
    logging_level: int = 20


def start_head_node(
    options: NodeOptions, *, state: str = "", encrypt: bool = True, is_detached: bool = True
) -> LaunchedNode:
    """The first node of a cluster, with the head; returns when it is up.

    *state* is a folder, or the URL of a database, where the head keeps what must outlive it; by default the
    session's folder, which goes when the node is stopped.

    Raises:
        NodeStartError: it did not start; its log is in the text.
        ImportError: a library that only heads need is not installed.

    Example:
        >>> node = start_head_node(NodeOptions(host="127.0.0.1", num_cpus=2))
        >>> join_string_of(node.session.path)
        'remora://...'
    """

    if find_spec("sqlalchemy") is None:
        raise ImportError(
            "the head keeps its state with the library SQLAlchemy, which is not installed: "
            "install it with `pip install 'remora[cluster]'`"
        )

    def make_cluster(folder: str) -> ClusterConfiguration:
        from remora.system.certificates import open_credentials  # cryptography takes a while to import

        # A head that is started again has the certificate and the secret that its join string speaks of.
        where = state if state and "://" not in state else f"{folder}/{STATE_FOLDER}"
        try:
            credentials = open_credentials(where, encrypt)
        except OSError as error:
            raise OSError(f"the folder {where!r} for the head's state cannot be used: {error.strerror}") from error
        return ClusterConfiguration(credentials=credentials, host=options.host, port=options.port, state=state or where)

    return _start(options, is_detached, make_cluster)


def start_joining_node(options: NodeOptions, join: JoinString, *, is_detached: bool = True) -> LaunchedNode:
    """A node that joins the cluster; returns when it is a member.

    Raises:
        NodeStartError: it did not start, or was refused; its log is in the text.
    """
    cluster = ClusterConfiguration(
        credentials=join.credentials,
        head_address=join.address,
        host=options.host,
        port=options.port,
    )
    return _start(options, is_detached, lambda folder: cluster)


def _start(
    options: NodeOptions, is_detached: bool, make_cluster: Callable[[str], ClusterConfiguration]
) -> LaunchedNode:
    node = launch(
        NodeConfiguration(
            session_directory="",
            num_cpus=options.num_cpus,
            num_gpus=options.num_gpus,
            resources=options.resources,
            labels=options.labels,
            store_limit_bytes=options.store_limit_bytes,
            logging_level=options.logging_level,
        ),
        is_detached=is_detached,
        make_cluster=make_cluster,
    )
    try:
        node.wait_ready()
    except BaseException:  # Ctrl-C: nobody would know of a node that comes up after it
        node.end(0)
        raise
    return node


def join_string_of(directory: str) -> str:
    """The join string of the cluster that the node of this session belongs to.

    Raises:
        FileNotFoundError: it belongs to none.
    """
    with open(f"{directory}/{JOIN_FILE}") as file:
        return file.read().strip()
