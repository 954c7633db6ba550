"""get_runtime_context, nodes and resources."""

from __future__ import annotations

from typing import Any

import pytest

import remora

pytestmark = pytest.mark.usefixtures("runtime_mode")


def test_a_driver_has_job_and_node_and_no_task() -> None:
    context = remora.get_runtime_context()
    assert context.get_job_id() == context.job_id
    assert context.get_node_id() in {node["NodeID"] for node in remora.nodes()}
    assert context.get_worker_id()
    assert (context.get_task_id(), context.get_actor_id(), context.get_task_name()) == (None, None, None)
    assert context.namespace == "tests"
    assert context.get() == {"job_id": context.job_id, "node_id": context.node_id, "namespace": "tests"}
    assert not context.was_current_actor_reconstructed


def test_a_task_knows_its_id_and_what_it_holds() -> None:
    @remora.remote(num_cpus=2)
    def ask() -> dict[str, Any]:
        context = remora.get_runtime_context()
        return {
            "task": context.get_task_id(),
            "function": context.get_task_function_name(),
            "resources": context.get_assigned_resources(),
            "namespace": context.namespace,
            "actor": context.get_actor_id(),
        }

    ref = ask.remote()
    found = remora.get(ref)
    assert found["task"] == ref.task_id().hex()
    assert "ask" in found["function"]
    assert found["resources"] == {"CPU": 2.0}
    assert found["namespace"] == "tests"
    assert found["actor"] is None


def test_an_actor_knows_its_id_and_has_a_handle_of_itself() -> None:
    @remora.remote
    class Actor:
        def __init__(self) -> None:
            self.id_at_start = remora.get_runtime_context().get_actor_id()

        def ask(self) -> Any:
            context = remora.get_runtime_context()
            return self.id_at_start, context.get_actor_id(), context.current_actor

    actor = Actor.remote()
    at_start, now, itself = remora.get(actor.ask.remote())
    assert at_start == now == actor._actor_id.hex()
    assert itself == actor


def test_the_current_actor_is_refused_outside_of_one() -> None:
    with pytest.raises(RuntimeError, match="no method of an actor is running"):
        _ = remora.get_runtime_context().current_actor


def test_nodes_have_rays_fields() -> None:
    (node,) = remora.nodes()
    assert node["Alive"] is True
    assert node["Resources"]["CPU"] == 4.0
    assert {"NodeID", "NodeManagerAddress", "NodeManagerHostname", "Labels", "RayletSocketName"} <= node.keys()


def test_resources_add_up() -> None:
    assert remora.cluster_resources()["CPU"] == 4.0
    assert remora.available_resources().get("CPU", 0.0) <= 4.0
