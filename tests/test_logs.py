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

_LOGS = re.compile(r"log\.(debug|info|warning|error|critical|exception)")

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


def test_json_has_the_named_values_as_fields_with_names_from_the_template_alone(
    capsys: pytest.CaptureFixture[str],
) -> None:
    logger = log(format="json")
    logger.warning("worker_died slot=%d status=%s 100%% sure; %s", 3, "forged=1 level=no", "free")
    logger.info("started config=%s", logs.Structure({"sns": {"linger": 0.2}, "workers": "auto"}))
    logger.info("named level=%s event=%s", "mine", "mine")
    first, second, third = (json.loads(line) for line in logged(capsys).splitlines())
    assert (first["slot"], first["status"]) == (3, "forged=1 level=no")
    assert "forged" not in first
    assert first["level"] == "warning"
    assert first["detail"] == "slot=3 status=forged=1 level=no 100% sure; free"
    assert second["config"] == {"sns": {"linger": 0.2}, "workers": "auto"}
    assert (third["level"], third["event"]) == ("info", "named")


def test_a_structure_shows_no_credentials_of_a_url() -> None:
    shown = str(logs.Structure({"queue": "https://key:secret@sqs.example/1/visits", "mail": "a@b"}))
    assert shown == '{"queue":"https://***@sqs.example/1/visits","mail":"a@b"}'


@pytest.mark.parametrize("format", ["text", "json"])
def test_repeats_are_let_through_a_few_times_and_then_counted(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, format: Literal["text", "json"]
) -> None:
    clock = [0.0]
    monkeypatch.setattr("tracker.logs.time.monotonic", lambda: clock[0])
    logger = log(format=format)

    def repeat(times: int) -> None:
        for number in range(times):
            logger.warning("message_malformed id=%d", number)

    repeat(logs.BURST + 7)
    logger.warning("another_place")
    lines = logged(capsys).splitlines()
    assert len(lines) == logs.BURST + 1
    assert "another_place" in lines[-1]
    assert "suppressed" not in "".join(lines)
    clock[0] += logs.PERIOD_SECONDS
    repeat(2)
    first, second = logged(capsys).splitlines()
    assert ("suppressed=7" if format == "text" else '"suppressed": 7') in first
    assert "suppressed" not in second


def test_what_libraries_say_is_one_event(capsys: pytest.CaptureFixture[str]) -> None:
    log(format="json")
    logging.getLogger("aiohttp.server").error("Error handling request level=%s", HOSTILE)
    entry = json.loads(logged(capsys))
    assert (entry["event"], entry["level"]) == ("library_message", "error")
    assert entry["detail"] == f"Error handling request level={HOSTILE}"


def _calls() -> Iterator[tuple[str, ast.expr]]:
    """Every call of a logger in the code: where it is, and its first argument."""
    for path in sorted(SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and _LOGS.fullmatch(ast.unparse(node.func)):
                yield f"{path.relative_to(SOURCE)}:{node.lineno}", node.args[0]


@pytest.mark.parametrize(
    ("place", "template"), list(_calls()), ids=lambda value: value if isinstance(value, str) else ""
)
def test_every_line_of_ours_begins_with_its_event(place: str, template: ast.expr) -> None:
    assert isinstance(template, ast.Constant), f"{place}: the template is no literal"
    event, *_ = str(template.value).split(" ")
    assert re.fullmatch(r"[a-z][a-z_]*[a-z]", event), f"{place}: {event!r} is no event word"
    names = {name for name, _ in logs._PLACEHOLDER.findall(str(template.value))}
    assert not names & {"time", "level", "logger", "event", "detail", "suppressed", "exception"}, place
