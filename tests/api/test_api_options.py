"""Options are checked by name, type and range; each error says what to write instead."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest

from remora.api import option_checks
from remora.api.options import actor_options, init_options, method_options, task_options
from remora.base.options import is_retried
from remora.base.resources import Resources


def test_a_task_holds_one_cpu_unless_told_otherwise() -> None:
    assert task_options({}).resources == Resources.of(num_cpus=1)
    assert task_options({"num_cpus": 0}).resources == Resources()
    options = task_options({"num_cpus": 0.5, "num_gpus": 2, "memory": 1000, "resources": {"disk": 3}})
    assert options.resources == Resources.of(0.5, 2, 1000, {"disk": 3})


def test_an_actor_needs_a_cpu_to_be_placed_and_holds_none() -> None:
    options = actor_options({})
    assert (options.resources, options.placement) == (Resources(), Resources.of(num_cpus=1))


def test_an_actor_for_which_something_was_named_holds_it_for_life() -> None:
    assert actor_options({"num_cpus": 2}).resources == Resources.of(num_cpus=2)
    assert actor_options({"num_gpus": 1}).resources == Resources.of(num_cpus=1, num_gpus=1)
    assert actor_options({"num_cpus": 0}).placement == Resources()


def test_an_accelerator_type_becomes_a_sliver_of_a_resource() -> None:
    resources = task_options({"accelerator_type": "A100"}).resources
    assert resources.to_floats() == {"CPU": 1.0, "accelerator_type:A100": 0.001}


def test_none_means_not_given() -> None:
    assert task_options({"num_cpus": None, "num_returns": None, "name": None}).num_returns == 1


def test_the_default_strategy_has_no_name() -> None:
    assert task_options({"scheduling_strategy": "DEFAULT"}).strategy == ""
    assert task_options({"scheduling_strategy": "SPREAD"}).strategy == "SPREAD"


def test_exception_classes_become_names_that_match_subclasses() -> None:
    options = task_options({"retry_exceptions": [OSError]})
    assert is_retried(options.retry_exceptions, FileNotFoundError())
    assert not is_retried(options.retry_exceptions, ValueError())
    assert is_retried(True, ValueError())
    assert not is_retried(False, ValueError())


WRONG: list[tuple[Callable[[dict[str, Any]], Any], dict[str, Any], type[Exception], str]] = [
    (task_options, {"num_cpu": 1}, ValueError, "'num_cpu' is no option of a remote function. Did you mean 'num_cpus'?"),
    (task_options, {"max_restarts": 1}, ValueError, "It is an option of actor classes"),
    (task_options, {"ignore_reinit_error": True}, ValueError, "It is an option of remora.init"),
    (task_options, {"num_returns": "streaming"}, ValueError, "not part of Remora yet"),
    (task_options, {"num_returns": -1}, ValueError, "num_returns=-1: it must be from 0"),
    (task_options, {"num_returns": True}, TypeError, "num_returns must be a whole number"),
    (task_options, {"num_cpus": -1}, ValueError, "num_cpus=-1"),
    (task_options, {"num_cpus": "2"}, TypeError, "num_cpus must be a number"),
    (task_options, {"resources": {"CPU": 1}}, ValueError, "num_cpus="),
    (task_options, {"resources": [1]}, TypeError, "resources must be a dict"),
    (task_options, {"max_retries": -2}, ValueError, "at least -1"),
    (task_options, {"retry_exceptions": [3]}, TypeError, "no exception class"),
    (task_options, {"name": ""}, ValueError, "name must not be empty"),
    (task_options, {"name": 3}, TypeError, "name must be a string"),
    (task_options, {"scheduling_strategy": "FAR"}, ValueError, "'DEFAULT', 'SPREAD'"),
    (task_options, {"placement_group": object()}, TypeError, "placement_group must be a placement group"),
    (actor_options, {"max_restart": 1}, ValueError, "Did you mean 'max_restarts'?"),
    (actor_options, {"num_returns": 2}, ValueError, "It is an option of remote functions"),
    (actor_options, {"get_if_exists": True}, ValueError, "needs a name"),
    (actor_options, {"get_if_exists": 1, "name": "a"}, TypeError, "True or False"),
    (actor_options, {"max_concurrency": 0}, ValueError, "at least 1"),
    (actor_options, {"lifetime": "long"}, ValueError, "'detached' or 'non_detached'"),
    (actor_options, {"concurrency_groups": {"io": 0}}, ValueError, "concurrency_groups['io']=0"),
    (method_options, {"num_cpus": 1}, ValueError, "It is an option of remote functions"),
    (method_options, {"num_return": 1}, ValueError, "Did you mean 'num_returns'?"),
    (init_options, {"num_cpu": 1}, ValueError, "Did you mean 'num_cpus'?"),
    (init_options, {"num_gpus": -1}, ValueError, "num_gpus=-1"),
    (init_options, {"object_store_memory": 0}, ValueError, "at least 1"),
    (init_options, {"namespace": 3}, TypeError, "namespace must be a string"),
    (init_options, {"logging_level": "LOUD"}, ValueError, "logging_level='LOUD'"),
    # What no message can carry would end the session when it is sent.
    (task_options, {"num_cpus": 1e16}, ValueError, "the largest amount is"),
    (task_options, {"memory": 1e308}, ValueError, "the largest amount is"),
    (task_options, {"resources": {"x": 1e17}}, ValueError, "resources['x']=1e+17"),
    (task_options, {"resources": {"\udcff": 1}}, ValueError, "cannot be written as UTF-8"),
    (task_options, {"max_retries": 10**30}, ValueError, "from -1 to"),
    (task_options, {"name": "\udcff"}, ValueError, "os.fsencode(name)"),
    (actor_options, {"max_concurrency": 10**30}, ValueError, "from 1 to"),
    (actor_options, {"name": "\udcff"}, ValueError, "cannot be written as UTF-8"),
    (actor_options, {"name": "a", "namespace": "\udcff"}, ValueError, "namespace="),
    (init_options, {"object_store_memory": 10**20}, ValueError, "from 1 to"),
]


@pytest.mark.parametrize(("check", "given", "error", "text"), WRONG, ids=lambda value: repr(value)[:40])
def test_a_wrong_option_is_refused_with_the_way_out(
    check: Callable[[dict[str, Any]], Any], given: dict[str, Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error) as raised:
        check(given)
    assert text in str(raised.value)


def test_a_meaningless_option_warns_once_at_the_line_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(option_checks, "_warned", set())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        task_options({"enable_task_events": True})
        task_options({"enable_task_events": True})
        init_options({"dashboard_port": 8265, "include_dashboard": True})
    assert [str(warning.message).partition(" of ")[0] for warning in caught] == [
        "the option 'enable_task_events'",
        "the option 'dashboard_port'",
        "the option 'include_dashboard'",
    ]
    assert {warning.filename for warning in caught} == {__file__}


def test_asking_for_no_dashboard_is_no_reason_to_warn() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        init_options({"include_dashboard": False, "dashboard_port": None})


def test_init_options_are_complete() -> None:
    options, is_local, ignores = init_options(
        {"num_cpus": 2, "object_store_memory": 10**8, "logging_level": "debug", "local_mode": True}
    )
    assert (options.num_cpus, options.store_limit_bytes, options.logging_level) == (2, 10**8, 10)
    assert (is_local, ignores) == (True, False)
