"""What this machine can do at best: the bounds that other rows are held against. They need no peer."""

from __future__ import annotations

import ctypes
import mmap
import os
import pickle
import socket
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .row import Body, Peer, RowList

LIMITS = RowList("limit")
row = LIMITS.row

GIGABYTE = 1_000_000_000


def _shared_memory(size_bytes: int) -> mmap.mmap:
    """Fresh shared memory like that of an object store."""
    descriptor = os.memfd_create("bench")
    try:
        os.ftruncate(descriptor, size_bytes)
        return mmap.mmap(descriptor, size_bytes)
    finally:
        os.close(descriptor)


def _copy_into(memory: mmap.mmap, source: NDArray[Any]) -> None:
    target = np.frombuffer(memory, dtype=source.dtype)
    np.copyto(target, source)


def _mapped_copy(source: NDArray[Any], operations: float) -> Body:
    memory = _shared_memory(source.nbytes)
    _copy_into(memory, source)
    return Body(lambda: _copy_into(memory, source), operations, keep=memory)


@row("memcpy to mapped pages", unit="GB")
def copy_to_mapped_pages(_: Peer) -> Body:
    array = np.zeros(100 * 1024 * 1024, dtype=np.int64)
    return _mapped_copy(array, array.nbytes / GIGABYTE)


def _sized_copy(size_bytes: int, _: Peer) -> Body:
    return _mapped_copy(np.full(size_bytes, 7, dtype=np.uint8), 1)


for _label, _size_bytes in (("1 MB", 1_000_000), ("100 MB", 100_000_000), ("1 GB", GIGABYTE)):
    row(f"memcpy of {_label} to mapped pages", unit="copies")(partial(_sized_copy, _size_bytes))


@row("memcpy to fresh pages", unit="GB")
def copy_to_fresh_pages(_: Peer) -> Body:
    source = np.full(100_000_000, 7, dtype=np.uint8)
    return Body(lambda: _copy_into(_shared_memory(source.nbytes), source), source.nbytes / GIGABYTE)


@row("memcpy in two processes at once", unit="GB")
def copy_in_two_processes(_: Peer) -> Body:
    """The same work as two workers of "multi client put gigabytes": zeros into pages mapped before."""
    array_bytes, copies = 80 * 1024 * 1024, 20
    pairs = [socket.socketpair() for _ in range(2)]
    for _, theirs in pairs:
        _fork(partial(_copy_on_request, theirs, array_bytes, copies))

    def copy_at_once() -> None:
        for ours, _ in pairs:
            ours.send(b"c")
        for ours, _ in pairs:
            ours.recv(1)

    return Body(copy_at_once, 2 * copies * array_bytes / GIGABYTE, clean_up=partial(_close_pairs, pairs))


def _copy_on_request(requests: socket.socket, array_bytes: int, copies: int) -> None:
    memory = _shared_memory(array_bytes)
    while requests.recv(1):
        for _ in range(copies):
            _copy_into(memory, np.zeros(array_bytes // 8, dtype=np.int64))
        requests.send(b"d")


@row("socket round trip", unit="round trips")
def socket_round_trip(_: Peer) -> Body:
    """One byte to another process and back over a Unix socket; both sides sleep in ``recv``."""
    ours, theirs = pair = socket.socketpair()
    _fork(partial(_echo, theirs))

    def round_trip() -> None:
        ours.send(b"x")
        ours.recv(1)

    return Body(round_trip, clean_up=partial(_close_pairs, [pair]))


def _echo(requests: socket.socket) -> None:
    while data := requests.recv(1):
        requests.send(data)


@row("pickle 160 KB", unit="pairs")
def pickle_array(_: Peer) -> Body:
    """Pickle and unpickle of the array of the row "put and get 160 KB", its bytes inside the pickle."""
    array = np.full(160_000, 7, dtype=np.uint8)
    return Body(lambda: pickle.loads(pickle.dumps(array, protocol=5)))


@row("pickle a small value", unit="pairs")
def pickle_small(_: Peer) -> Body:
    return Body(lambda: pickle.loads(pickle.dumps(0, protocol=5)))


@row("fork", unit="forks")
def fork(_: Peer) -> Body:
    """A child of this process (numpy loaded) that exits at once, and its end seen."""
    return Body(lambda: os.waitpid(_fork(lambda: None), 0))


def _fork(run: Callable[[], None]) -> int:
    """Starts a child that runs `run` and ends with this process; returns its process id."""
    child = os.fork()
    if child:
        return child
    try:
        ctypes.CDLL(None).prctl(1, 9)  # PR_SET_PDEATHSIG, SIGKILL
        run()
    finally:
        os._exit(0)


def _close_pairs(pairs: list[tuple[socket.socket, socket.socket]]) -> None:
    """Ends the children that wait on the other ends, and collects them."""
    for ours, theirs in pairs:
        ours.shutdown(socket.SHUT_RDWR)
        ours.close()
        theirs.close()
        os.wait()
