"""The page of all messages says what the code says."""

import importlib
import pkgutil
from itertools import pairwise
from pathlib import Path

import msgspec
import pytest

import remora.messages
from remora.messages import describe, node_wire, wire

PAGE = Path(__file__).parents[2] / "docs" / "messages.md"


def modules_of_messages():
    names = [module.name for module in pkgutil.iter_modules(remora.messages.__path__)]
    modules = [importlib.import_module(f"remora.messages.{name}") for name in names]
    return [module for module in modules if hasattr(module, "MESSAGES")]


def tagged_structs(module):
    structs = [item for item in vars(module).values() if isinstance(item, type) and issubclass(item, msgspec.Struct)]
    return {one for one in structs if one.__module__ == module.__name__ and one.__struct_config__.tag is not None}


def test_the_page_in_the_repository_is_the_one_that_the_code_makes():
    assert PAGE.read_text() == describe.page(), (
        "docs/messages.md is stale: run `python -m remora.messages.describe > docs/messages.md`"
    )


def test_every_module_with_messages_is_on_the_page_and_can_be_decoded():
    modules = modules_of_messages()
    assert set(modules) == set(node_wire.MODULES)
    assert {message for module in modules for message in module.MESSAGES} == set(node_wire.ALL_MESSAGES)


def test_every_tagged_struct_is_in_the_messages_of_its_module():
    for module in modules_of_messages():
        assert tagged_structs(module) == set(module.MESSAGES), module.__name__


def test_no_tag_is_used_twice_and_none_is_in_the_range_of_another_module():
    tags = [node_wire.tag_of(message) for message in node_wire.ALL_MESSAGES]
    assert len(set(tags)) == len(tags)
    ranges = [sorted(node_wire.tag_of(message) for message in module.MESSAGES) for module in node_wire.MODULES]
    for earlier, later in pairwise(ranges):
        assert earlier[-1] < later[0]


@pytest.mark.parametrize("message", node_wire.ALL_MESSAGES, ids=lambda message: message.__name__)
def test_a_message_is_written_as_an_array_that_starts_with_its_tag(message):
    configuration = message.__struct_config__
    assert configuration.array_like
    assert isinstance(configuration.tag, int)
    assert message.__doc__, "a message without a docstring cannot be understood from the page"


def test_fields_left_out_at_the_end_get_their_defaults_and_unknown_ones_are_ignored():
    hello = remora.messages.session.Hello
    written = msgspec.msgpack.decode(msgspec.msgpack.encode(hello(1, "driver", 17)))
    assert written == [1, 1, "driver", 17, b"", ""]
    for sent in ([1, 1, "driver", 17], [1, 1, "driver", 17, b"", "", "of a later version"]):
        body = msgspec.msgpack.encode([sent])
        assert wire.decode_body(body) == [hello(1, "driver", 17)]
