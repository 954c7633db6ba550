"""What workers print: split into lines, bounded, and read without waiting."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from remora.system.worker_output import LINE_LIMIT_BYTES, OutputBuffer, WorkerOutputReader


def take_all(buffer: OutputBuffer) -> tuple[list[str], int]:
    lines: list[str] = []
    dropped = 0
    while buffer.has_lines:
        more, missed = buffer.take()
        lines += more
        dropped += missed
        buffer.validate()
    return lines, dropped


@given(st.lists(st.text(st.characters(exclude_characters="\n", exclude_categories=["Cs"]))), st.data())
def test_lines_come_as_printed_however_the_pipe_cuts_them(lines: list[str], data: st.DataObject) -> None:
    printed = "".join(line + "\n" for line in lines).encode()
    buffer = OutputBuffer()
    while printed:
        size = data.draw(st.integers(1, len(printed)))
        buffer.feed(printed[:size])
        printed = printed[size:]
        buffer.validate()
    assert take_all(buffer) == (lines, 0)
    assert not buffer.has_partial_line


@given(st.lists(st.integers(0, 30), max_size=100), st.integers(20, 200))
def test_beyond_the_limit_the_oldest_lines_are_dropped_and_every_line_is_counted(
    sizes: list[int], limit_bytes: int
) -> None:
    buffer = OutputBuffer(limit_bytes)
    lines = [f"{number}{'x' * size}" for number, size in enumerate(sizes)]
    for line in lines:
        buffer.feed(line.encode() + b"\n")
        buffer.validate()
    kept, dropped = take_all(buffer)
    assert dropped + len(kept) == len(lines)
    assert kept == lines[dropped:]


def test_a_line_that_was_begun_is_held_back_until_it_ends() -> None:
    buffer = OutputBuffer()
    buffer.feed(b"name? ")
    assert buffer.has_partial_line
    assert not buffer.has_lines
    buffer.end_line()
    assert take_all(buffer) == (["name? "], 0)


def test_a_line_without_end_comes_in_parts_that_cut_no_character() -> None:
    text = "é" * LINE_LIMIT_BYTES
    buffer = OutputBuffer()
    buffer.feed(b"-" + text.encode())
    buffer.validate()
    buffer.end_line()
    lines, _ = take_all(buffer)
    assert len(lines) == 3
    assert "".join(lines) == "-" + text


def test_bytes_that_are_no_text_are_shown_as_such() -> None:
    buffer = OutputBuffer()
    buffer.feed(b"\xff\xfe\n")
    assert take_all(buffer) == (["\ufffd\ufffd"], 0)


@pytest.fixture
def pipe() -> Iterator[tuple[WorkerOutputReader, int]]:
    read, write = os.pipe()
    os.set_blocking(read, False)
    reader = WorkerOutputReader(read, limit_bytes=4 * 1024 * 1024)
    yield reader, write
    reader.close()


def test_the_end_of_the_pipe_gives_the_last_line(pipe: tuple[WorkerOutputReader, int]) -> None:
    reader, write = pipe
    os.write(write, b"one\ntwo")
    assert not reader.on_readable()
    assert reader.buffer.take() == (["one"], 0)
    assert not reader.ended
    os.close(write)
    reader.on_readable()
    assert reader.ended
    assert reader.buffer.take() == (["two"], 0)


def test_drain_takes_what_is_there_while_another_process_keeps_the_pipe_open(
    pipe: tuple[WorkerOutputReader, int],
) -> None:
    reader, write = pipe
    os.write(write, b"last words")
    reader.drain()
    assert not reader.ended
    assert reader.buffer.take() == (["last words"], 0)
    os.close(write)


def test_a_descriptor_is_closed_once(pipe: tuple[WorkerOutputReader, int]) -> None:
    reader, write = pipe
    reader.close()
    reader.close()
    assert reader.fileno() == -1
    with pytest.raises(BrokenPipeError):
        os.write(write, b"x")
    os.close(write)
