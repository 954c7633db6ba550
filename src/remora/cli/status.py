"""``remora status``: what a running session or cluster has, runs, and waits for."""

from __future__ import annotations

import time

import click
import msgspec
from rich.console import Console
from rich.markup import escape

from remora.base.ids import node_of, short
from remora.base.resources import STORE
from remora.cli.inspector import ask, choose_session, json_option, owner_of, session_option
from remora.cli.joined_status import ClusterStatus, GroupRow, NodeRow, join_status
from remora.cli.text import (
    format_amount,
    format_amounts,
    format_bytes,
    format_count,
    format_labels,
    format_need,
    make_console,
    make_table,
    show_missing,
    to_json,
    without_bundles,
)
from remora.messages.inspection import InspectStatus, ProcessStatus, StatusReport, StoreUsage, WaitingLease
from remora.system.session_directory import SessionRecord


@click.command()
@session_option
@json_option
def status(session: str | None, as_json: bool) -> None:
    """Show resources, tasks and store use of a running session, or of the whole cluster that it belongs to.

    Processes have a second to answer, nodes two; a process that does not (its code holds the interpreter's lock, or
    it is stopped) is shown with "no answer", and a node with how long it was waited for.
    """
    chosen, others = choose_session(session)
    joined = join_status(ask(chosen, InspectStatus(), StatusReport))
    if as_json:
        click.echo(to_json(joined))
        return
    console = make_console()
    show_session(console, chosen, others)
    show_status(console, joined)


def show_session(console: Console, session: SessionRecord, others: list[SessionRecord]) -> None:
    """Which session this is, and which others run."""
    age_s = time.time() - session.started_at_s
    console.print(f"[bold]Session[/] {escape(session.directory)}, {owner_of(session)}, runs for {age_s:.0f} s")
    for other in others:
        console.print(f"  another one runs: --session {escape(other.directory)} ({owner_of(other)})")
    console.print()


def show_status(console: Console, status: ClusterStatus) -> None:
    """All tables."""
    show_missing(console, status.silent, status.dead)
    if len(status.nodes) > 1:
        _show_nodes(console, status.nodes)
    _show_resources(console, status)
    _show_stores(console, status.nodes)
    _show_transfers(console, status.nodes)
    _show_processes(console, status)
    _show_calls(console, status)
    _show_actors(console, status)
    _show_groups(console, status.placement_groups)
    _show_waiting(console, status)


def _show_nodes(console: Console, nodes: list[NodeRow]) -> None:
    table = make_table(format_count(len(nodes), "nodes"), "node", "address", "in use", "labels")
    for row in nodes:
        node = row.node
        address = node.address + (", has the head" if node.is_head_node else "")
        table.add_row(short(node.node), escape(address), escape(_in_use(row)), escape(format_labels(node.labels)))
    console.print(table)


def _in_use(row: NodeRow) -> str:
    """``1 of 2 CPU, 0 of 4 disk``."""
    parts = []
    for name, total in without_bundles(row.node.resources).items():
        if name != STORE:
            used = total - row.node.available.get(name, 0.0)
            parts.append(f"{format_amount(name, used)} of {format_amount(name, total)} {name}")
    return ", ".join(parts)


def _show_resources(console: Console, status: ClusterStatus) -> None:
    totals: dict[str, float] = {}
    available: dict[str, float] = {}
    for row in status.nodes:
        for name, amount in without_bundles(row.node.resources).items():
            totals[name] = totals.get(name, 0.0) + amount
            available[name] = available.get(name, 0.0) + row.node.available.get(name, 0.0)
    title = "Resources of all nodes" if len(status.nodes) > 1 else "Resources"
    table = make_table(title, "name", ">total", ">in use", ">available")
    for name, total in totals.items():
        if name != STORE:
            amounts = (total, total - available[name], available[name])
            table.add_row(escape(name), *(format_amount(name, one) for one in amounts))
    console.print(table)


def _show_stores(console: Console, nodes: list[NodeRow]) -> None:
    columns = (">limit", ">used", ">reserved", ">rounding", ">free", ">of it warm")
    if len(nodes) == 1:
        table = make_table("Object store", *columns)
        table.add_row(*_store_amounts(nodes[0].store))
    else:
        table = make_table("Object stores", "node", *columns)
        for row in nodes:
            table.add_row(short(row.node.node), *_store_amounts(row.store))
    console.print(table)


def _store_amounts(store: StoreUsage) -> list[str]:
    amounts = (
        store.limit_bytes,
        store.used_bytes,
        store.reserved_bytes,
        store.lost_bytes,
        store.free_bytes,
        store.warm_bytes,
    )
    return [format_bytes(amount) for amount in amounts]


def _show_transfers(console: Console, nodes: list[NodeRow]) -> None:
    columns = ("node", ">received", ">sent", ">coming", ">of that begun", ">in flight", ">readers")
    table = make_table("Values between nodes", *columns)
    for row in nodes:
        now = row.transfers
        if now is not None and (now.received_bytes or now.sent_bytes or now.pulls):
            table.add_row(
                short(row.node.node),
                format_bytes(now.received_bytes),
                format_bytes(now.sent_bytes),
                str(now.pulls or ""),
                str(now.pulls_in_flight or ""),
                format_bytes(now.in_flight_bytes) if now.in_flight_bytes else "",
                str(now.readers or ""),
            )
    if table.row_count:
        console.print(table)


def _show_processes(console: Console, status: ClusterStatus) -> None:
    pids = {process.process: process.pid for process in status.processes}
    # The id begins with the node.
    table = make_table("Processes", ">pid", "id", "what", "state", "runs", ">waiting there")
    for process in status.processes:
        leased_to = f" to {pids.get(process.leased_to) or short(process.leased_to)}" if process.leased_to else ""
        if process.leased_to and node_of(process.leased_to) != node_of(process.process):
            leased_to += f" on node {short(node_of(process.leased_to))}"
        table.add_row(
            str(process.pid or "-"),
            short(process.process),
            escape(process.name or "worker"),
            process.state + leased_to,
            escape(_runs(process)),
            str(process.received) if process.received else "",
        )
    console.print(table)


def _runs(process: ProcessStatus) -> str:
    names = dict.fromkeys(process.running)
    text = ", ".join(
        name if process.running.count(name) == 1 else f"{process.running.count(name)} x {name}" for name in names
    )
    if process.has_answered:
        return text
    return f"no answer, began last: {text}" if text else "no answer"


def _show_calls(console: Console, status: ClusterStatus) -> None:
    table = make_table("Calls", "name", "called by", ">queued", ">sent to a worker")
    for process in status.processes:
        for call in process.submitted:
            table.add_row(
                escape(call.name), escape(describe_process(process, status)), f"{call.queued:,}", f"{call.sent:,}"
            )
    if table.row_count:
        console.print(table)
    running = sum(len(process.running) for process in status.processes)
    queued = sum(call.queued for process in status.processes for call in process.submitted)
    sent = sum(call.sent for process in status.processes for call in process.submitted)
    console.print(
        f"{running:,} calls run, {max(0, sent - running):,} wait at workers, {queued:,} are queued at callers.\n"
    )


def describe_process(process: ProcessStatus, status: ClusterStatus) -> str:
    """``worker 4711``, and on which node when there are several."""
    where = f" on node {short(node_of(process.process))}" if len(status.nodes) > 1 else ""
    return f"{process.name or 'worker'} {process.pid}{where}"


def _show_actors(console: Console, status: ClusterStatus) -> None:
    if not status.actors:
        return
    has_nodes = len(status.nodes) > 1
    where = ["node"] if has_nodes else []
    table = make_table("Actors", "id", "class", "name", "state", *where, ">pid", ">restarts", "why")
    for actor in status.actors:
        name = f"{actor.namespace}/{actor.name}" if actor.name and actor.namespace else actor.name
        table.add_row(
            short(actor.actor),
            escape(actor.class_name),
            escape(name),
            actor.state,
            *([short(actor.node) or "-"] if has_nodes else []),
            str(actor.pid or "-"),
            str(actor.restarts) if actor.restarts else "",
            escape(actor.cause),
        )
    console.print(table)


def _show_groups(console: Console, groups: list[GroupRow]) -> None:
    if not groups:
        return
    table = make_table("Placement groups", "id", "name", "strategy", "state", "bundles", "why")
    for group in groups:
        table.add_row(
            group.group.hex(),
            escape(group.name),
            group.strategy,
            group.state,
            escape("\n".join(describe_bundles(group))),
            escape(group.reason),
        )
    console.print(table)


def describe_bundles(group: GroupRow) -> list[str]:
    """``CPU 1 on node 2`` for each bundle."""
    nodes = group.nodes or [b""] * len(group.bundles)
    return [
        f"{format_amounts(bundle)}{f' on node {short(node)}' if node else ', nowhere yet'}"
        for bundle, node in zip(group.bundles, nodes, strict=False)
    ]


def _show_waiting(console: Console, status: ClusterStatus) -> None:
    if not status.waiting:
        return
    whos = {process.process: describe_process(process, status) for process in status.processes}
    classes = {actor.actor: f"actor {actor.class_name} {short(actor.actor)}" for actor in status.actors}
    table = make_table("Waiting for workers", "who", ">workers", "each with", ">for", "why")
    for one in _grouped(status.waiting):
        who = whos.get(one.requester) or classes.get(one.requester) or short(one.requester)
        table.add_row(
            escape(who),
            str(one.count),
            escape(format_need(one.resources)),
            f"{one.waited_s:.1f} s",
            escape(one.reason),
        )
    console.print(table)


def _grouped(waiting: list[WaitingLease]) -> list[WaitingLease]:
    """Requests of one process for the same, as one."""
    groups: dict[tuple[object, ...], list[WaitingLease]] = {}
    for one in waiting:
        groups.setdefault((one.requester, *one.resources.items(), one.reason), []).append(one)
    return [
        msgspec.structs.replace(
            same[0], count=sum(one.count for one in same), waited_s=max(one.waited_s for one in same)
        )
        for same in groups.values()
    ]
