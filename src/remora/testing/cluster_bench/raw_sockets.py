"""How fast one connection between two hosts is without any of Remora above it: what transfers are held against.

In the clear one side sends pages of a memory file by ``sendfile`` and the other receives into warm memory, which is
the least that a transfer must do. With TLS both use Python's ``ssl``, set up as Remora does.

A host is spoken to by lines: ``python -m remora.testing.cluster_bench.raw_sockets ROLE ADDRESS SIZE FOLDER``. The
receiver prints its port, then the seconds of each transfer, which it is told to await by a line of input.
"""

from __future__ import annotations

import mmap
import os
import socket
import sys
import tempfile
from time import monotonic

from remora.base.credentials import ClusterCredentials
from remora.system.certificates import create_credentials, read_credentials
from remora.testing.network_host import Host
from remora.testing.network_lab import NetworkLab
from remora.testing.network_programs import Program

PIECE_BYTES = 1 << 20
MODULE = "remora.testing.cluster_bench.raw_sockets"
TIMEOUT_S = 120.0


def measure_raw(size: int, encrypt: bool, rounds: int = 2) -> float:
    """Seconds for *size* bytes from one host to another; the best of some rounds."""
    with tempfile.TemporaryDirectory() as folder, NetworkLab() as lab:
        create_credentials(folder, encrypt)
        source, target = lab.add_host(), lab.add_host()
        with _start(target, "receive", target.address, size, folder) as receiver:
            address = f"{target.address}:{receiver.read_line(TIMEOUT_S)}"
            with _start(source, "send", address, size, folder) as sender:
                return min(_one_round(sender, receiver) for _ in range(rounds))


def _one_round(sender: Program, receiver: Program) -> float:
    receiver.write_line("go")
    sender.write_line("go")
    return float(receiver.read_line(TIMEOUT_S))


def _start(host: Host, role: str, address: str, size: int, folder: str) -> Program:
    return host.start([sys.executable, "-u", "-m", MODULE, role, address, str(size), folder])


def send(address: str, size: int, credentials: ClusterCredentials) -> None:
    """Send *size* bytes for each line of standard input."""
    host, _, port = address.rpartition(":")
    sock = socket.create_connection((host, int(port)))
    memory = os.memfd_create("raw")
    os.truncate(memory, size)
    view = memoryview(mmap.mmap(memory, size))
    for offset in range(0, size, PIECE_BYTES):  # pages that exist, as those of an object do
        view[offset : offset + PIECE_BYTES] = os.urandom(1) * min(PIECE_BYTES, size - offset)
    if credentials.encrypt:
        from remora.system.network.tls import client_context

        sock = client_context().wrap_socket(sock)
    for _ in sys.stdin:
        offset = 0
        while offset < size:
            if credentials.encrypt:
                offset += sock.send(view[offset : offset + PIECE_BYTES])
            else:
                offset += os.sendfile(sock.fileno(), memory, offset, size - offset)


def receive(address: str, size: int, credentials: ClusterCredentials) -> None:
    """Receive *size* bytes for each line of standard input, and print the seconds from the first byte to the last."""
    listener = socket.create_server((address, 0))
    print(listener.getsockname()[1])
    sock, _ = listener.accept()
    if credentials.encrypt:
        from remora.system.network.tls import server_context

        sock = server_context(credentials).wrap_socket(sock, server_side=True)
    view = memoryview(bytearray(size))
    for _ in sys.stdin:
        start_s = 0.0
        received = 0
        while received < size:
            count = sock.recv_into(view[received : received + PIECE_BYTES])
            if not count:
                raise ConnectionResetError("the sender has ended")
            start_s = start_s or monotonic()
            received += count
        print(monotonic() - start_s)


def main() -> None:
    """Entry point of either role's process."""
    role, address, size, folder = sys.argv[1:]
    {"send": send, "receive": receive}[role](address, int(size), read_credentials(folder))


if __name__ == "__main__":
    main()
