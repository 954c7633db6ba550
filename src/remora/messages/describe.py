"""The page docs/messages.md, made from the messages themselves: ``python -m remora.messages.describe``.

Everything on the page is read from the code (docstrings, field types, tags, constants), so it cannot say anything
else than the code does. ``tests/messages/test_messages_page.py`` fails when the page in the repository is stale.
"""

from __future__ import annotations

import ast
import inspect
import types
import typing
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec

from remora.base import configuration, object_ref
from remora.messages import node_wire, objects, session, wire
from remora.messages.node_wire import tag_of

STATES = ("PENDING", "BORROWED", "INLINE", "STORED", "FAILED")
"""The numbers in ``Value.state``; a process uses more of them for itself."""

HEAD = """\
# Messages

Everything that Remora's processes tell each other on sockets. This page is made from the code by
`python -m remora.messages.describe > docs/messages.md`; do not edit it.

## Frames
A connection is a stream of frames, in both directions. A frame is a little-endian unsigned 32-bit length of the body,
then the body: a MessagePack array of messages, handled in their order. A body has at most {max_frame} bytes.

A message is a MessagePack array: first its tag, a number, then its fields in the order of the tables below. `bytes` are
MessagePack *bin*, `str` is *str*, lists and tuples are *array*, `dict` is *map*, `None` is *nil*. A struct without a
tag, inside of a message, is an array of its fields alone. Trailing fields that have a default may be left out when a
message is written; fields that follow the known ones are ignored by the reader. An unknown tag, or a field of another
type, ends the connection.

Nothing is pickled in a control message. Some fields carry serialized values of users as *bin*; their format is in
[value-format.md](value-format.md), and what lies in the arena in [store-layout.md](store-layout.md).

## Ids
Ids are *bin*, made of big-endian unsigned 32-bit numbers: node id (4 bytes: node), process id (8: node, process),
task id (12: node, process, call), object id and actor id (16: node, process, call, item).

## The first exchange
The processes of a node meet at Unix stream sockets in the session's directory: the daemon listens at `daemon`, worker
number N at `worker-N`. The accepting side asks the kernel which user the peer is, and reads nothing of another user
but root.
The side that connects sends `Hello`, protocol version {version}. The daemon answers a driver or a worker with `Welcome`
or `Refused`; with `Welcome` come two descriptors (`SCM_RIGHTS`), the arena's memory file and the page of running calls.
A worker answers nothing to a `Hello`. Daemon and zygote share a socket pair without a `Hello`; descriptors travel on it
with the message that needs them.

Nodes meet at one TCP port each; the head is behind the port of the node that started it. What connects says first, in
32 bytes in the clear, which process it wants and what for (`remora/system/network/preface.py`); then, under TLS unless
the cluster was started without, each side proves that it knows the cluster's secret. No frame is decoded before that.
What the chapters links, copies, head and transfer list travels only between nodes; there the other messages travel too,
`ForProcess` and `FromProcess` before them saying whose they are.
"""


def main() -> None:
    """Print the page."""
    print(page(), end="")


def page() -> str:
    """The whole page, in Markdown."""
    lines = [HEAD.format(max_frame=f"{wire.MAX_FRAME_BYTES:,}", version=session.PROTOCOL_VERSION)]
    lines += _overview()
    for module in node_wire.MODULES:
        lines += _chapter(module)
    lines += ["## Structs of other modules", ""]
    lines += _entry(configuration.WorkerConfiguration)
    return "\n".join(lines).rstrip() + "\n"


def _overview() -> list[str]:
    lines = ["## All messages by tag", "", "| tags | about | messages |", "| --- | --- | --- |"]
    for module in node_wire.MODULES:
        tags = [tag_of(message) for message in module.MESSAGES]
        names = ", ".join(f"{message.__name__} {tag}" for message, tag in zip(module.MESSAGES, tags))
        lines.append(f"| {min(tags)}-{max(tags)} | {_short_name(module)} | {names} |")
    return [*lines, ""]


def _chapter(module: ModuleType) -> list[str]:
    lines = [f"## {_short_name(module).capitalize()}", "", _text(module), ""]
    constants = list(_constants(module))
    if module is objects:
        constants += [one for one in _constants(object_ref) if one[0] in STATES]
    if constants:
        lines += ["| constant | number | meaning |", "| --- | --- | --- |"]
        lines += [f"| `{name}` | {value} | {_in_cell(meaning)} |" for name, value, meaning in constants]
        lines.append("")
    for struct in _structs(module):
        lines += _entry(struct)
    return lines


def _structs(module: ModuleType) -> list[type[msgspec.Struct]]:
    """Those of the module, in the order of its source."""
    return [
        item
        for item in vars(module).values()
        if isinstance(item, type) and issubclass(item, msgspec.Struct) and item.__module__ == module.__name__
    ]


def _entry(struct: type[msgspec.Struct]) -> list[str]:
    tag = struct.__struct_config__.tag
    title = struct.__name__ if tag is None else f"{struct.__name__}, tag {tag}"
    lines = [f"### {title}", "", _text(struct), ""]
    fields = msgspec.structs.fields(struct)
    if fields:
        lines += ["| field | type | default |", "| --- | --- | --- |"]
        lines += [f"| `{field.name}` | {_in_cell(_type_name(field.type))} | {_default(field)} |" for field in fields]
        lines.append("")
    return lines


def _type_name(kind: Any) -> str:
    if kind is type(None):
        return "None"
    origin = typing.get_origin(kind)
    if origin is None:
        return str(kind.__name__) if isinstance(kind, type) else str(kind)
    if origin in (typing.Union, types.UnionType):
        return " | ".join(_type_name(one) for one in typing.get_args(kind))
    inner = ", ".join("..." if one is Ellipsis else _type_name(one) for one in typing.get_args(kind))
    return f"{origin.__name__}[{inner}]"


def _default(field: msgspec.structs.FieldInfo) -> str:
    if field.default is not msgspec.NODEFAULT:
        return f"`{field.default!r}`"
    if field.default_factory is not msgspec.NODEFAULT:
        return f"`{field.default_factory()!r}`"
    return ""


def _constants(module: ModuleType) -> Iterator[tuple[str, int, str]]:
    """Numbers of a module that have a docstring, with the docstring."""
    body = ast.parse(Path(inspect.getfile(module)).read_text()).body
    for statement, after in pairwise(body):
        if not (isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Constant)):
            continue
        target = statement.targets[0]
        is_described = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
        if is_described and isinstance(target, ast.Name) and isinstance(statement.value.value, int):
            yield target.id, statement.value.value, _markdown(str(after.value.value))  # type: ignore[attr-defined]


def _text(item: object) -> str:
    return _markdown(inspect.getdoc(item) or "")


def _markdown(docstring: str) -> str:
    """The marks of docstrings in Markdown's: ``code`` and references become `code`."""
    text = docstring.replace("``", "`")
    for role in (":mod:", ":class:", ":meth:", ":func:"):
        text = text.replace(role, "")
    return text.replace("`~", "`")


def _in_cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _short_name(module: ModuleType) -> str:
    return module.__name__.rpartition(".")[2]


if __name__ == "__main__":
    main()
