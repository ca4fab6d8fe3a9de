"""Log lines: one entry a line, whatever a visitor sends, and nothing in it that moves a terminal's cursor."""

import ast
import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest

from tracker import logs

SOURCE = Path(logs.__file__).parent

_LEVELS = {"debug", "info", "warning", "error", "critical", "exception"}

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
    log(format="text").warning("disk_filled path=%s; The disk is full. Make room.", "/var")
    time, rest = logged(capsys).split(" ", 1)
    assert len(time) == len("2026-11-23T07:09:24.932+00:00")
    assert time.endswith("+00:00")
    assert rest == "WARNING  tracker.x disk_filled path=/var; The disk is full. Make room.\n"


def test_text_escapes_what_a_visitor_sends(capsys: pytest.CaptureFixture[str]) -> None:
    log(format="text").info("visit_refused agent=%s", HOSTILE)
    line = logged(capsys)
    assert line.endswith("\n")
    assert line[:-1].isprintable()
    assert line.endswith(
        r"agent=Mozilla\x1b[2J\x07\r\n2026-11-23T07:09:24.932+00:00 INFO     tracker.x forged"
        r"\x85\u2028\u202e\ud800\x00é" + "\n"
    )


def test_a_traceback_keeps_its_lines_and_none_of_them_looks_like_an_entry(capsys: pytest.CaptureFixture[str]) -> None:
    try:
        raise ValueError(HOSTILE)
    except ValueError:
        log(format="text").exception("task_ended")
    lines = logged(capsys).rstrip("\n").split("\n")
    assert lines[0].endswith("ERROR    tracker.x task_ended")
    assert lines[1] == "    Traceback (most recent call last):"
    assert all(line.startswith("    ") for line in lines[1:])
    assert all(line.isprintable() for line in lines)


def test_json_is_one_object_a_line_with_the_pairs_as_fields(capsys: pytest.CaptureFixture[str]) -> None:
    logger = log(format="json")
    logger.info("visit_refused agent=%s port=%d; A visit was refused.", HOSTILE, 80)
    try:
        raise ValueError(HOSTILE)
    except ValueError:
        logger.exception("task_ended")
    text = logged(capsys)
    assert text.isascii()
    first, second = (json.loads(line) for line in text.splitlines())
    assert first.pop("time").endswith("+00:00")
    assert first == {
        "level": "info",
        "logger": "tracker.x",
        "event": "visit_refused",
        "agent": HOSTILE,
        "port": 80,
        "text": "A visit was refused.",
    }
    assert (second["event"], second["text"]) == ("task_ended", "")
    assert "ValueError: Mozilla\x1b" in second["exception"]


def test_the_level_is_obeyed_and_libraries_are_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    logger = log(format="text", level="warning")
    logger.info("line_hidden")
    logger.warning("line_shown")
    log(format="text", level="debug")
    logging.getLogger("botocore.endpoint").info("line_hidden")
    assert logged(capsys).count("line_") == 1


def test_no_value_adds_a_field_or_changes_the_event_or_the_text(capsys: pytest.CaptureFixture[str]) -> None:
    logger = log(format="json")
    logger.warning("worker_died pid=%d status=%s; Another one is started.", 3, "1 level=no; forged=1 100%")
    logger.info("service_started config=%s", logs.Structure({"sns": {"linger": 0.2}, "workers": "auto"}))
    logger.info("field_named level=%s event=%s", "mine", "mine")
    first, second, third = (json.loads(line) for line in logged(capsys).splitlines())
    assert (first["event"], first["pid"], first["status"]) == ("worker_died", 3, "1 level=no; forged=1 100%")
    assert (first["level"], first["text"]) == ("warning", "Another one is started.")
    assert "forged" not in first
    assert second["config"] == {"sns": {"linger": 0.2}, "workers": "auto"}
    assert (third["level"], third["event"]) == ("info", "field_named")


def test_a_structure_shows_no_credentials_of_a_url() -> None:
    shown = str(logs.Structure({"queue": "https://key:secret@sqs.example/1/visits", "mail": "a@b"}))
    assert shown == '{"queue":"https://***@sqs.example/1/visits","mail":"a@b"}'


@pytest.mark.parametrize("format", ["text", "json"])
def test_repeats_are_logged_a_few_times_and_then_counted(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, format: Literal["text", "json"]
) -> None:
    clock = [0.0]
    monkeypatch.setattr("tracker.logs.time.monotonic", lambda: clock[0])
    logger = log(format=format)

    def repeat(times: int) -> None:
        for number in range(times):
            logger.warning("message_malformed id=%d; It is left to the dead-letter queue.", number)

    repeat(logs.BURST + 7)
    logger.warning("place_changed")
    lines = logged(capsys).splitlines()
    assert len(lines) == logs.BURST + 1
    assert "place_changed" in lines[-1]
    assert "suppressed" not in "".join(lines)
    clock[0] += logs.PERIOD_SECONDS
    repeat(2)
    first, second = logged(capsys).splitlines()
    assert ("id=0 suppressed=7; It is left" if format == "text" else '"suppressed": 7') in first
    assert "suppressed" not in second


@pytest.mark.parametrize("format", ["text", "json"])
def test_what_libraries_log_is_one_event_with_their_message_as_its_text(
    capsys: pytest.CaptureFixture[str], format: Literal["text", "json"]
) -> None:
    log(format=format)
    logging.getLogger("aiohttp.server").error("Error handling request; level=%s", "info")
    if format == "text":
        assert logged(capsys).endswith("ERROR    aiohttp.server library_message; Error handling request; level=info\n")
    else:
        entry = json.loads(logged(capsys))
        assert (entry["event"], entry["level"]) == ("library_message", "error")
        assert entry["text"] == "Error handling request; level=info"


# The form of our messages, as the module's text describes it. A participle may have a particle: `span_set_aside`.
_EVENT = re.compile(
    r"[a-z]+_([a-z]+_)*([a-z]+ed|begun|broken|cut|found|held|hung|kept|left|lost|made|put|sent|set|taken|written)(_(aside|back|down|off|over|up))?"
)
_PAIR = re.compile(r"([a-z][a-z_0-9]*)=%[-.0-9]*[a-z]")
_RESERVED = {"time", "level", "logger", "event", "text", "suppressed", "exception"}
_TEXT_NEEDED = {"warning", "error", "critical", "exception"}


def _calls() -> Iterator[tuple[str, ast.Call]]:
    """Every call of a logger in the code, and where it is."""
    for path in sorted(SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case ast.Call(func=ast.Attribute(value=ast.Name(id="log"), attr=level)) if level in _LEVELS:
                    yield f"{path.relative_to(SOURCE)}:{node.lineno}", node


def _faults(call: ast.Call) -> Iterator[str]:
    """What in a call does not have the form of our messages."""
    assert isinstance(call.func, ast.Attribute)
    level, template = call.func.attr, call.args[0]
    if not isinstance(template, ast.Constant):
        yield "the template is no literal"
        return
    head, separator, text = str(template.value).partition("; ")
    event, *pairs = head.split(" ")
    if not _EVENT.fullmatch(event):
        yield f"{event!r} is no noun with a past participle"
    for pair in pairs:
        matched = _PAIR.fullmatch(pair)
        if not matched:
            yield f"{pair!r} before the semicolon is no `key=%s`"
        elif matched[1] in _RESERVED:
            yield f"{matched[1]!r} is the name of another field"
    values = call.args[1:]
    if not any(isinstance(value, ast.Starred) for value in values) and len(values) != len(pairs):
        yield f"{len(pairs)} pairs and {len(values)} values"
    if "%" in text:
        yield "the text for people holds a %"
    if (separator or level in _TEXT_NEEDED) and not re.fullmatch(r"[A-Z].*\.", text):
        yield f"{text!r} is no sentence for people"


def test_every_message_has_an_event_then_pairs_then_a_text() -> None:
    calls = list(_calls())
    assert len(calls) > 50
    assert {place: faults for place, call in calls if (faults := list(_faults(call)))} == {}


def test_every_logger_has_the_name_of_its_module() -> None:
    for path in sorted(SOURCE.rglob("*.py")):
        for line in path.read_text(encoding="utf-8").splitlines():
            assert not line.startswith("log = ") or line == "log = logging.getLogger(__name__)", path
