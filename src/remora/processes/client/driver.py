"""The runtime of a driver: connected to the node daemon that it started, and ended with it."""

from __future__ import annotations

import os
import signal
import socket
import sys
from types import FrameType
from typing import Any

from remora.base.errors import InternalError, describe_exit
from remora.base.options import InitOptions
from remora.messages.session import JobEnvironment, Leaving, Welcome
from remora.processes.client import fork_guard, ref_hooks
from remora.processes.client.client import Client
from remora.processes.client.client_runtime import ClientRuntime
from remora.processes.client.output import OutputPrinter
from remora.system.handshake import connect_unix, receive_welcome, send_hello
from remora.system.interrupts import raise_or_defer
from remora.system.launch import LaunchedNode
from remora.system.session_directory import DAEMON_SOCKET

PRELOADABLE_MODULES = ("numpy", "pandas")
"""What workers are forked with when the driver has it; neither starts threads when it is imported."""
DAEMON_END_TIMEOUT_S = 0.5


def join(node: LaunchedNode, options: InitOptions) -> DriverRuntime:
    """Connect this process to the node that it has launched.

    Raises:
        NodeStartError: the node daemon did not start; its log is in the text.
    """
    try:
        node.wait_ready()
        daemon = connect_unix(node.socket_path)
        send_hello(daemon, "driver")
        welcome, descriptors = receive_welcome(daemon)
    except BaseException:
        node.end(0)
        raise
    client = _make_client(daemon, welcome, descriptors, options)
    client.describe_daemon_end = lambda: _describe_end(node)
    return DriverRuntime(client, node, options.log_to_driver)


def join_running(directory: str, options: InitOptions) -> DriverRuntime:
    """Connect this process to a node that runs without it.

    Raises:
        ConnectionError: it has ended just now, or refuses.
    """
    try:
        daemon = connect_unix(f"{directory}/{DAEMON_SOCKET}")
        send_hello(daemon, "driver")
        welcome, descriptors = receive_welcome(daemon)
    except (OSError, InternalError) as error:
        raise ConnectionError(f"the node in {directory} cannot be joined: {error}") from error
    return DriverRuntime(_make_client(daemon, welcome, descriptors, options), None, options.log_to_driver)


def _make_client(daemon: socket.socket, welcome: Welcome, descriptors: list[int], options: InitOptions) -> Client:
    client = Client(daemon, welcome, descriptors)
    client.late_publications.may_wait = not client.is_in_cluster
    if client.is_in_cluster:
        # Others use the same cluster: names of this job's actors are its own unless it wants them shared.
        client.namespace = options.namespace or f"job-{client.process.hex()}"
    main_file = getattr(sys.modules.get("__main__"), "__file__", None) or ""
    client.send_to_daemon(
        JobEnvironment(
            [os.path.abspath(entry or os.getcwd()) for entry in sys.path],
            os.getcwd(),
            main_file,
            client.namespace,
            options.log_to_driver,
            [name for name in PRELOADABLE_MODULES if name in sys.modules],
        )
    )
    client.flush()
    client.leadership.start_io_thread()
    return client


class DriverRuntime(ClientRuntime):
    """The runtime of a driver; *node* is the one that it has started, if it has."""

    def __init__(self, client: Client, node: LaunchedNode | None, shows_output: bool) -> None:
        super().__init__(client)
        self._node = node
        self._output = OutputPrinter(client)
        self._shows_output = shows_output
        client.on_output = self._output.on_message
        self._handler = _install_interrupt_handler()
        ref_hooks.install(client)
        fork_guard.watch(client, node.close_in_child if node is not None else lambda: None)

    def shutdown(self) -> None:
        """See :class:`~remora.base.runtime.Runtime`."""
        client = self._client
        try:
            if self._shows_output and not client.ended:
                self._output.flush()
        finally:
            self._leave()

    def _leave(self) -> None:
        client = self._client
        if not client.ended:
            client.send_to_daemon(Leaving())
            client.flush()
        super().shutdown()
        fork_guard.forget()
        if self._node is not None:
            self._node.end()
        ref_hooks.uninstall()
        if self._handler is not None and signal.getsignal(signal.SIGINT) is _on_interrupt:
            signal.signal(signal.SIGINT, self._handler)


def _describe_end(node: LaunchedNode) -> str:
    # Its socket is closed before it can be reaped.
    status = node.exit_status(DAEMON_END_TIMEOUT_S)
    return describe_exit(*status) if status is not None else "has closed its connection"


def _install_interrupt_handler() -> Any:
    """Ctrl-C in the middle of our bookkeeping is raised when it is done. A handler of the user's own is left alone."""
    try:
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            return signal.signal(signal.SIGINT, _on_interrupt)
    except ValueError:  # not the main thread
        pass
    return None


def _on_interrupt(number: int, frame: FrameType | None) -> None:
    raise_or_defer(frame, KeyboardInterrupt())
