"""``remora memory``: every object, who holds it and from which line, and where each byte of each store is."""

from __future__ import annotations

import click
from rich.console import Console
from rich.markup import escape

from remora.base.ids import node_of, process_of, short
from remora.cli.inspector import ask, choose_session, json_option, session_option
from remora.cli.joined_memory import ClusterMemory, NodeStore, join_memory
from remora.cli.status import show_session
from remora.cli.text import format_bytes, format_count, format_site, make_console, make_table, show_missing, to_json
from remora.messages.inspection import Holder, InspectMemory, MemoryReport, ObjectReport


@click.command()
@session_option
@json_option
@click.option("--leaks", is_flag=True, help="Show only objects that hold each other and that nothing else holds.")
@click.option(
    "--limit",
    default=100,
    show_default=True,
    type=click.IntRange(0),
    help="How many objects to show, the largest first.",
)
def memory(session: str | None, as_json: bool, leaks: bool, limit: int) -> None:
    """Show every object, who holds it, and from which line, in a session or in the whole cluster that it belongs to.

    Values of at most 100 KB whose refs never left the process that made them are that process's own: they are not
    listed, and their sum, from 4 KB on, stands in the table of processes.
    With --leaks the exit code is 1 when there are some.
    """
    chosen, others = choose_session(session)
    joined = join_memory(ask(chosen, InspectMemory(limit), MemoryReport), limit)
    leaked = [one for one in joined.objects if one.is_leaked]
    if as_json:
        click.echo(to_json(leaked if leaks else joined))
    else:
        console = make_console()
        show_session(console, chosen, others)
        show_missing(console, joined.silent, joined.dead)
        if leaks:
            show_leaks(console, leaked, has_nodes=len(joined.nodes) > 1)
        else:
            show_memory(console, joined)
    if leaks and leaked:
        raise click.exceptions.Exit(1)


def show_leaks(console: Console, leaked: list[ObjectReport], *, has_nodes: bool) -> None:
    """Objects in cycles, and what hangs on them."""
    if not leaked:
        console.print("No object is leaked: each one is held by a process, or by an object that a process can reach.")
        return
    _show_objects(console, format_count(len(leaked), "leaked objects"), leaked, has_nodes=has_nodes)
    console.print(
        "They hold each other, and nothing else can reach them; counting cannot free them before the job ends. "
        "Where a result contains the ref of another one that contains its own, return the values instead; "
        "where two actors hold each other's handles, remora.kill one of them."
    )


def show_memory(console: Console, memory: ClusterMemory) -> None:
    """The objects, the processes, what is on its way, and the sums."""
    title = format_count(memory.total_objects, "objects")
    if memory.total_objects > len(memory.objects):
        title += f", the {len(memory.objects):,} largest (--limit N shows more)"
    _show_objects(console, title, memory.objects, has_nodes=len(memory.nodes) > 1)
    _show_processes(console, memory)
    _show_pulls(console, memory.nodes)
    if len(memory.nodes) > 1:
        _show_stores(console, memory.nodes)
    else:
        _show_sums(console, memory.nodes[0])


def _show_objects(console: Console, title: str, objects: list[ObjectReport], *, has_nodes: bool) -> None:
    where = ["lies on node"] if has_nodes else []
    table = make_table(title, "id", ">size", "state", *where, ">pinned", "held by")
    for one in objects:
        pinned = f"{one.views} x, {format_bytes(one.viewed_bytes)}" if one.views else ""
        holders = [
            _describe(holder, is_maker=process_of(one.id) == holder.id, has_nodes=has_nodes) for holder in one.holders
        ]
        if one.name:
            holders.insert(0, f"({one.name})")
        if one.is_leaked:
            holders.append("leaked: see --leaks")
        table.add_row(
            short(one.id),
            format_bytes(one.size_bytes),
            one.state,
            *(["\n".join(_places(one))] if has_nodes else []),
            pinned,
            escape("\n".join(holders)),
        )
    console.print(table)


def _places(one: ObjectReport) -> list[str]:
    """Where the value lies: the primary copy first."""
    primary = [short(one.primary)] if one.primary else []
    return [*primary, *(f"{short(copy.node)} {copy.kind}" for copy in one.copies)]


def _describe(holder: Holder, *, is_maker: bool, has_nodes: bool) -> str:
    if holder.kind == "container":
        return f"object {short(holder.id)}, which contains it"
    if holder.kind == "detached":
        return "the detached actor that it names"
    who = f"{holder.name} {holder.pid or short(holder.id)}"
    if has_nodes:
        who += f" on node {short(node_of(holder.id))}"
    if holder.kind == "exported":
        return f"{who}, to its end: pickled outside of Remora"
    if holder.site:
        return f"{who} {format_site(holder.site)}"
    return f"{who} (line not known)" if is_maker else f"{who} (got it in a message)"


def _show_processes(console: Console, memory: ClusterMemory) -> None:
    has_nodes = len(memory.nodes) > 1
    where = ["node"] if has_nodes else []
    columns = (">refs", ">wrote", ">reserved", ">views", ">viewed", ">own values")
    table = make_table("Processes", *where, ">pid", "what", *columns)
    for process in memory.processes:
        table.add_row(
            *([short(node_of(process.process))] if has_nodes else []),
            str(process.pid or "-"),
            escape(process.name),
            f"{process.refs:,}" if process.has_answered else "no answer",
            format_bytes(process.written_bytes),
            format_bytes(process.reserved_bytes),
            str(process.views or ""),
            format_bytes(process.viewed_bytes) if process.views else "",
            format_bytes(process.private_bytes) if process.private_bytes else "",
        )
    console.print(table)


def _show_pulls(console: Console, nodes: list[NodeStore]) -> None:
    table = make_table("On their way between nodes", "id", "to node", "from node", "for", "state", ">came", ">size")
    for node in nodes:
        for pull in node.pulls:
            table.add_row(
                short(pull.id),
                short(node.node.node),
                short(pull.source),
                pull.purpose,
                pull.state.replace("_", " "),
                format_bytes(pull.received_bytes),
                format_bytes(pull.size_bytes),
            )
    if table.row_count:
        console.print(table)


def _show_sums(console: Console, node: NodeStore) -> None:
    table = make_table("Every byte of the store", "what", ">size", ">bytes")
    for what, size_bytes in _parts(node):
        table.add_row(what, format_bytes(size_bytes), f"{size_bytes:,}")
    table.add_section()
    limit_bytes = node.store.limit_bytes
    table.add_row("limit", format_bytes(limit_bytes), f"{limit_bytes:,}")
    console.print(table)
    console.print(f"Objects too small for the store take {format_bytes(node.inline_bytes)} in the daemon.")


def _show_stores(console: Console, nodes: list[NodeStore]) -> None:
    """The same with a line for each node."""
    columns = (">objects", ">kept", ">copies", ">results", ">reserved", ">rounding", ">warm", ">cold", ">limit")
    table = make_table("Every byte of the stores", "node", *columns)
    for node in nodes:
        amounts = [*(size_bytes for _, size_bytes in _parts(node)), node.store.limit_bytes]
        table.add_row(short(node.node.node), *map(format_bytes, amounts))
    console.print(table)
    inline_bytes = sum(node.inline_bytes for node in nodes)
    console.print(
        "Objects whose home is the node; kept for other homes, or as further copies; copies that can be evicted; "
        "results on their way to who asked for them; reserved for processes to write into; rounding of small objects "
        "to pages; free, with memory (warm) and without (cold): all that is the limit. "
        f"Objects too small for a store take {format_bytes(inline_bytes)} in the daemons."
    )


def _parts(node: NodeStore) -> list[tuple[str, int]]:
    """What the bytes of a store are; their sum is its limit."""
    store, contents = node.store, node.contents
    return [
        ("objects whose home is the node", contents.primary_bytes),
        ("kept for other homes, or as further copies", contents.kept_bytes),
        ("copies that can be evicted", contents.cached_bytes),
        ("results on their way to who asked for them", contents.unclaimed_bytes),
        ("reserved for processes to write into", store.reserved_bytes),
        ("rounding of small objects to pages", store.lost_bytes),
        ("free, with memory (warm)", store.warm_bytes),
        ("free, without memory", store.free_bytes - store.warm_bytes),
    ]
