"""``remora memory``: every object, who holds it and from which line, and where each byte of the store is."""

from __future__ import annotations

import click
from rich.console import Console
from rich.markup import escape

from remora.base.ids import process_of, short
from remora.cli.inspector import ask, choose_session, json_option, session_option
from remora.cli.status import show_session
from remora.cli.text import format_bytes, format_site, make_console, make_table, to_json
from remora.messages.inspection import Holder, InspectMemory, MemoryReport, ObjectReport


@click.command()
@session_option
@json_option
@click.option("--leaks", is_flag=True, help="Show only objects that hold each other and that nothing else holds.")
@click.option("--limit", default=100, show_default=True, help="How many objects to show, the largest first.")
def memory(session: str | None, as_json: bool, leaks: bool, limit: int) -> None:
    """Show every object, who holds it, and from which line.

    Values of at most 100 KB whose refs never left the process that made them are that process's own: they are not
    listed, and their sum, from 4 KB on, stands in the table of processes.
    With --leaks the exit code is 1 when there are some.
    """
    chosen, others = choose_session(session)
    report = ask(chosen, InspectMemory(limit), MemoryReport)
    leaked = [one for one in report.objects if one.is_leaked]
    if as_json:
        click.echo(to_json(leaked if leaks else report))
    else:
        console = make_console()
        show_session(console, chosen, others)
        if leaks:
            show_leaks(console, leaked)
        else:
            show_memory(console, report)
    if leaks and leaked:
        raise click.exceptions.Exit(1)


def show_leaks(console: Console, leaked: list[ObjectReport]) -> None:
    """Objects in cycles, and what hangs on them."""
    if not leaked:
        console.print("No object is leaked: each one is held by a process, or by an object that a process can reach.")
        return
    _show_objects(console, f"{len(leaked)} leaked objects", leaked)
    console.print(
        "They hold each other, and nothing else can reach them; counting cannot free them before the job ends. "
        "Where a result contains the ref of another one that contains its own, return the values instead; "
        "where two actors hold each other's handles, remora.kill one of them."
    )


def show_memory(console: Console, report: MemoryReport) -> None:
    """The objects, the processes, and the sums."""
    shown = sorted(report.objects, key=lambda one: one.size_bytes, reverse=True)
    title = f"{report.total_objects:,} objects"
    if report.total_objects > len(shown):
        title += f", the {len(shown):,} largest (--limit N shows more)"
    _show_objects(console, title, shown)
    _show_processes(console, report)
    _show_sums(console, report)


def _show_objects(console: Console, title: str, objects: list[ObjectReport]) -> None:
    table = make_table(title, "id", ">size", "state", ">pinned", "held by")
    for one in objects:
        pinned = f"{one.views} x, {format_bytes(one.viewed_bytes)}" if one.views else ""
        holders = [_describe(holder, is_maker=process_of(one.id) == holder.id) for holder in one.holders]
        if one.name:
            holders.insert(0, f"({one.name})")
        if one.is_leaked:
            holders.append("leaked: see --leaks")
        table.add_row(short(one.id), format_bytes(one.size_bytes), one.state, pinned, escape("\n".join(holders)))
    console.print(table)


def _describe(holder: Holder, is_maker: bool) -> str:
    if holder.kind == "container":
        return f"object {short(holder.id)}, which contains it"
    who = f"{holder.name} {holder.pid or short(holder.id)}"
    if holder.kind == "exported":
        return f"{who}, to its end: pickled outside of Remora"
    if holder.site:
        return f"{who} {format_site(holder.site)}"
    return f"{who} (line not known)" if is_maker else f"{who} (got it in a message)"


def _show_processes(console: Console, report: MemoryReport) -> None:
    table = make_table("Processes", ">pid", "what", ">refs", ">wrote", ">reserved", ">views", ">viewed", ">own values")
    for process in report.processes:
        refs = f"{process.refs:,}" if process.has_answered else "no answer"
        table.add_row(
            str(process.pid or "-"),
            escape(process.name),
            refs,
            format_bytes(process.written_bytes),
            format_bytes(process.reserved_bytes),
            str(process.views or ""),
            format_bytes(process.viewed_bytes) if process.views else "",
            format_bytes(process.private_bytes) if process.private_bytes else "",
        )
    console.print(table)


def _show_sums(console: Console, report: MemoryReport) -> None:
    store = report.store
    table = make_table("Every byte of the store", "what", ">size", ">bytes")
    rows = [
        ("objects", report.listed_store_bytes),
        ("results on their way to who asked for them", report.unclaimed_bytes),
        ("reserved for processes to write into", store.reserved_bytes),
        ("rounding of small objects to pages", store.lost_bytes),
        ("free, with memory (warm)", store.warm_bytes),
        ("free, without memory", store.free_bytes - store.warm_bytes),
    ]
    for what, size_bytes in rows:
        table.add_row(what, format_bytes(size_bytes), f"{size_bytes:,}")
    table.add_section()
    table.add_row("limit", format_bytes(store.limit_bytes), f"{store.limit_bytes:,}")
    console.print(table)
    console.print(f"Objects too small for the store take {format_bytes(report.inline_bytes)} in the daemon.")
