"""How a driver gets a session: it starts a node of its own, alone or in a cluster, or joins one that runs here.

Only what starting needs is imported here. The rest of the client is imported while the node's first process starts,
on the other core; both take about as long, and one after the other would be twice the time of ``init``.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from remora.base.configuration import ClusterConfiguration, NodeConfiguration
from remora.base.options import InitOptions
from remora.system.launch import launch

if TYPE_CHECKING:
    from remora.processes.client.driver import DriverRuntime

ADDRESS_VARIABLE = "REMORA_ADDRESS"
LOCAL = "local"
AUTO = "auto"


def connect(options: InitOptions) -> DriverRuntime:
    """A session for this process.

    Raises:
        NodeStartError: the node daemon did not start; its log is in the text.
        ConnectionError: there is no node to connect to.
        ValueError: resources were given for a node that runs already, or the join string is none.
    """
    address = options.address or os.environ.get(ADDRESS_VARIABLE) or LOCAL
    if address == LOCAL:
        return _start_node(options, None)
    if address == AUTO or address.startswith("/"):
        from remora.processes.client.running_node import find_running_node

        return _join_running(find_running_node(None if address == AUTO else address), options)
    from remora.base.join_string import JoinString  # only clusters have any

    join = JoinString.parse(address)
    return _start_node(
        options,
        ClusterConfiguration(credentials=join.credentials, head_address=join.address, is_shared=False),
    )


def _start_node(options: InitOptions, cluster: ClusterConfiguration | None) -> DriverRuntime:
    node = launch(
        NodeConfiguration(
            session_directory="",
            node=_choose_node_number(),
            num_cpus=options.num_cpus,
            num_gpus=options.num_gpus or 0.0,
            resources=options.resources,
            store_limit_bytes=options.store_limit_bytes,
            namespace=options.namespace,
            logging_level=options.logging_level,
            log_to_driver=options.log_to_driver,
            labels=options.labels,
            cluster=cluster,
        )
    )
    from remora.processes.client.driver import join

    return join(node, options)


def _join_running(directory: str, options: InitOptions) -> DriverRuntime:
    given = {
        "num_cpus": options.num_cpus,
        "num_gpus": options.num_gpus,
        "resources": options.resources,
        "labels": options.labels,
        "object_store_memory": options.store_limit_bytes,
    }
    meaningless = [name for name, value in given.items() if value]
    if meaningless:
        raise ValueError(
            f"{', '.join(meaningless)} cannot be given to init() for a node that runs already ({directory}): "
            "they are options of `remora start`"
        )
    from remora.processes.client.driver import join_running

    return join_running(directory, options)


def _choose_node_number() -> int:
    """Another one for each session, so that a ref that outlived its session names no object of the next.

    Two bytes of the four that there are: people read ids. In a cluster the head gives another one.
    """
    return 1 + int.from_bytes(os.urandom(2), "big")
