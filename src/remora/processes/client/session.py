"""How a driver gets a session: it starts a node, and joins it.

Only what starting needs is imported here. The rest of the client is imported while the node's first process starts,
on the other core; both take about as long, and one after the other would be twice the time of ``init``.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from remora.base.configuration import NodeConfiguration
from remora.base.options import InitOptions
from remora.system.launch import launch

if TYPE_CHECKING:
    from remora.processes.client.driver import DriverRuntime


def connect(options: InitOptions) -> DriverRuntime:
    """A session for this process.

    Raises:
        NodeStartError: the node daemon did not start; its log is in the text.
    """
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
        )
    )
    from remora.processes.client.driver import join

    return join(node, options)


def _choose_node_number() -> int:
    """Another one for each session, so that a ref that outlived its session names no object of the next.

    Two bytes of the four that there are: people read ids.
    """
    return 1 + int.from_bytes(os.urandom(2), "big")
