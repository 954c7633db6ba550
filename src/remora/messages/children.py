"""Between a node daemon and its zygote, over the socket pair that they share.

Two descriptors travel with each ``ForkWorker``, the worker's standard output and standard error, in the order of
the messages. Every ``ForkWorker`` is answered by exactly one ``Forked`` or ``ForkFailed``, and every ``Forked`` is
followed by one ``Exited`` when the worker has ended.
"""

from __future__ import annotations

import msgspec

from remora.base.configuration import WorkerConfiguration


class ForkWorker(msgspec.Struct, array_like=True, tag=120, frozen=True):
    """Daemon to zygote: start a worker; its two descriptors come with the message."""

    configuration: WorkerConfiguration


class Preload(msgspec.Struct, array_like=True, tag=121, frozen=True):
    """Daemon to zygote: import these modules, so that workers forked from now on have them."""

    modules: list[str]


class Forked(msgspec.Struct, array_like=True, tag=122, frozen=True):
    """Zygote to daemon: the worker runs. Its process group has the number of its pid."""

    worker_number: int
    pid: int


class ForkFailed(msgspec.Struct, array_like=True, tag=123, frozen=True):
    """Zygote to daemon: the worker could not be started; ``reason`` is a sentence."""

    worker_number: int
    reason: str


class Exited(msgspec.Struct, array_like=True, tag=124, frozen=True):
    """Zygote to daemon: the worker has ended, and its process group and its orphans with it.

    Either ``exit_code`` or ``signal`` is set; both are None when nobody saw the end (the zygote was killed just
    then). ``out_of_memory`` is true when the kernel counted an out-of-memory kill just before.
    """

    worker_number: int
    pid: int
    exit_code: int | None = None
    signal: int | None = None
    out_of_memory: bool = False


class Preloaded(msgspec.Struct, array_like=True, tag=125, frozen=True):
    """Zygote to daemon: what was imported, and a sentence for each module that could not be."""

    modules: list[str]
    failures: list[str] = []


MESSAGES = (ForkWorker, Preload, Forked, ForkFailed, Exited, Preloaded)
