"""The one fresh interpreter of a node: imports what all share, forks the zygote, becomes the node daemon."""

from __future__ import annotations

import faulthandler
import gc
import os
import socket
import traceback
from collections.abc import Callable
from typing import Any, NoReturn

import msgspec

from remora.base.configuration import NodeConfiguration, ZygoteConfiguration
from remora.processes import zygote
from remora.system.interpreter import read_configuration, resolve
from remora.system.launch import LAUNCH_DESCRIPTOR_COUNT, REFUSAL_EXIT_CODE
from remora.system.process_control import (
    become_subreaper,
    kill_all_descendants,
    open_pidfd,
    raise_descriptor_limit,
    set_process_title,
)

DAEMON_TITLE = "remora:daemon"
END_TIMEOUT_S = 2.0


def main() -> NoReturn:
    """Entry of the fresh interpreter that :func:`remora.system.launch.launch` starts."""
    faulthandler.enable()
    configuration = read_configuration(NodeConfiguration, LAUNCH_DESCRIPTOR_COUNT)
    raise_descriptor_limit()
    become_subreaper()
    configuration = fork_zygote(configuration)
    set_process_title(DAEMON_TITLE)
    exit_code = 1
    try:
        os.chdir("/")
        # Imported only now: the zygote needs nothing of what only the daemon uses.
        daemon_main: Callable[[NodeConfiguration], Any] = resolve(configuration.daemon_main)  # type: ignore[assignment]
        gc.freeze()  # what was imported stays for ever: the collector need not look at it again
        gc.enable()
        daemon_main(configuration)
        exit_code = 0
    except SystemExit as refusal:
        # A sentence for the user, who is shown the last line of the log.
        print(" ".join(str(refusal).splitlines()), flush=True)
        exit_code = REFUSAL_EXIT_CODE
    except BaseException:  # noqa: BLE001 - the last frame of this process
        # The session's folder stays: its log, where this goes, says what ended the session.
        traceback.print_exc()
    finally:
        kill_all_descendants(END_TIMEOUT_S)
        os._exit(exit_code)


def fork_zygote(configuration: NodeConfiguration) -> NodeConfiguration:
    """Fork the zygote; in the daemon, the configuration with what it needs to talk to it. The zygote never returns."""
    own = configuration.descriptors
    daemon_side, zygote_side = socket.socketpair()
    lifeline_read, lifeline_write = os.pipe()
    this_process = open_pidfd(os.getpid())
    gc.freeze()
    pid = os.fork()
    if pid == 0:
        os.setsid()
        daemon_side.close()
        for descriptor in (lifeline_write, own.listener, own.ready, own.lock):
            os.close(descriptor)
        zygote.serve(
            ZygoteConfiguration(
                session_directory=configuration.session_directory,
                control=zygote_side.detach(),
                lifeline_read=lifeline_read,
                daemon=this_process,
                driver=own.driver,
            )
        )
    zygote_side.close()
    os.close(this_process)
    descriptors = msgspec.structs.replace(
        own, control=daemon_side.detach(), lifeline_read=lifeline_read, lifeline_write=lifeline_write
    )
    return msgspec.structs.replace(configuration, descriptors=descriptors, zygote_pid=pid)
