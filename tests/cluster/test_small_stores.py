"""A node whose store has no room for what others have."""

from __future__ import annotations

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
