"""``remora status``: what a running session has, runs, and waits for."""

from __future__ import annotations

import time

import click
import msgspec
from rich.console import Console
from rich.markup import escape

from remora.base.ids import short
from remora.cli.inspector import ask, choose_session, json_option, session_option
from remora.cli.text import format_amounts, format_bytes, make_console, make_table, to_json
from remora.messages.inspection import InspectStatus, ProcessStatus, StatusReport, WaitingLease
from remora.system.session_directory import SessionRecord


@click.command()
@session_option
@json_option
def status(session: str | None, as_json: bool) -> None:
    """Show resources, tasks and store use of a running session.

    Processes have a second to answer; one that does not (its code holds the interpreter's lock, or it is stopped) is
    shown with "no answer".
    """
    chosen, others = choose_session(session)
    report = ask(chosen, InspectStatus(), StatusReport)
    if as_json:
        click.echo(to_json(report))
        return
    console = make_console()
    show_session(console, chosen, others)
    show_status(console, report)


def show_session(console: Console, session: SessionRecord, others: list[SessionRecord]) -> None:
    """Which session this is, and which others run."""
    age_s = time.time() - session.started_at_s
    driver = f"driver {session.driver_pid}" if session.driver_pid else "no driver"
    console.print(f"[bold]Session[/] {escape(session.directory)}, {driver}, runs for {age_s:.0f} s")
    for other in others:
        console.print(f"  another one runs: --session {escape(other.directory)} (driver {other.driver_pid})")
    console.print()


def show_status(console: Console, report: StatusReport) -> None:
    """All tables of the report."""
    _show_resources(console, report)
    _show_store(console, report)
    _show_processes(console, report)
    _show_tasks(console, report)
    _show_actors(console, report)
    _show_waiting(console, report)


def _show_resources(console: Console, report: StatusReport) -> None:
    table = make_table("Resources", "name", ">total", ">in use", ">available")
    for name, total in report.node.resources.items():
        if name == "object_store_memory":
            continue
        available = report.node.available.get(name, 0.0)
        amounts = (total, total - available, available)
        table.add_row(escape(name), *(format_bytes(one) if name == "memory" else f"{one:g}" for one in amounts))
    console.print(table)


def _show_store(console: Console, report: StatusReport) -> None:
    store = report.store
    table = make_table("Object store", ">limit", ">used", ">reserved", ">rounding", ">free", ">of it warm")
    amounts = (
        store.limit_bytes,
        store.used_bytes,
        store.reserved_bytes,
        store.lost_bytes,
        store.free_bytes,
        store.warm_bytes,
    )
    table.add_row(*map(format_bytes, amounts))
    console.print(table)


def _show_processes(console: Console, report: StatusReport) -> None:
    pids = {process.process: process.pid for process in report.processes}
    table = make_table("Processes", ">pid", "id", "what", "state", "runs", ">waiting there")
    for process in report.processes:
        leased_to = f" to {pids.get(process.leased_to) or short(process.leased_to)}" if process.leased_to else ""
        what = process.name or "worker"
        table.add_row(
            str(process.pid or "-"),
            short(process.process),
            escape(what),
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


def _show_tasks(console: Console, report: StatusReport) -> None:
    table = make_table("Calls", "name", "called by", ">queued", ">sent to a worker")
    for process in report.processes:
        for call in process.submitted:
            caller = f"{process.name or 'worker'} {process.pid}"
            table.add_row(escape(call.name), escape(caller), f"{call.queued:,}", f"{call.sent:,}")
    if table.row_count:
        console.print(table)
    running = sum(len(process.running) for process in report.processes)
    queued = sum(call.queued for process in report.processes for call in process.submitted)
    sent = sum(call.sent for process in report.processes for call in process.submitted)
    console.print(
        f"{running:,} calls run, {max(0, sent - running):,} wait at workers, {queued:,} are queued at callers.\n"
    )


def _show_actors(console: Console, report: StatusReport) -> None:
    if not report.actors:
        return
    table = make_table("Actors", "id", "class", "name", "state", ">pid", ">restarts", "why")
    for actor in report.actors:
        name = f"{actor.namespace}/{actor.name}" if actor.name and actor.namespace else actor.name
        table.add_row(
            short(actor.actor),
            escape(actor.class_name),
            escape(name),
            actor.state,
            str(actor.pid or "-"),
            str(actor.restarts) if actor.restarts else "",
            escape(actor.cause),
        )
    console.print(table)


def _show_waiting(console: Console, report: StatusReport) -> None:
    if not report.waiting:
        return
    pids = {process.process: f"{process.name or 'worker'} {process.pid}" for process in report.processes}
    classes = {actor.actor: f"actor {actor.class_name} {short(actor.actor)}" for actor in report.actors}
    table = make_table("Waiting for workers", "who", ">workers", "each with", ">for", "why")
    for one in _grouped(report.waiting):
        who = pids.get(one.requester) or classes.get(one.requester) or short(one.requester)
        table.add_row(
            escape(who),
            str(one.count),
            escape(format_amounts(one.resources)),
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
