"""From a freshly forked copy of the zygote to a worker that runs."""

from __future__ import annotations

import atexit
import gc
import os
import signal
import sys
import traceback
from collections.abc import Callable
from io import TextIOWrapper
from typing import NoReturn

from remora.base.configuration import WorkerConfiguration
from remora.system.interpreter import resolve
from remora.system.process_control import (
    arm_lifeline,
    become_subreaper,
    end_process,
    raise_oom_score,
    set_process_title,
)

WORKER_OOM_SCORE = 500
WORKER_TITLE = "remora:worker"


def run_worker(configuration: WorkerConfiguration, stdout: int, stderr: int, lifeline_read: int) -> NoReturn:
    """Become the worker, call its main function, and end the process with the code it returns or exits with."""
    exit_code = 1
    try:
        os.setpgid(0, 0)
        _take_output(stdout, stderr)
        _become_killable(lifeline_read)
        _take_environment(configuration)
        _forget_zygote_state()
        main: Callable[[WorkerConfiguration], int | None] = resolve(configuration.main)  # type: ignore[assignment]
        exit_code = main(configuration) or 0
    except SystemExit as exit_request:
        exit_code = _exit_code_of(exit_request)
    except BaseException:  # noqa: BLE001 - the last frame of this process
        traceback.print_exc()
    finally:
        _end(exit_code)


def _take_output(stdout: int, stderr: int) -> None:
    os.dup2(stdout, 1)
    os.dup2(stderr, 2)
    os.close(stdout)
    os.close(stderr)
    # New streams, since the zygote's remember that they write to a seekable file; by line, since into a pipe Python
    # writes in blocks of 8 KB and people want to see a line when it was printed.
    sys.stdout = sys.__stdout__ = _line_stream(1)  # type: ignore[misc]
    sys.stderr = sys.__stderr__ = _line_stream(2)  # type: ignore[misc]


def _line_stream(descriptor: int) -> TextIOWrapper:
    return open(descriptor, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False)


def _become_killable(lifeline_read: int) -> None:
    arm_lifeline(lifeline_read)
    os.close(lifeline_read)
    become_subreaper()
    raise_oom_score(WORKER_OOM_SCORE)
    set_process_title(WORKER_TITLE)
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _take_environment(configuration: WorkerConfiguration) -> None:
    for name, value in configuration.environment.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    if configuration.sys_path:
        sys.path[:] = configuration.sys_path
    sys.argv[:] = [configuration.main_file]
    if configuration.working_directory:
        try:
            os.chdir(configuration.working_directory)
        except OSError as error:
            print(f"the driver's working directory is out of reach here: {error}", file=sys.stderr)


def _forget_zygote_state() -> None:
    # Python reseeds `random` in every forked child, numpy does not.
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None:
        numpy_random.seed()
    gc.enable()


def _exit_code_of(request: SystemExit) -> int:
    if request.code is None:
        return 0
    if isinstance(request.code, int):
        return request.code & 0xFF
    print(request.code, file=sys.stderr)
    return 1


def _end(exit_code: int) -> NoReturn:
    """Exit handlers and buffered output, but no waiting for threads of the user."""
    atexit._run_exitfuncs()
    end_process(exit_code)
