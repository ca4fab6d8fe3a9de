"""Standard error that never blocks: what cannot be written is dropped, counted, and reported once it can be written."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.pipes import Pipe
from tests.waiting import until
from tracker.standard_error import QUEUE_BYTES, StandardError

LINE = "x" * 99
MANY = 3 * QUEUE_BYTES // len(LINE)


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    with Pipe() as made:
        yield made


def test_what_nobody_reads_is_dropped_and_counted_and_the_count_is_reported_when_somebody_reads_again(
    pipe: Pipe,
) -> None:
    stream = StandardError(pipe.writer)
    pipe.fill()
    for number in range(MANY):
        print(f"{number:06d}", LINE, file=stream)
    dropped = stream.dropped
    assert MANY / 2 < dropped < MANY
    assert not stream.drain(0.01)
    lines = pipe.read_until("log_lines_dropped count=").splitlines()
    assert lines[:-1] == [f"{number:06d} {LINE}" for number in range(MANY - dropped)]
    assert lines[-1].startswith(f"log_lines_dropped count={dropped}")
    print("afterwards", file=stream)
    assert stream.drain(30)
    assert pipe.read_until("afterwards").count("log_lines_dropped") == 0


async def test_what_the_system_refuses_is_dropped_and_counted() -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    stream = StandardError(full)
    print("one\ntwo", file=stream)
    await until(lambda: stream.dropped == 2)
    os.close(full)


async def test_a_closed_pipe_ends_nothing(pipe: Pipe) -> None:
    stream = StandardError(pipe.writer)
    pipe.close_reader()
    for number in range(3):
        print(number, file=stream)
        await until(lambda: stream.dropped == number + 1)  # noqa: B023


def test_a_description_that_another_process_made_non_blocking_loses_no_line(pipe: Pipe) -> None:
    pipe.set_blocking(False)
    stream = StandardError(pipe.writer)
    for number in range(QUEUE_BYTES // 2 // len(LINE)):  # more than the pipe holds
        print(number, LINE, file=stream)
    print("last", file=stream)
    assert pipe.read_until("last").count(LINE) == number + 1
    assert stream.dropped == 0


async def test_a_line_that_was_written_in_part_is_not_glued_to_the_next_one(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    path = tmp_path / "log"
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    stream = StandardError(file)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (5, before[1]))
        print("0123456789", file=stream)
        await until(lambda: stream.dropped == 1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    print("next", file=stream)
    await until(lambda: "count=1\n" in path.read_text())
    assert path.read_text() == "01234\nnext\nlog_lines_dropped count=1\n"
    os.close(file)


def start(program: str, stderr: int) -> "subprocess.Popen[bytes]":
    setup = """
import logging, os, sys, warnings
from tracker import logs, standard_error
from tracker.lifecycle import exit_now
standard_error.install()
"""
    return subprocess.Popen([sys.executable, "-c", setup + program], stderr=stderr)


LAST_WORDS = {
    "print": "print('last_words', file=sys.stderr)",
    "unfinished": "print('last_words', end='', file=sys.stderr)",
    "traceback": "raise ValueError('last_words')",
    "log line": "logs.setup_logging('info', 'json'); logging.getLogger('tracker.x').critical('last_words')",
    "exit_now": "print('last_words', file=sys.stderr); exit_now(1)",
    "warning": "warnings.warn('last_words')",
}


@pytest.mark.parametrize("program", LAST_WORDS.values(), ids=LAST_WORDS)
def test_the_last_words_of_a_process_get_out(program: str, pipe: Pipe) -> None:
    with start(program, pipe.writer) as process:
        try:
            assert "last_words" in pipe.read_until("last_words")
        finally:
            process.kill()


@pytest.mark.parametrize("program", ["pass", *LAST_WORDS.values()], ids=["nothing", *LAST_WORDS])
def test_a_process_ends_soon_though_nobody_reads_its_last_words(program: str, pipe: Pipe) -> None:
    pipe.fill()
    began = time.monotonic()
    with start(program, pipe.writer) as process:
        try:
            process.wait(30)
        finally:
            process.kill()
    assert time.monotonic() - began < 10
