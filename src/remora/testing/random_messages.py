"""Messages that are well typed and make no sense: what a node with a bug, or one with bad intentions, may say.

Every field has a value of its type: often one from a pool of ids that mean something where the message goes, so that
it gets further than the first look, and sometimes one at the edge of what the wire can carry.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import inspect

EDGE_NUMBERS = (0, 1, 2, 3, -1, 2**31, 2**32, 2**63 - 1, 2**63, 2**64 - 1, -(2**63))
EDGE_FLOATS = (0.0, 1.0, -1.0, 1e300, float("inf"), float("-inf"), float("nan"))
TEXTS = ("", "a", "CPU", "GPU", "memory", "127.0.0.1:1", "/tmp/none", "nonsense", "CPU_group_0_ff", "\0", "x" * 5000)
LENGTHS = (0, 1, 3, 4, 8, 12, 16, 17, 3000)
SMALL_NUMBERS = 6


class RandomMessages:
    """Makes messages from a seed.

    *ids* and *texts* are those that mean something to the receiver; *spared* are classes that are never made.

    Example:
        >>> make = RandomMessages(random.Random(7), [node, driver])
        >>> make.one_of([CreateActor, KillActor])
    """

    def __init__(self, choice: random.Random, ids: Sequence[bytes] = (), texts: Sequence[str] = ()) -> None:
        self.ids = list(ids)
        self._choice = choice
        self._texts = [*TEXTS, *texts]
        self._types: dict[type, inspect.Type] = {}

    def one_of(self, kinds: Sequence[type[msgspec.Struct]]) -> Any:
        """A message of one of these classes."""
        return self.make(self._choice.choice(kinds))

    def make(self, kind: type[msgspec.Struct]) -> Any:
        """A message of this class, as it is after it has crossed the wire."""
        info = self._types.get(kind)
        if info is None:
            info = self._types[kind] = inspect.type_info(kind)
        message = self._value(info)
        return msgspec.msgpack.decode(msgspec.msgpack.encode(message), type=kind)

    def _value(self, info: inspect.Type) -> Any:
        choice = self._choice
        if isinstance(info, inspect.StructType):
            # A field that is left out has its default, as from a node of another patch version.
            fields = [field for field in info.fields if field.required or choice.random() < 0.7]
            return info.cls(**{field.name: self._value(field.type) for field in fields})
        if isinstance(info, inspect.UnionType):
            return self._value(choice.choice(info.types))
        if isinstance(info, inspect.ListType | inspect.VarTupleType | inspect.SetType):
            return [self._value(info.item_type) for _ in range(self._length())]
        if isinstance(info, inspect.TupleType):
            return tuple(self._value(each) for each in info.item_types)
        if isinstance(info, inspect.DictType):
            return {self._value(info.key_type): self._value(info.value_type) for _ in range(self._length())}
        return self._scalar(info)

    def _scalar(self, info: inspect.Type) -> Any:
        choice = self._choice
        if isinstance(info, inspect.BoolType):
            return choice.random() < 0.5
        if isinstance(info, inspect.IntType):
            return choice.choice(EDGE_NUMBERS) if choice.random() < 0.4 else choice.randrange(SMALL_NUMBERS)
        if isinstance(info, inspect.FloatType):
            return choice.choice(EDGE_FLOATS)
        if isinstance(info, inspect.StrType):
            return choice.choice(self._texts)
        if isinstance(info, inspect.BytesType):
            if self.ids and choice.random() < 0.8:
                return choice.choice(self.ids)
            return choice.randbytes(choice.choice(LENGTHS))
        assert isinstance(info, inspect.NoneType | inspect.AnyType | inspect.RawType), f"no values of {info!r} are made"
        return None

    def _length(self) -> int:
        return self._choice.choice((0, 0, 1, 1, 2, 3))
