"""How the command line writes amounts, times, tables and reports as JSON."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from typing import Any

import msgspec
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from remora.base.bundle_names import BUNDLE, CAPTURE, parse_name
from remora.base.ids import short
from remora.base.resources import MEMORY, STORE
from remora.messages.inspection import NodeReport, SilentNode

WIDTH_WHEN_PIPED = 100
MAX_DEAD_SHOWN = 5


def make_console() -> Console:
    """The terminal; 100 columns when the output goes elsewhere."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(width=WIDTH_WHEN_PIPED, highlight=False)


def make_table(title: str, *columns: str) -> Table:
    """A table with a title to the left. A column whose name starts with ``>`` is aligned to the right."""
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column.lstrip(">"), justify="right" if column.startswith(">") else "left", overflow="fold")
    return table


def format_bytes(size_bytes: float) -> str:
    """``1.5 MB``: three digits, units of 1000.

    Example:
        >>> format_bytes(1_234_567)
        '1.23 MB'
    """
    amount = float(size_bytes)
    for unit in ("B", "KB", "MB", "GB"):
        if abs(amount) < 999.5:
            return f"{amount:.3g} {unit}"
        amount /= 1000
    return f"{amount:.3g} TB"


def format_amount(name: str, amount: float) -> str:
    """The amount of one resource: ``1 GB`` of memory, ``2`` of others."""
    return format_bytes(amount) if name in (MEMORY, STORE) else f"{amount:g}"


def format_amounts(amounts: dict[str, float]) -> str:
    """``CPU 2, memory 1 GB``."""
    return ", ".join(f"{name} {format_amount(name, amount)}" for name, amount in amounts.items()) or "nothing"


def format_labels(labels: dict[str, str]) -> str:
    """``zone=a, disk=fast``."""
    return ", ".join(f"{name}={value}" for name, value in labels.items())


def without_bundles(amounts: dict[str, float]) -> dict[str, float]:
    """What a node has, without what its bundles of placement groups have of it."""
    return {name: amount for name, amount in amounts.items() if parse_name(name) is None}


def format_need(amounts: dict[str, float]) -> str:
    """What a task or actor needs: ``CPU 1``, or ``CPU 1 of placement group 0a1b...``."""
    parsed = {name: parse_name(name) for name in amounts}
    groups = {found[1].hex() for found in parsed.values() if found is not None}
    if not groups:
        return format_amounts(amounts)
    plain = {found[0]: amounts[name] for name, found in parsed.items() if found is not None}
    text = format_amounts({name: amount for name, amount in plain.items() if name not in (BUNDLE, CAPTURE)})
    return f"{text} of placement group {', '.join(groups)}"


def format_duration(seconds: float) -> str:
    """``0.4 s``, ``3 min 20 s``, ``26 h 5 min``."""
    if seconds < 60:
        return f"{max(0.0, seconds):.1f} s"
    minutes, rest_s = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest_s} s"
    return f"{minutes // 60:,} h {minutes % 60} min"


def format_count(count: int, things: str) -> str:
    """``1 node``, ``1,234 nodes``: *things* in the plural."""
    return f"{count:,} {things.removesuffix('s') if count == 1 else things}"


def format_site(site: str) -> str:
    """A line of user code with a path relative to this directory, or to the home directory, if that is shorter."""
    path, separator, rest = site.partition(":")
    relative = os.path.relpath(path) if path.startswith("/") else path
    return (relative if len(relative) < len(path) else path) + separator + rest


def show_missing(console: Console, silent: Collection[SilentNode], dead: Collection[NodeReport]) -> None:
    """Who did not answer, what that means, and who is gone."""
    for one in silent:
        console.print(f"[bold]{escape(describe_silent(one))}[/]")
    for node in list(dead)[-MAX_DEAD_SHOWN:]:
        console.print(escape(f"Node {short(node.node)} is gone: {node.cause or 'its cause is not known here'}."))
    if len(dead) > MAX_DEAD_SHOWN:
        console.print(f"{len(dead) - MAX_DEAD_SHOWN} more went before: `remora list nodes` shows them all.")
    if silent or dead:
        console.print()


def describe_silent(silent: SilentNode) -> str:
    """A node, or the head, that did not answer in time, and what to do."""
    if not silent.node:
        return (
            f"The head has not answered for {silent.waited_s:.1f} s: actors and placement groups are missing here. Its "
            "node starts it again when it has ended; if this stays so, read daemon.log in that node's session folder."
        )
    where = f" ({silent.address})" if silent.address else ""
    return (
        f"Node {short(silent.node)}{where} has not answered for {silent.waited_s:.1f} s, and is missing here: its "
        "machine is busy or stopped, or the network between is cut. If it stays so the head declares it dead; "
        "else read daemon.log in its session folder."
    )


def to_json(report: Any, format_id: Callable[[bytes], str] = short) -> str:
    """A report of the messages as indented JSON; ids as people write them, or as *format_id* does."""

    def encode(value: Any) -> Any:
        if isinstance(value, msgspec.Struct):
            return {name: encode(getattr(value, name)) for name in value.__struct_fields__}
        if isinstance(value, bytes):
            return format_id(value)
        if isinstance(value, list | tuple):
            return [encode(one) for one in value]
        if isinstance(value, dict):
            return {name: encode(one) for name, one in value.items()}
        return value

    return msgspec.json.format(msgspec.json.encode(encode(report)), indent=2).decode()
