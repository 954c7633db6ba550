"""Every error that a user of Remora can meet, with Ray's names as aliases.

A message says whose fault it is, what happened, where, and what to do. It is worded from the error's fields, so that
programs can look at fields and people at the text. Each class also takes a ready message as its first argument.
"""

from __future__ import annotations

from remora.base.call_errors import (
    ActorPlacementGroupRemoved,
    ActorUnschedulableError,
    RuntimeEnvSetupError,
    TaskCancelledError,
    TaskPlacementGroupRemoved,
    TaskUnschedulableError,
)
from remora.base.object_errors import (
    DeserializationError,
    GetTimeoutError,
    ObjectFetchTimedOutError,
    ObjectFreedError,
    ObjectLostError,
    ObjectReconstructionFailedError,
    ObjectReconstructionFailedLineageEvictedError,
    ObjectReconstructionFailedMaxAttemptsExceededError,
    ObjectRefStreamEndOfStreamError,
    ObjectStoreFullError,
    OutOfDiskError,
    OwnerDiedError,
    PlasmaObjectNotAvailable,
    ReferenceCountingAssertionError,
    SerializationError,
)
from remora.base.process_errors import (
    ActorAlreadyExistsError,
    ActorDiedError,
    ActorError,
    ActorHandleNotFoundError,
    ActorUnavailableError,
    AsyncioActorExit,
    DaemonDiedError,
    NodeDiedError,
    OutOfMemoryError,
    PendingCallsLimitExceeded,
    WorkerCrashedError,
)
from remora.base.remora_error import RemoraError
from remora.base.task_error import TaskError
from remora.base.task_failure import UnserializableException
from remora.base.wording import describe_exit, format_size

__all__ = [
    "ActorAlreadyExistsError",
    "ActorDiedError",
    "ActorError",
    "ActorHandleNotFoundError",
    "ActorPlacementGroupRemoved",
    "ActorUnavailableError",
    "ActorUnschedulableError",
    "AsyncioActorExit",
    "AuthenticationError",
    "CrossLanguageError",
    "DaemonDiedError",
    "DeserializationError",
    "GetTimeoutError",
    "InternalError",
    "LocalRayletDiedError",
    "NodeDiedError",
    "ObjectFetchTimedOutError",
    "ObjectFreedError",
    "ObjectLostError",
    "ObjectReconstructionFailedError",
    "ObjectReconstructionFailedLineageEvictedError",
    "ObjectReconstructionFailedMaxAttemptsExceededError",
    "ObjectRefStreamEndOfStreamError",
    "ObjectStoreFullError",
    "OutOfDiskError",
    "OutOfMemoryError",
    "OwnerDiedError",
    "PendingCallsLimitExceeded",
    "PlasmaObjectNotAvailable",
    "RayActorError",
    "RayError",
    "RaySystemError",
    "RayTaskError",
    "ReferenceCountingAssertionError",
    "RemoraError",
    "RuntimeEnvSetupError",
    "SerializationError",
    "TaskCancelledError",
    "TaskError",
    "TaskPlacementGroupRemoved",
    "TaskUnschedulableError",
    "UnserializableException",
    "UserCodeException",
    "WorkerCrashedError",
    "describe_exit",
    "format_size",
]


class InternalError(RemoraError):
    """Remora itself failed; Ray's name for it is ``RaySystemError``."""


class CrossLanguageError(RemoraError):
    """A call between languages failed on the other side."""


class AuthenticationError(RemoraError):
    """The peer could not prove that it belongs to this cluster."""


class UserCodeException(RemoraError):
    """Code of the user that Remora called back raised."""


RayError = RemoraError
RayTaskError = TaskError
RayActorError = ActorError
RaySystemError = InternalError
LocalRayletDiedError = DaemonDiedError

PUBLIC_MODULE = "remora.exceptions"
"""Where users find the errors, and so what their tracebacks say."""

for _name in __all__:
    _error_class = globals()[_name]
    if isinstance(_error_class, type):
        _error_class.__module__ = PUBLIC_MODULE
