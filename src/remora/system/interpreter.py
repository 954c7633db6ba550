"""Start a fresh interpreter of the same kind as this one, in a session of its own, with chosen descriptors.

``posix_spawn`` because it takes the same time in a driver of any size, and because importing ``subprocess`` would
cost ``init`` 10 ms.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import sys
from typing import TypeVar

import msgspec

from remora.base.credentials import JOIN_STRING_SCHEME
from remora.system.log_file import log_to_descriptors

CONFIGURATION_DESCRIPTOR = 3
FIRST_DESCRIPTOR = 4
"""The descriptors given to :func:`spawn_interpreter` have this number and the following ones in the child."""
PLACE_FOR_COPIES = 32
"""Above all numbers of descriptors in the child, and below every limit that a process can do with."""

T = TypeVar("T")


def spawn_interpreter(
    entry: str, title: str, configuration: msgspec.Struct, descriptors: list[int], log_path: str, hash_seed: int
) -> int:
    """Start an interpreter that calls *entry* (``module:function``); its pid.

    The child has ``/dev/null`` as standard input, *log_path* as output and error, *configuration* to be read with
    :func:`read_configuration`, copies of *descriptors* from :data:`FIRST_DESCRIPTOR` on, and nothing else. Its
    strings hash as *hash_seed* says. *title* is only for people who list processes.

    Raises:
        RuntimeError: this Python does not know its own executable.
        OSError: the process cannot be started.
    """
    if not sys.executable:
        raise RuntimeError("Remora starts processes with sys.executable, which is empty in this (embedded) Python")
    arguments = [sys.executable, *_flags(), "-c", _start_code(entry), title]
    with contextlib.ExitStack() as stack:
        sources = [_in_memory(msgspec.msgpack.encode(configuration)), *descriptors]
        stack.callback(os.close, sources[0])
        actions: list[tuple[int, ...] | tuple[int, int, str, int, int]] = [
            (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ]
        for target, source in enumerate(sources, CONFIGURATION_DESCRIPTOR):
            # Copied out of the way first: a source may have the number that another one is to get.
            copy = fcntl.fcntl(source, fcntl.F_DUPFD_CLOEXEC, PLACE_FOR_COPIES)
            stack.callback(os.close, copy)
            actions.append((os.POSIX_SPAWN_DUP2, copy, target))
        return os.posix_spawn(
            sys.executable,
            arguments,
            _environment(hash_seed),
            file_actions=actions,
            setsid=True,
            setsigmask=[],
            setsigdef=_resettable_signals(),
        )


def read_configuration(kind: type[T], descriptor_count: int) -> T:
    """In the child: the configuration that it was started with; every descriptor not meant for it is closed.

    What the child prints from now on goes to its log, and is dropped when that cannot be written.
    """
    log_to_descriptors()
    with open(CONFIGURATION_DESCRIPTOR, "rb") as file:
        configuration = msgspec.msgpack.decode(file.read(), type=kind)
    last = FIRST_DESCRIPTOR + descriptor_count - 1
    for name in os.listdir("/proc/self/fd"):
        # One of them was the listing's own and is closed already.
        if int(name) > last:
            with contextlib.suppress(OSError):
                os.close(int(name))
    for descriptor in range(FIRST_DESCRIPTOR, last + 1):
        os.set_inheritable(descriptor, False)
    return configuration


def resolve(entry: str) -> object:
    """The object that ``module:function`` names; imports the module."""
    module, _, name = entry.partition(":")
    __import__(module)
    return getattr(sys.modules[module], name)


def _start_code(entry: str) -> str:
    """Python code that finds what this process finds, and calls *entry*. Not ``-m``: runpy costs 2 ms.

    The collector is off until *entry* turns it on: a start allocates much and leaves no garbage.
    """
    paths = [os.path.abspath(path) for path in sys.path if path]
    module, _, function = entry.partition(":")
    return (
        f"import gc, sys; gc.disable(); sys.path += [path for path in {paths!r} if path not in sys.path]; "
        f"from {module} import {function}; {function}()"
    )


def _flags() -> list[str]:
    """``-P`` keeps a user's ``random.py`` in the working directory away from us; the rest is as in this process."""
    flags = ["-P"]
    if sys.flags.no_site:
        flags.append("-S")
    if sys.flags.no_user_site:
        flags.append("-s")
    if sys.flags.dont_write_bytecode:
        flags.append("-B")
    flags += ["-O"] * sys.flags.optimize
    return flags


def _environment(hash_seed: int) -> dict[str, str]:
    environment = dict(os.environ)
    if sys.flags.ignore_environment:
        environment = {name: value for name, value in environment.items() if not name.startswith("PYTHON")}
    environment.pop("PYTHONINSPECT", None)
    # A join string is for the one who starts a node, not for user code in workers and all that it starts.
    environment = {
        name: value for name, value in environment.items() if not value.strip().startswith(JOIN_STRING_SCHEME)
    }
    environment["PYTHONHASHSEED"] = str(hash_seed)
    return environment


def choose_hash_seed() -> int:
    """The driver's own PYTHONHASHSEED when it has one, else a random one."""
    own = os.environ.get("PYTHONHASHSEED", "random")
    return int(own) if own.isdigit() else int.from_bytes(os.urandom(4), "big")


def _in_memory(data: bytes) -> int:
    descriptor = os.memfd_create("remora-configuration", os.MFD_CLOEXEC)
    os.write(descriptor, data)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


def _resettable_signals() -> list[int]:
    return [number for number in signal.valid_signals() if number not in (signal.SIGKILL, signal.SIGSTOP)]
