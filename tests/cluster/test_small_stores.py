"""A node whose store has no room for what others have."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic

import numpy as np
import pytest

import remora
from remora.testing.cluster import Cluster

STORE_BYTES = 16 << 20


@remora.remote(resources={"large": 0.1})
def total(array: np.ndarray) -> float:
    return float(array.sum())


@remora.remote(resources={"small": 0.1})
def get_and_pass_on(refs: list[remora.ObjectRef]) -> float:
    for _ in range(2):
        with pytest.raises(remora.exceptions.ObjectStoreFullError, match="could not be copied to node"):
            remora.get(refs[0])
    return float(remora.get(total.remote(refs[0])))


def test_a_value_too_large_for_a_node_is_an_error_of_get_there_and_may_still_be_passed_to_another_node() -> None:
    with Cluster(head_node_args={"num_cpus": 1, "resources": {"large": 1}}) as cluster:
        cluster.add_node(num_cpus=1, resources={"small": 1}, object_store_memory=STORE_BYTES)
        cluster.wait_for_nodes()
        with remora.init(address=cluster.address):
            ref = remora.put(np.ones(2 * STORE_BYTES, np.uint8))
            assert remora.get(get_and_pass_on.remote([ref])) == 2 * STORE_BYTES


def test_the_stores_of_all_nodes_are_among_the_resources_and_what_is_free_of_them_is_told() -> None:
    with Cluster(head_node_args={"num_cpus": 1, "object_store_memory": STORE_BYTES}) as cluster:
        cluster.add_node(num_cpus=1, resources={"small": 1}, object_store_memory=2 * STORE_BYTES)
        cluster.wait_for_nodes()
        with remora.init(address=cluster.address):
            assert remora.cluster_resources()["object_store_memory"] == 3 * STORE_BYTES
            ref = remora.put(np.ones(STORE_BYTES // 2, np.uint8))
            eventually_free(lambda free_bytes: free_bytes <= 2.5 * STORE_BYTES)
            del ref
            eventually_free(lambda free_bytes: free_bytes >= (3 - 1 / 8) * STORE_BYTES)


def eventually_free(is_so: Callable[[float], bool], timeout_s: float = 10.0) -> None:
    deadline_s = monotonic() + timeout_s
    while not is_so(free_bytes := remora.available_resources()["object_store_memory"]):
        assert monotonic() < deadline_s, f"{free_bytes / STORE_BYTES} stores are free"
