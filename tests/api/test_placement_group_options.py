"""What is asked of a placement group is checked, and each error says what to write instead."""

from __future__ import annotations

import pickle
import subprocess
import sys
from typing import Any

import pytest

from remora.api.options import task_options
from remora.base.bundle_names import in_group, is_cpu, name_in_group, parse_name, without_group
from remora.base.resources import Resources
from remora.util import placement_group, placement_group_table, remove_placement_group
from remora.util.placement_group import PlacementGroup
from remora.util.scheduling_strategies import PlacementGroupSchedulingStrategy

GROUP = bytes(range(16))

WRONG: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"bundles": {"CPU": 1}}, TypeError, "bundles must be a list of dicts"),
    ({"bundles": []}, ValueError, "bundles must not be empty"),
    ({"bundles": [{"CPU": 1}, {}]}, ValueError, "bundles[1]={}: a bundle must have something"),
    ({"bundles": [{"CPU": 0}]}, ValueError, "a bundle must have something"),
    ({"bundles": [{1: 1}]}, TypeError, "bundles[0] must be a dict with names of resources"),
    ({"bundles": [{"CPU": -1}]}, ValueError, "bundles[0]['CPU']=-1: it must not be negative"),
    ({"bundles": [{"CPU": "2"}]}, TypeError, "bundles[0]['CPU'] must be a number"),
    ({"bundles": [{"GPU": 1.5}]}, ValueError, "above 1 only whole GPUs"),
    ({"bundles": [{"bundle": 1}]}, ValueError, "a name that placement groups use themselves"),
    ({"strategy": "PACKED"}, ValueError, "Did you mean 'PACK'?"),
    ({"strategy": 1}, TypeError, "strategy must be a string"),
    ({"name": 5}, TypeError, "must be a string"),
    ({"lifetime": "long"}, ValueError, "None or 'detached'"),
    ({"bundle_label_selector": [{}, {}]}, ValueError, "2 selectors for 1 bundles"),
    ({"bundle_label_selector": {"region": "us"}}, TypeError, "must be a list of dicts"),
    ({"bundle_label_selector": [{"region": "in("}]}, ValueError, "bundle_label_selector[0]['region']"),
]


@pytest.mark.parametrize(("given", "error", "text"), WRONG, ids=lambda value: repr(value)[:50])
def test_a_wrong_argument_is_refused_with_the_way_out(
    runtime_mode: str, given: dict[str, Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error) as raised:
        placement_group(**{"bundles": [{"CPU": 1}], **given})
    assert text in str(raised.value)


def test_what_is_no_group_is_refused(runtime_mode: str) -> None:
    with pytest.raises(TypeError, match="not None"):
        remove_placement_group(None)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="not 'mine'"):
        placement_group_table("mine")  # type: ignore[arg-type]


@pytest.mark.parametrize(("timeout", "error"), [(-1, ValueError), (float("nan"), ValueError), ("1", TypeError)])
def test_a_wrong_timeout_is_refused(timeout: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="timeout_seconds"):
        PlacementGroup(GROUP).wait(timeout)


def test_a_group_is_its_id() -> None:
    group = PlacementGroup(GROUP, [{"CPU": 1}])
    assert pickle.loads(pickle.dumps(group)) == group == PlacementGroup(GROUP)
    assert {group} == {PlacementGroup(GROUP)}
    assert group != PlacementGroup(bytes(16))
    assert PlacementGroup(bytes(16)).is_empty
    assert not group.is_empty
    assert pickle.loads(pickle.dumps(group)).bundle_specs == [{"CPU": 1}]
    assert repr(group) == "PlacementGroup(000102030405060708090a0b0c0d0e0f)"


def test_the_old_options_are_those_of_the_strategy() -> None:
    group = PlacementGroup(GROUP, [{"CPU": 1}])
    old = task_options(
        {"placement_group": group, "placement_group_bundle_index": 0, "placement_group_capture_child_tasks": True}
    )
    new = task_options({"scheduling_strategy": PlacementGroupSchedulingStrategy(group, 0, True)})
    assert old.group == new.group
    assert not old.may_be_captured
    assert task_options({"placement_group": "default"}).may_be_captured
    assert not task_options({"placement_group_capture_child_tasks": False}).may_be_captured
    assert not task_options({"scheduling_strategy": PlacementGroupSchedulingStrategy(None)}).may_be_captured
    with pytest.raises(ValueError, match="the group has 1 bundles"):
        task_options({"placement_group": group, "placement_group_bundle_index": 1})
    with pytest.raises(ValueError, match="exclude each other"):
        task_options({"placement_group": group, "scheduling_strategy": "SPREAD"})


def test_resources_in_a_group_have_names_of_their_own() -> None:
    need = in_group(Resources.of(num_cpus=2, resources={"disk": 1}), GROUP, 3, captures=True)
    own, any_bundle = "_group_3_" + GROUP.hex(), "_group_" + GROUP.hex()
    assert need.units == {
        "CPU" + any_bundle: 20_000,
        "CPU" + own: 20_000,
        "disk" + any_bundle: 10_000,
        "disk" + own: 10_000,
        "bundle" + any_bundle: 10,
        "bundle" + own: 10,
        "capture" + any_bundle: 10,
        "capture" + own: 10,
    }
    assert without_group(need.units) == {"CPU": 20_000, "disk": 10_000}
    assert parse_name("CPU" + own) == ("CPU", GROUP, 3)
    assert parse_name("my_group_of_disks") is None
    assert is_cpu(name_in_group("CPU", GROUP))
    assert not is_cpu(name_in_group("CPUs", GROUP))
    assert in_group(Resources(), GROUP).units == {"bundle" + any_bundle: 10}


def test_the_function_is_not_hidden_by_the_module_of_its_name() -> None:
    code = (
        "import remora; remora.install_as('ray')\n"
        "from ray.util.placement_group import PlacementGroup, placement_group\n"
        "import remora.util.placement_group, ray.util.placement_group\n"
        "import ray.util\n"
        "assert ray.util.placement_group is remora.util.placement_group is placement_group\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
