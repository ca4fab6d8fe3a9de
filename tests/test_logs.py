"""Log lines: one entry a line, whatever a visitor sends, and nothing in it that moves a terminal's cursor."""

import json
import logging
from collections.abc import Iterator
from typing import Literal

import pytest

from tracker import logs

HOSTILE = "Mozilla\x1b[2J\x07\r\n2026-11-23T07:09:24.932+00:00 INFO     tracker.x forged\x85\u2028\u202e\ud800\x00é"


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.handlers[:] = []  # else setup_logging closes pytest's own
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def logged(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().err


def log(*, format: Literal["text", "json"], level: str = "info") -> logging.Logger:
    logs.setup_logging(level, format)
    return logging.getLogger("tracker.x")


def test_text_is_one_line_an_entry(capsys: pytest.CaptureFixture[str]) -> None:
    log(format="text").warning("event detail=%s", "value")
    time, rest = logged(capsys).split(" ", 1)
    assert len(time) == len("2026-11-23T07:09:24.932+00:00")
    assert time.endswith("+00:00")
    assert rest == "WARNING  tracker.x event detail=value\n"


def test_text_escapes_what_a_visitor_sends(capsys: pytest.CaptureFixture[str]) -> None:
    log(format="text").info("refused agent=%s", HOSTILE)
    line = logged(capsys)
    assert line.endswith("\n")
    assert line[:-1].isprintable()
    assert line.endswith(
        r"agent=Mozilla\x1b[2J\x07\r\n2026-11-23T07:09:24.932+00:00 INFO     tracker.x forged"
        r"\x85\u2028\u202e\ud800\x00é" + "\n"
    )


def test_a_traceback_keeps_its_lines_and_none_of_them_passes_for_an_entry(capsys: pytest.CaptureFixture[str]) -> None:
    try:
        raise ValueError(HOSTILE)
    except ValueError:
        log(format="text").exception("ended")
    lines = logged(capsys).rstrip("\n").split("\n")
    assert lines[0].endswith("ERROR    tracker.x ended")
    assert lines[1] == "    Traceback (most recent call last):"
    assert all(line.startswith("    ") for line in lines[1:])
    assert all(line.isprintable() for line in lines)


def test_json_is_one_object_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    logger = log(format="json")
    logger.info("refused agent=%s", HOSTILE)
    try:
        raise ValueError(HOSTILE)
    except ValueError:
        logger.exception("ended")
    text = logged(capsys)
    assert text.isascii()
    first, second = (json.loads(line) for line in text.splitlines())
    assert first.pop("time").endswith("+00:00")
    said = {"event": "refused", "detail": f"agent={HOSTILE}", "agent": HOSTILE}
    assert first == {"level": "info", "logger": "tracker.x", **said}
    assert (second["event"], second["detail"]) == ("ended", "")
    assert "ValueError: Mozilla\x1b" in second["exception"]


def test_the_level_is_obeyed_and_libraries_are_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    logger = log(format="text", level="warning")
    logger.info("unsaid")
    logger.warning("said")
    log(format="text", level="debug")
    logging.getLogger("botocore.endpoint").info("unsaid")
    assert logged(capsys).count("said") == 1
