"""Keyword arguments of ``@remote``, ``.options``, ``@method`` and ``init`` become the structs of `base.options`.

Every option of Ray Core is known by name: those that mean something are checked, those that mean nothing here are
accepted with one warning, and any other name is refused with the nearest valid one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from remora.api import option_checks as check
from remora.api.label_checks import check_label_selector, check_labels
from remora.base.options import ActorOptions, InitOptions, MethodOptions, TaskOptions
from remora.base.resources import Resources
from remora.base.scheduling import GroupChoice, Strategy, sorted_conditions

_PLACEMENT_CHECKS: dict[str, check.Check] = {
    "num_cpus": check.amount,
    "num_gpus": check.amount,
    "memory": check.amount,
    "resources": check.mapping,
    "accelerator_type": check.text,
    "scheduling_strategy": check.scheduling_strategy,
    "label_selector": check_label_selector,
    "placement_group": check.placement_group,
    "placement_group_bundle_index": check.integer(-1),
    "placement_group_capture_child_tasks": check.boolean,
    "runtime_env": check.no_environment,
}
_TASK_CHECKS: dict[str, check.Check] = {
    **_PLACEMENT_CHECKS,
    "num_returns": check.num_returns,
    "max_retries": check.integer(-1),
    "retry_exceptions": check.exceptions,
    "name": check.text,
}
_ACTOR_CHECKS: dict[str, check.Check] = {
    **_PLACEMENT_CHECKS,
    "max_restarts": check.integer(-1),
    "max_task_retries": check.integer(-1),
    "max_concurrency": check.integer(1),
    "max_pending_calls": check.integer(-1),
    "concurrency_groups": check.mapping,
    "name": check.text,
    "namespace": check.text,
    "lifetime": check.one_of("detached", "non_detached"),
    "get_if_exists": check.boolean,
}
_METHOD_CHECKS: dict[str, check.Check] = {
    "num_returns": check.num_returns,
    "name": check.text,
    "max_task_retries": check.integer(-1),
    "retry_exceptions": check.exceptions,
    "concurrency_group": check.text,
}
_INIT_CHECKS: dict[str, check.Check] = {
    "address": check.text,
    "num_cpus": check.amount,
    "num_gpus": check.amount,
    "resources": check.mapping,
    "object_store_memory": check.integer(1),
    "namespace": check.text,
    "ignore_reinit_error": check.boolean,
    "log_to_driver": check.boolean,
    "local_mode": check.boolean,
    "labels": check_labels,
    "runtime_env": check.no_environment,
}

_MEANINGLESS_ANYWHERE = {"_metadata", "enable_task_events", "_generator_backpressure_num_objects"}
_MEANINGLESS_AT_CALLS = _MEANINGLESS_ANYWHERE | {
    "_labels",
    "_num_objects_per_yield",
    "fallback_strategy",
    "max_calls",
    "object_store_memory",
}
_MEANINGLESS_FOR_ACTORS = _MEANINGLESS_AT_CALLS | {
    "_actor_generator_backpressure_num_objects",
    "allow_out_of_order_execution",
    "enable_tensor_transport",
}
_MEANINGLESS_FOR_METHODS = _MEANINGLESS_ANYWHERE | {"_num_objects_per_yield", "tensor_transport"}
_MEANINGLESS_AT_INIT = {
    "_driver_object_store_memory",
    "_enable_object_reconstruction",
    "_memory",
    "_metrics_export_port",
    "_node_ip_address",
    "_node_name",
    "_object_spilling_directory",
    "_plasma_directory",
    "_redis_password",
    "_redis_username",
    "_skip_env_hook",
    "_system_config",
    "_temp_dir",
    "_tracing_startup_hook",
    "allow_multiple",
    "cgroup_path",
    "configure_logging",
    "dashboard_host",
    "dashboard_port",
    "enable_resource_isolation",
    "include_dashboard",
    "job_config",
    "logging_config",
    "logging_format",
    "proxy_server_url",
    "system_reserved_cpu",
    "system_reserved_memory",
}
_ASKS_FOR_NOTHING = {"include_dashboard": False, "enable_resource_isolation": False}
"""Values of meaningless options that ask for just what Remora does: no warning."""

_OPTION_OF = (
    ("remote functions", _TASK_CHECKS),
    ("actor classes", _ACTOR_CHECKS),
    ("methods, given by @remora.method(...) or handle.method.options(...)", _METHOD_CHECKS),
    ("remora.init", _INIT_CHECKS),
)


def task_options(given: Mapping[str, Any]) -> TaskOptions:
    """The options of a remote function.

    Raises:
        TypeError, ValueError: an option is wrong or unknown.

    Example:
        >>> task_options({"num_cpus": 2, "num_returns": 3}).num_returns
        3
    """
    options = check.check_options("a remote function", given, _TASK_CHECKS, _MEANINGLESS_AT_CALLS, _belongs_to)
    resources = _resources(options, default_cpus=1)
    return TaskOptions(resources=resources, **_where(options), **_fields(options, TaskOptions))


def actor_options(given: Mapping[str, Any]) -> ActorOptions:
    """The options of an actor class.

    An actor for which no CPUs, GPUs or other resources were named needs a free CPU to be placed and holds none; once
    something was named it holds that, and one CPU unless another number was named.

    Raises:
        TypeError, ValueError: an option is wrong or unknown, or ``get_if_exists`` comes without a name.
    """
    options = check.check_options("an actor", given, _ACTOR_CHECKS, _MEANINGLESS_FOR_ACTORS, _belongs_to)
    if options.get("get_if_exists") and "name" not in options:
        raise ValueError("get_if_exists=True needs a name: it gets the actor that has this name")
    named = {"num_cpus", "num_gpus", "resources", "accelerator_type"} & options.keys()
    resources = _resources(options, default_cpus=1 if named else 0)
    placement = resources if named else _resources(options, default_cpus=1)
    groups = options.pop("concurrency_groups", {})
    for name, size in groups.items():
        check.integer(1)(f"concurrency_groups[{name!r}]", size)
    return ActorOptions(
        resources=resources,
        placement=placement,
        **_where(options),
        detached=options.get("lifetime") == "detached",
        concurrency_groups=groups,
        **_fields(options, ActorOptions),
    )


def method_options(given: Mapping[str, Any]) -> MethodOptions:
    """The options of an actor's method.

    Raises:
        TypeError, ValueError: an option is wrong or unknown.
    """
    options = check.check_options("an actor's method", given, _METHOD_CHECKS, _MEANINGLESS_FOR_METHODS, _belongs_to)
    return MethodOptions(**_fields(options, MethodOptions))


def init_options(given: Mapping[str, Any]) -> tuple[InitOptions, bool, bool]:
    """The options of ``init``, whether ``local_mode`` is on, and whether ``ignore_reinit_error`` is.

    Raises:
        TypeError, ValueError: an option is wrong or unknown.
    """
    asked = {name: value for name, value in given.items() if _ASKS_FOR_NOTHING.get(name) is not value or value is None}
    logging_level = _logging_level(asked.pop("logging_level", None))
    options = check.check_options("init", asked, _INIT_CHECKS, _MEANINGLESS_AT_INIT)
    resources = options.get("resources", {})
    Resources.of(options.get("num_cpus"), options.get("num_gpus"), None, resources)  # checks the amounts
    made = InitOptions(
        store_limit_bytes=options.get("object_store_memory", 0),
        logging_level=logging_level,
        **_fields(options, InitOptions),
    )
    return made, options.get("local_mode", False), options.get("ignore_reinit_error", False)


def _fields(options: Mapping[str, Any], struct: type[Any]) -> dict[str, Any]:
    """The options that the struct has under the same name and that are not worked out from others."""
    worked_out = {"resources"} if struct in (TaskOptions, ActorOptions) else set()
    return {
        name: value for name, value in options.items() if name in struct.__struct_fields__ and name not in worked_out
    }


def _resources(options: Mapping[str, Any], default_cpus: float) -> Resources:
    custom = dict(options.get("resources", {}))
    if "accelerator_type" in options:
        # A sliver of a resource that nodes with this kind of accelerator have, as in Ray.
        custom[f"accelerator_type:{options['accelerator_type']}"] = 0.001
    return Resources.of(options.get("num_cpus", default_cpus), options.get("num_gpus"), options.get("memory"), custom)


def _where(options: Mapping[str, Any]) -> dict[str, Any]:
    """The fields ``strategy``, ``group`` and ``may_be_captured``."""
    given = options.get("scheduling_strategy")
    strategy, group = given if given is not None else (Strategy(), None)
    selected = options.get("label_selector", ())
    if selected:
        labels = sorted_conditions([*strategy.labels, *selected])
        strategy = msgspec.structs.replace(strategy, labels=labels)
    own_group = _group_of_own_options(options)
    if own_group is not None:
        if given is not None:
            raise ValueError(
                "placement_group and scheduling_strategy exclude each other: give scheduling_strategy only"
            )
        group = own_group
    may_be_captured = (
        given is None
        and options.get("placement_group", "default") == "default"
        and options.get("placement_group_capture_child_tasks") is not False
    )
    return {"strategy": strategy.encode(), "group": group, "may_be_captured": may_be_captured}


def _group_of_own_options(options: Mapping[str, Any]) -> GroupChoice | None:
    """What the options of the times before ``scheduling_strategy`` say."""
    group = options.get("placement_group")
    if group is None or group == "default":
        if options.get("placement_group_bundle_index", -1) != -1:
            raise ValueError("placement_group_bundle_index names a bundle, but no placement_group is given")
        return None
    return check.group_choice(
        group, options.get("placement_group_bundle_index", -1), options.get("placement_group_capture_child_tasks")
    )


def _belongs_to(name: str) -> str:
    """A sentence for the name of an option that belongs to something else."""
    for kind, checks in _OPTION_OF:
        if name in checks:
            return f"It is an option of {kind}."
    return ""


def _logging_level(level: Any) -> int:
    if level is None:
        return 20
    if isinstance(level, str):
        import logging

        number = logging.getLevelNamesMapping().get(level.upper())
        if number is None:
            raise ValueError(f"logging_level={level!r}: it must be a level of the module logging, as 'INFO' or 20")
        return number
    return int(check.integer(0)("logging_level", level))
