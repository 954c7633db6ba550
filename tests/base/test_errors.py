"""The family of errors: worded from their fields, found under Ray's names too, the same after they travelled."""

from __future__ import annotations

import copy
import pickle

import pytest

from remora.base import errors
from remora.base.errors import (
    ActorDiedError,
    ActorUnavailableError,
    GetTimeoutError,
    ObjectLostError,
    ObjectStoreFullError,
    OwnerDiedError,
    RemoraError,
    TaskCancelledError,
    TaskError,
    WorkerCrashedError,
)
from remora.base.ids import make_object_id, make_process_id
from remora.base.suggest import did_you_mean, nearest_name
from remora.serialization import deserialize_error, serialize_system_error

OBJECT = make_object_id(make_process_id(1, 2), 3)
ALL_CLASSES = sorted({value for value in vars(errors).values() if isinstance(value, type)}, key=lambda c: c.__name__)
FAMILY = [error_class for error_class in ALL_CLASSES if issubclass(error_class, RemoraError)]


@pytest.mark.parametrize("error_class", FAMILY, ids=lambda c: c.__name__)
def test_every_error_can_be_made_from_nothing_or_from_a_message_and_travels(error_class: type[RemoraError]) -> None:
    error_class()
    error = error_class("what happened")
    if error_class is not TaskError:
        assert str(error) == "what happened"
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
        assert type(again) is error_class
        assert str(again) == str(error)
    sent = deserialize_error(serialize_system_error(error))
    assert type(sent) is error_class
    assert str(sent) == str(error)


@pytest.mark.parametrize(
    ("ray_name", "our_name"),
    [
        ("RayError", "RemoraError"),
        ("RayTaskError", "TaskError"),
        ("RayActorError", "ActorError"),
        ("RaySystemError", "InternalError"),
        ("LocalRayletDiedError", "DaemonDiedError"),
    ],
)
def test_names_of_ray_are_aliases(ray_name: str, our_name: str) -> None:
    assert getattr(errors, ray_name) is getattr(errors, our_name)


def test_the_family_has_the_bases_that_programs_catch() -> None:
    assert issubclass(GetTimeoutError, TimeoutError)
    assert issubclass(OwnerDiedError, ObjectLostError)
    assert issubclass(ActorDiedError, errors.RayActorError)
    assert issubclass(ActorUnavailableError, errors.RayActorError)
    assert issubclass(errors.SerializationError, TypeError)
    assert issubclass(errors.ReferenceCountingAssertionError, AssertionError)
    assert issubclass(errors.ActorAlreadyExistsError, ValueError)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            WorkerCrashedError(function_name="load", pid=77, node="n1", signal=9, attempts=3),
            ["pid 77", "node n1", "load", "SIGKILL (9)", "3 times"],
        ),
        (WorkerCrashedError(pid=1, exit_code=3), ["exited with code 3", "os._exit"]),
        (WorkerCrashedError(pid=1, signal=11), ["SIGSEGV", "native code"]),
        (WorkerCrashedError(pid=1, signal=63), ["(63)"]),
        (WorkerCrashedError(pid=1, out_of_memory=True), ["out of memory", "num_cpus"]),
        (WorkerCrashedError(pid=1, last_output="Killed here"), ["Killed here"]),
        (GetTimeoutError(timeout_s=1.5, object_id=OBJECT, pending=1), ["1.2.3.0", "1.5 s", "longer timeout"]),
        (GetTimeoutError(timeout_s=2, object_id=OBJECT, pending=7), ["7 objects"]),
        (ObjectLostError(object_id=OBJECT, node="n2", reason="The node died", site="a.py:3"), ["1.2.3.0", "a.py:3"]),
        (OwnerDiedError(object_id=OBJECT), ["1.2.3.0", "died"]),
        (
            ActorDiedError(class_name="Counter", actor_name="c", actor_id=OBJECT, pid=5, exit_code=1),
            ["Counter", "'c'", "pid 5", "exited with code 1", "max_restarts"],
        ),
        (ActorDiedError(class_name="C", never_started=True, reason="Its __init__ raised"), ["never started"]),
        (ActorUnavailableError(class_name="C"), ["cannot be reached", "may have run"]),
        (
            ObjectStoreFullError(size_bytes=5_000_000, used_bytes=90_000_000, limit_bytes=92_000_000),
            ["5.0 MB", "90.0 MB of 92.0 MB", "object_store_memory"],
        ),
        (TaskCancelledError(function_name="f", task_id=OBJECT[:12]), ["f", "1.2.3", "cancelled"]),
        (errors.TaskUnschedulableError(function_name="f", wanted="GPU: 1", available="CPU: 2"), ["GPU: 1", "CPU: 2"]),
        (errors.DaemonDiedError(pid=4, signal=9, log_path="/tmp/x.log"), ["SIGKILL", "/tmp/x.log", "init()"]),
    ],
)
def test_messages_are_worded_from_the_fields(error: RemoraError, words: list[str]) -> None:
    for word in words:
        assert word in str(error), str(error)


def test_fields_travel_with_an_error() -> None:
    error = WorkerCrashedError(function_name="f", pid=12, signal=9, attempts=2)
    for again in (pickle.loads(pickle.dumps(error)), deserialize_error(serialize_system_error(error))):
        assert isinstance(again, WorkerCrashedError)
        assert (again.pid, again.signal, again.attempts, again.exit_code) == (12, 9, 2, None)
    actor = deserialize_error(serialize_system_error(ActorDiedError(actor_id=OBJECT)))
    assert isinstance(actor, ActorDiedError)
    assert actor.actor_id == OBJECT.hex()


def test_a_system_error_of_an_unknown_class_arrives_as_a_remora_error() -> None:
    class OwnError(RemoraError):
        pass

    got = deserialize_error(serialize_system_error(OwnError("mine")))
    assert type(got) is RemoraError
    assert str(got) == "mine"


def test_names_close_to_a_valid_one_are_suggested() -> None:
    assert nearest_name("num_cpu", ["num_cpus", "num_gpus"]) == "num_cpus"
    assert nearest_name("zzz", ["num_cpus"]) is None
    assert did_you_mean("zzz", ["b", "a"]) == "Valid names: a, b."
    assert did_you_mean("resource", ["resources"]) == "Did you mean 'resources'?"


@pytest.mark.parametrize("error_class", FAMILY, ids=lambda c: c.__name__)
def test_every_error_is_found_where_its_traceback_says(error_class: type[RemoraError]) -> None:
    assert error_class.__module__ == "remora.exceptions"
    assert pickle.loads(pickle.dumps(error_class)) is error_class
