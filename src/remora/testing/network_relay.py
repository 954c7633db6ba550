"""A bad line between two hosts: delay, loss, reordering and duplicates on everything that they send each other.

Each of the two hosts gets a TUN device and a route through it to the other. A thread reads the packets from one device,
asks the :class:`~remora.testing.relay.BadLine` of that way when each of them leaves, and writes it into the other
device. Made by :meth:`remora.testing.network_lab.NetworkLab.relay_between`. What goes this way does not pass
the bridge, so limits on the rate of a host do not hold for it; cuts do.
"""

from __future__ import annotations

import dataclasses
import fcntl
import os
import select
import struct
import threading
import time

from remora.testing.namespaces import TUN
from remora.testing.network_host import Host
from remora.testing.relay import BadLine, LineConditions, LineCounts

TUNSETIFF = 0x400454CA
IFF_TUN = 0x0001
IFF_NO_PI = 0x1000
DEVICE_NAME = b"relay%d"  # the kernel puts a number there
QUEUE_PACKETS = 10_000
"""What a device holds until the thread reads it, so that nothing is lost but by decision."""
BATCH_PACKETS = 100
LARGEST_PACKET_BYTES = 65536


class Relay:
    """All that two hosts send each other goes through this, until :meth:`close`; then the direct way again."""

    def __init__(self, a: Host, b: Host, seed: int, conditions: LineConditions) -> None:
        self.hosts = (a, b)
        self._lines = {
            a: BadLine(f"{seed} {a.name} {b.name}", conditions),
            b: BadLine(f"{seed} {b.name} {a.name}", conditions),
        }
        self._devices = {a: _Device(a), b: _Device(b)}
        self._wake_fd = os.eventfd(0, os.EFD_CLOEXEC)
        self.closed = False
        self._thread = threading.Thread(target=self._run, name=f"relay {a.name} {b.name}", daemon=True)
        self._thread.start()
        try:
            self._devices[a].route(a, b)
            self._devices[b].route(b, a)
        except RuntimeError:
            self.close()
            raise

    def __repr__(self) -> str:
        ways = ", ".join(f"from {host.name}: {line}" for host, line in self._lines.items())
        return f"<Relay {ways}>"

    def change(self, **conditions: float) -> None:
        """Set fields of :class:`~remora.testing.relay.LineConditions`, both ways, for packets sent from now on.

        Example:
            >>> relay.change(loss=1.0)
        """
        for source in self._lines:
            self.change_from(source, **conditions)

    def change_from(self, source: Host, **conditions: float) -> None:
        """As :meth:`change`, only for what *source* sends."""
        line = self._lines[source]
        line.conditions = dataclasses.replace(line.conditions, **conditions)

    def counts_from(self, source: Host) -> LineCounts:
        """What became of the packets of *source* up to now."""
        return dataclasses.replace(self._lines[source].counts)

    def close(self) -> None:
        """Remove the devices, and with them the routes and the packets that are under way."""
        if not self.closed:
            self.closed = True
            os.eventfd_write(self._wake_fd, 1)
            self._thread.join()
            os.close(self._wake_fd)
            for device in self._devices.values():
                device.close()

    def _run(self) -> None:
        (a, line_of_a), (b, line_of_b) = self._lines.items()
        device_of_a, device_of_b = self._devices[a], self._devices[b]
        poll = select.poll()
        for fd in (self._wake_fd, device_of_a.fd, device_of_b.fd):
            poll.register(fd, select.POLLIN)
        while True:
            ready = {fd for fd, _ in poll.poll(_pause_ms(line_of_a, line_of_b))}
            if self._wake_fd in ready:
                return
            for line, source, target in ((line_of_a, device_of_a, device_of_b), (line_of_b, device_of_b, device_of_a)):
                if source.fd in ready:
                    source.read_into(line)
                for packet in line.take_due(time.monotonic()):
                    os.write(target.fd, packet)


def _pause_ms(*lines: BadLine) -> float | None:
    """How long nothing has to be done; poll rounds it up to whole milliseconds."""
    due_s = [line.next_due_s for line in lines if line.next_due_s is not None]
    return max(0.0, min(due_s) - time.monotonic()) * 1000 if due_s else None


class _Device:
    """A TUN device on a host: what the host sends to it is read here, what is written here the host receives."""

    def __init__(self, host: Host) -> None:
        with host.entered():
            self.fd = os.open(TUN, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
            request = struct.pack("16sH22x", DEVICE_NAME, IFF_TUN | IFF_NO_PI)
            answer: bytes = fcntl.ioctl(self.fd, TUNSETIFF, request)
        self.name = answer[:16].rstrip(b"\0").decode()

    def route(self, host: Host, other: Host) -> None:
        """Let *host* send through this device what is for *other*."""
        host.namespace.ip(
            f"link set {self.name} addrgenmode none txqueuelen {QUEUE_PACKETS}",
            f"link set {self.name} up",
            f"route add {other.address}/32 dev {self.name} src {host.address}",
        )

    def read_into(self, line: BadLine) -> None:
        """Put what the host has sent into *line*, up to a number of packets, so that others have their turn."""
        for _ in range(BATCH_PACKETS):
            try:
                packet = os.read(self.fd, LARGEST_PACKET_BYTES)
            except BlockingIOError:
                return
            line.put(packet, time.monotonic())

    def close(self) -> None:
        os.close(self.fd)
