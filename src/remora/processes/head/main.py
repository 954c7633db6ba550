"""The main function of the head: reads its state, serves, and ends with the daemon beside it."""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import os
import sys
import time
import traceback
from typing import NoReturn

from remora.core.head import Head, Identity
from remora.core.head_rows import IDENTITY
from remora.core.journal import Change
from remora.processes.head.configuration import HeadConfiguration
from remora.processes.head.server import HeadServer
from remora.processes.head.store import HeadStore, StoreError, store_url
from remora.system.certificates import certificate_and_key
from remora.system.interpreter import read_configuration
from remora.system.process_control import raise_descriptor_limit, set_process_title
from remora.system.reactor import Reactor

HEAD_TITLE = "remora:head"
HEAD_DESCRIPTOR_COUNT = 2
READY = b"\1"
CLUSTER_ID_SIZE_BYTES = 16
RANDOM_NUMBER_BITS = 30
"""The first node number is random up to this, so that no cluster ever gives all that follow."""


def main() -> NoReturn:
    """Entry of the interpreter that :class:`remora.processes.head.keeper.HeadKeeper` starts."""
    faulthandler.enable()
    configuration = read_configuration(HeadConfiguration, HEAD_DESCRIPTOR_COUNT)
    set_process_title(HEAD_TITLE)
    raise_descriptor_limit()
    gc.enable()
    os.umask(0o077)  # SQLite makes files beside its own
    exit_code = 1
    try:
        os.chdir("/")
        serve(configuration)
        exit_code = 0
    except StoreError as error:
        print(error, file=sys.stderr, flush=True)
        with contextlib.suppress(OSError):  # the daemon has ended
            os.write(configuration.ready, str(error).encode())
    except BaseException:  # noqa: BLE001 - the last frame of this process
        traceback.print_exc()
    finally:
        os._exit(exit_code)


def serve(configuration: HeadConfiguration) -> None:
    """Serve until the daemon has ended.

    Raises:
        StoreError: the state cannot be read.
    """
    store = HeadStore(store_url(configuration.state, configuration.session_directory))
    head = open_head(store, configuration)
    reactor = Reactor()
    is_ending = False

    def on_daemon_ended(mask: int) -> None:
        nonlocal is_ending
        is_ending = True

    reactor.register(configuration.daemon, on_daemon_ended)
    server = HeadServer(configuration, head, store, reactor)
    with contextlib.suppress(BrokenPipeError):  # the daemon has ended; its pidfd says so
        os.write(configuration.ready, READY)
    os.close(configuration.ready)
    while not is_ending:
        server.turn()


def open_head(store: HeadStore, configuration: HeadConfiguration) -> Head:
    """The head that goes on where the store is.

    Raises:
        StoreError: the state cannot be read.
    """
    rows = store.load()
    identity_row = next((value for kind, _, value in rows if kind == IDENTITY), None)
    if identity_row is None:
        number = 1 + int.from_bytes(os.urandom(4), "big") % (1 << RANDOM_NUMBER_BITS)
        identity_row = os.urandom(CLUSTER_ID_SIZE_BYTES) + number.to_bytes(4, "big")
        store.commit([Change(IDENTITY, b"", identity_row)])
    certificate, key = certificate_and_key(configuration.credentials)
    identity = Identity(
        cluster=identity_row[:CLUSTER_ID_SIZE_BYTES],
        python=(sys.version_info.major, sys.version_info.minor),
        first_number=int.from_bytes(identity_row[CLUSTER_ID_SIZE_BYTES:], "big"),
        certificate=certificate,
        key=key,
        epoch_s=time.time() - time.monotonic(),
    )
    head = Head(identity)
    try:
        head.restore(rows, time.monotonic())
    except ValueError as error:
        raise StoreError(f"the head's state is damaged: {error}. Move it away to begin a new cluster") from error
    return head
