"""``remora start`` and ``remora stop``: nodes of a cluster on this machine."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from collections.abc import Iterator
from typing import Any

import click

from remora.api.options import init_options
from remora.base.errors import RemoraError
from remora.base.join_string import JoinString
from remora.cli.inspector import tell
from remora.messages.session import StopNode
from remora.processes.node_start import NodeOptions, join_string_of, start_head_node, start_joining_node
from remora.system.launch import LaunchedNode
from remora.system.process_control import wait_ended
from remora.system.session_directory import running_sessions, wait_removed

JOIN_VARIABLE = "REMORA_JOIN"
STOP_TIMEOUT_S = 10.0


@click.command()
@click.option("--head", is_flag=True, help="Start the first node of a new cluster, and print its join string.")
@click.option("--join", metavar="FILE", help="Join the cluster whose join string is in FILE; - reads standard input.")
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="TCP port to listen at; 0: a free one.")
@click.option(
    "--node-ip", default="", metavar="ADDRESS", help="Address to listen at; by default that of the route out."
)
@click.option("--num-cpus", type=float, help="CPUs to give to tasks and actors; by default all that are usable.")
@click.option("--num-gpus", type=float, default=0.0, help="GPUs to give to tasks and actors.")
@click.option("--resources", default="{}", metavar="JSON", help='Resources of your own, as {"disk": 1}.')
@click.option("--labels", default="", metavar="KEY=VALUE,...", help="Labels of the node.")
@click.option("--object-store-memory", type=click.IntRange(1), help="Limit of the object store in bytes.")
@click.option("--state", default="", metavar="DIR|URL", help="Where the head keeps its state (SQLite or PostgreSQL).")
@click.option("--no-encrypt", is_flag=True, help="Send everything in the clear: only for networks that you trust.")
@click.option("--block", is_flag=True, help="Stay until the node ends; Ctrl-C stops it.")
@click.option("--quiet", is_flag=True, help="Print the join string and nothing else.")
def start(
    head: bool,
    join: str | None,
    port: int,
    node_ip: str,
    num_cpus: float | None,
    num_gpus: float,
    resources: str,
    labels: str,
    object_store_memory: int | None,
    state: str,
    no_encrypt: bool,
    block: bool,
    quiet: bool,
) -> None:
    """Start a node on this machine: the first one of a cluster, or one more.

    The join string holds the secret of the cluster: whoever has it can run code there. It is read from a file, from
    standard input or from REMORA_JOIN, never from the command line, which others can list.
    """
    own_resources, own_labels = _parse_resources(resources), _parse_labels(labels)
    _check_as_init_does(num_cpus, num_gpus, own_resources, own_labels, object_store_memory)
    options = NodeOptions(
        host=node_ip,
        port=port,
        num_cpus=num_cpus,
        num_gpus=num_gpus,
        resources=own_resources,
        labels=own_labels,
        store_limit_bytes=object_store_memory or 0,
    )
    with _interrupted_by(signal.SIGTERM, signal.SIGHUP):
        try:
            node = _start(head, join, options, state, no_encrypt)
        except (RemoraError, OSError, ImportError, ValueError) as error:
            raise click.ClickException(str(error)) from None
        try:
            text = join_string_of(node.session.path)
            if quiet:
                click.echo(text)
            else:
                _explain(node, text, is_head=head)
            if block:
                wait_ended(node.pidfd, None)
                raise click.ClickException(f"the node has ended; its log was {node.log_path}")
        except KeyboardInterrupt:
            _stop(node.session.path)
            if not block:
                raise


@contextlib.contextmanager
def _interrupted_by(*numbers: signal.Signals) -> Iterator[None]:
    """Let these signals do what Ctrl-C does: a node must not stay behind whoever was to watch it."""
    before = {number: signal.getsignal(number) for number in numbers}
    taken = [number for number in numbers if before[number] is signal.SIG_DFL]  # of nohup SIGHUP is ignored, on purpose
    for number in taken:
        signal.signal(number, signal.default_int_handler)
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, before[number])


def _start(head: bool, join: str | None, options: NodeOptions, state: str, no_encrypt: bool) -> LaunchedNode:
    if head:
        if join:
            raise click.UsageError("--head makes a new cluster, and --join joins one: give one of them")
        return start_head_node(options, state=state, encrypt=not no_encrypt)
    if state or no_encrypt:
        raise click.UsageError("--state and --no-encrypt are decided where the cluster is made, with --head")
    return start_joining_node(options, _read_join(join))


def _read_join(source: str | None) -> JoinString:
    if source is None:
        text = os.environ.get(JOIN_VARIABLE, "")
        if not text:
            raise click.UsageError(f"give --head, or --join FILE, or a join string in {JOIN_VARIABLE}")
    elif source == "-":
        text = sys.stdin.readline()
    else:
        try:
            with open(source, errors="replace") as file:
                text = file.read()
                if os.fstat(file.fileno()).st_mode & 0o077:
                    click.echo(f"warning: others can read the secret in {source}: chmod 600 {source}", err=True)
        except OSError as error:
            if "://" in source:  # not repeated: what is printed gets into logs
                raise click.UsageError(
                    "--join takes the name of a file. A join string is a secret: put it into a file that only you can "
                    "read, or pass it on standard input with --join -"
                ) from None
            raise click.ClickException(f"the join string cannot be read from {source}: {error.strerror}") from None
    try:
        return JoinString.parse(text.strip())
    except ValueError as error:
        raise click.ClickException(str(error)) from None


def _parse_resources(text: str) -> dict[str, float]:
    try:
        parsed: Any = json.loads(text)
    except ValueError as error:
        raise click.BadParameter(f"{text!r} is no JSON: {error}", param_hint="--resources") from None
    if not isinstance(parsed, dict):
        raise click.BadParameter('it must be an object, as {"disk": 1}', param_hint="--resources")
    return parsed


def _check_as_init_does(
    num_cpus: float | None,
    num_gpus: float,
    resources: dict[str, float],
    labels: dict[str, str],
    store_bytes: int | None,
) -> None:
    given = {"num_cpus": num_cpus, "num_gpus": num_gpus, "resources": resources, "labels": labels}
    try:
        init_options({**given, "object_store_memory": store_bytes})
    except (TypeError, ValueError) as error:
        raise click.UsageError(str(error)) from None


def _parse_labels(text: str) -> dict[str, str]:
    labels = {}
    for part in filter(None, text.split(",")):
        key, equals, value = part.partition("=")
        if not equals or not key:
            raise click.BadParameter(f"{part!r} is not KEY=VALUE", param_hint="--labels")
        labels[key.strip()] = value.strip()
    return labels


def _explain(node: LaunchedNode, join: str, *, is_head: bool) -> None:
    click.echo(f"The node is up: {node.session.path}")
    if is_head:
        click.echo("Other machines join with this string, which is a secret; for example:")
        click.echo("    remora start --join -      # and paste it")
        click.echo(join)
    click.echo('Programs on this machine use it with remora.init(address="auto"). `remora stop` ends it.')


@click.command()
@click.option("--session", metavar="DIR", help="Stop only the node of this session's folder.")
def stop(session: str | None) -> None:
    """Stop the nodes that `remora start` has started on this machine."""
    nodes = [record.directory for record in running_sessions() if not record.driver_pid]
    if session is not None:
        wanted = os.path.realpath(session)
        nodes = [directory for directory in nodes if os.path.realpath(directory) == wanted]
    if not nodes:
        raise click.ClickException("no node that `remora start` has started runs here for this user")
    for directory in nodes:
        click.echo(f"{_stop(directory)}: {directory}")


def _stop(directory: str) -> str:
    """Ends a node; what happened in a word."""
    with contextlib.suppress(click.ClickException):  # it ends just now
        tell(directory, StopNode("`remora stop` was called"))
    if wait_removed(directory, STOP_TIMEOUT_S):
        return "stopped"
    raise click.ClickException(
        f"the node in {directory} has not ended after {STOP_TIMEOUT_S:g} s: look at {directory}/daemon.log, "
        "and kill the process remora:daemon"
    )
