"""What a worker knows of each process that sends it calls: one per inbound connection."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from remora.base.ids import ProcessId, short
from remora.messages.tasks import DefineFunction, DefineMethod, Task
from remora.system.connection import Connection


class Submitter:
    """A process that sends calls here, and the functions that it has announced on this connection.

    ``functions`` maps a function's number to the callable, ``definitions`` those that no call has needed yet:
    a function that cannot be loaded must fail its calls, not its announcement.
    """

    __slots__ = ("connection", "definitions", "function_refs", "functions", "process")

    def __init__(self, connection: Connection, process: ProcessId) -> None:
        self.connection = connection
        self.process = process
        self.functions: dict[int, Callable[..., Any]] = {}
        self.definitions: dict[int, DefineFunction | DefineMethod] = {}
        self.function_refs: dict[int, list[Any]] = {}

    def name_of(self, function: int) -> str:
        """The function's name, for people."""
        return self.definitions[function].name

    def call_name(self, task: Task) -> str:
        """What the user called the call, or its function's name."""
        return task.name or self.definitions[task.function].name

    def __repr__(self) -> str:
        return f"<Submitter {short(self.process)}: {len(self.definitions)} functions>"
