"""How the command line writes amounts, times, tables and reports as JSON."""

from __future__ import annotations

import os
from typing import Any

import msgspec
from rich import box
from rich.console import Console
from rich.table import Table

from remora.base.ids import short

WIDTH_WHEN_PIPED = 100


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


def format_amounts(amounts: dict[str, float]) -> str:
    """``CPU 2, memory 1 GB``."""
    sized = ("memory", "object_store_memory")
    parts = [f"{name} {format_bytes(amount) if name in sized else f'{amount:g}'}" for name, amount in amounts.items()]
    return ", ".join(parts) or "nothing"


def format_site(site: str) -> str:
    """A line of user code with a path relative to this directory, or to the home directory, if that is shorter."""
    path, separator, rest = site.partition(":")
    relative = os.path.relpath(path) if path.startswith("/") else path
    return (relative if len(relative) < len(path) else path) + separator + rest


def to_json(report: Any) -> str:
    """A report of the messages as indented JSON; ids as people write them."""

    def encode(value: Any) -> Any:
        if isinstance(value, msgspec.Struct):
            return {name: encode(getattr(value, name)) for name in value.__struct_fields__}
        if isinstance(value, bytes):
            return short(value)
        if isinstance(value, list | tuple):
            return [encode(one) for one in value]
        return value

    return msgspec.json.format(msgspec.json.encode(encode(report)), indent=2).decode()
