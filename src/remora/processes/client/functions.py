"""The remote functions that this process has called: pickled once, announced once per connection."""

from __future__ import annotations

from itertools import count
from typing import Any

from remora.base.object_ref import ObjectRef
from remora.core.function_shapes import FunctionShapes
from remora.messages.tasks import DefineFunction, DefineMethod
from remora.serialization import serialize_function


class FunctionRecord:
    """A function as workers know it.

    ``refs`` are the refs that it captured. They are arguments of every call, because the worker's cached function is
    a ref that lives there without having come in that call.
    """

    __slots__ = ("definition", "name", "number", "owner", "refs", "shapes")

    def __init__(
        self, number: int, name: str, definition: Any, refs: tuple[ObjectRef[Any], ...], owner: FunctionTable
    ) -> None:
        self.owner = owner
        self.number = number
        self.name = name
        self.definition = definition
        self.refs = refs
        self.shapes = FunctionShapes()

    def __repr__(self) -> str:
        return f"<FunctionRecord {self.number}: {self.name}>"


class FunctionTable:
    """Numbers for functions and methods; a number is valid for one process's calls only."""

    def __init__(self) -> None:
        self._numbers = count(1)

    def define(self, function: Any, name: str) -> FunctionRecord:
        """Pickle *function* as it is now.

        Raises:
            SerializationError: it cannot be pickled; the error names what it captured.
        """
        serialized = serialize_function(function)
        number = next(self._numbers)
        refs = tuple(serialized.refs)
        definition = DefineFunction(number, name, serialized.to_bytes(), [ref.id for ref in refs])
        return FunctionRecord(number, name, definition, refs, self)

    def define_method(self, name: str) -> FunctionRecord:
        """A method of an actor, by name."""
        number = next(self._numbers)
        return FunctionRecord(number, name, DefineMethod(number, name), (), self)
