"""Between nodes: streams that outlive a broken connection, and who a message is for.

A stream counts frames. Each side keeps what it wrote until the other has acknowledged it, and writes it again over the
next connection; so what is sent on a stream arrives once and in order until one side is dead or ends the stream.

Between daemons, messages of processes travel behind a marker that names the process: ``FromProcess`` of the sender's
node, ``ForProcess`` of the receiver's. A marker speaks of the next message only.
"""

from __future__ import annotations

import msgspec

from remora.messages.session import JobEnvironment


class StreamHello(msgspec.Struct, array_like=True, tag=130, frozen=True):
    """First frame of each side of every connection: *received* frames of the stream were handled here.

    ``stream`` are 16 bytes that the opener chose, ``sender`` is its process id (``node.0`` is a daemon).
    ``resumes``: the opener has had an answer before, so an acceptor that does not know the stream has given it up.
    """

    stream: bytes
    received: int
    sender: bytes
    resumes: bool = False


class StreamAck(msgspec.Struct, array_like=True, tag=131, frozen=True):
    """So many frames of the stream were handled; they need not be kept. Frames with nothing else are not counted."""

    received: int


class StreamEnd(msgspec.Struct, array_like=True, tag=132, frozen=True):
    """The sender is done with the stream: at an orderly end ``code`` is 0, else it says why the stream was refused."""

    code: int = 0


class ForProcess(msgspec.Struct, array_like=True, tag=133, frozen=True):
    """Marker: the next message is for this process of the receiver's node."""

    process: bytes


class FromProcess(msgspec.Struct, array_like=True, tag=134, frozen=True):
    """Marker: the next message was said by this process of the sender's node, whose job's driver is *job*."""

    process: bytes
    job: bytes


class StartJob(msgspec.Struct, array_like=True, tag=135, frozen=True):
    """Daemon to daemon, before the first request for a worker of this job."""

    job: bytes
    environment: JobEnvironment


class ProcessGone(msgspec.Struct, array_like=True, tag=136, frozen=True):
    """Daemon to daemon: this process of the sender's node has ended. Of a driver: its job is over."""

    process: bytes


class LeaseRejected(msgspec.Struct, array_like=True, tag=137, frozen=True):
    """Daemon to daemon: there is no room here now for *count* of the workers that were asked for; ask elsewhere."""

    process: bytes
    request: int
    count: int


MESSAGES = (StreamHello, StreamAck, StreamEnd, ForProcess, FromProcess, StartJob, ProcessGone, LeaseRejected)
