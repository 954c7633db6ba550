"""Nodes with a line of some length between them."""

from __future__ import annotations

from remora.testing.cluster_bench.running_cluster import RunningCluster
from remora.testing.cluster_bench.systems import NodeOptions, RemoraSystem

DELAY_S = 0.005
TASKS = 1000


def test_many_tasks_are_under_way_at_once_over_a_line_with_delay(network_namespaces: None) -> None:
    with RunningCluster(RemoraSystem(encrypt=False), [NodeOptions("here"), NodeOptions("there")]) as cluster:
        cluster.lab.relay_between(cluster.host("here"), cluster.host("there"), seed=1, delay_s=DELAY_S)
        done = cluster.ask("task_calls", node="there", at_once=TASKS, seconds=0.001)
        assert done["calls"] / done["seconds"] > 10 / (2 * DELAY_S)  # one at a time for each of two workers: 2
