"""Log lines of every process, as text or as JSON. Each has one event word; lines that repeat often are limited.

They are written to `sys.stderr`. In a service that is `standard_error.STREAM`, which never blocks the caller.

All messages of the project have one form, which tests/test_logs.py checks:

    log.warning("worker_died pid=%d status=%s; A worker process ended. Another one is started.", pid, status)

1. The event word: what happened to what, a noun and a past participle. It never changes, so alarms can look for it.
2. Everything that varies, as `key=%s` pairs.
3. After `; ` a text for people: what happened, what it means, what to do. Nothing in it varies.

As JSON each pair is a field under its key, and the text is the field `text`. The names of the fields come from the
code alone, so a value that a visitor sends can neither add a field nor begin another line.
"""

import json
import logging
import re
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple

from tracker.core.printable import printable
from tracker.standard_error import STREAM

log = logging.getLogger(__name__)

BURST = 10  # how many lines each place in the code may write in PERIOD_SECONDS
PERIOD_SECONDS = 60.0

LIBRARY_EVENT = "library_message"  # the event of every line that a library logs; its text is the library's own

_CREDENTIALS = re.compile(r"(?<=://)[^/@\s]*@")


class Structure:
    """A value with several parts: compact JSON in a text line, an object in a JSON line.

    Credentials in URLs (`https://user:password@host`) are replaced by `***`.
    """

    def __init__(self, content: Mapping[str, Any]) -> None:
        self.content: dict[str, Any] = json.loads(_CREDENTIALS.sub("***@", json.dumps(content)))

    def __str__(self) -> str:
        return json.dumps(self.content, separators=(",", ":"))


class Repeats(logging.Filter):
    """Lets each place in the code write `BURST` lines in a period and drops the others.

    Its first line in the next period has the number of dropped lines as `suppressed`.
    """

    def __init__(self) -> None:
        super().__init__()
        self._seen: dict[tuple[str, int], tuple[float, int]] = {}  # when the period began, and the lines in it

    def filter(self, record: logging.LogRecord) -> bool:
        place = (record.pathname, record.lineno)
        now = time.monotonic()
        began, count = self._seen.get(place, (now, 0))
        if now - began >= PERIOD_SECONDS:
            record.suppressed = max(0, count - BURST)
            began, count = now, 0
        self._seen[place] = (began, count + 1)
        return count < BURST


class _Message(NamedTuple):
    """A message in its three parts. `head` is the event and the pairs as text."""

    head: str
    event: str
    fields: dict[str, Any]
    text: str


class _Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        message = _parse(record)
        head = " ".join([message.head, *(f"{name}={value}" for name, value in _suppressed(record).items())])
        entry = "; ".join(part for part in (head, message.text) if part)
        line = printable(f"{_time(record)} {record.levelname:<8} {record.name} {entry}")
        if record.exc_info:
            # Only a traceback has lines of its own. They are indented, so none of them looks like another entry.
            line += ("\n" + printable(self.formatException(record.exc_info), keep="\n")).replace("\n", "\n    ")
        return line


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        message = _parse(record)
        entry = {
            **message.fields,
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": message.event,
            "text": message.text,
            **_suppressed(record),
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry)


def _parse(record: logging.LogRecord) -> _Message:
    if not record.name.startswith("tracker"):
        return _Message(LIBRARY_EVENT, LIBRARY_EVENT, {}, record.getMessage())
    # The template is split, not the finished message, because a value may contain the separators.
    template, separator, text = str(record.msg).partition("; ")
    event, *pairs = template.split(" ")
    values = record.args if isinstance(record.args, tuple) else ()
    fields = {pair.partition("=")[0]: _json_value(value) for pair, value in zip(pairs, values, strict=False)}
    return _Message(record.getMessage().removesuffix(separator + text), event, fields, text)


def _json_value(value: object) -> Any:
    if isinstance(value, Structure):
        return value.content
    return value if isinstance(value, (int, float)) or value is None else str(value)


def _suppressed(record: logging.LogRecord) -> dict[str, int]:
    count = getattr(record, "suppressed", 0)
    return {"suppressed": count} if count else {}


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")


def setup_logging(level: str, format: Literal["text", "json"]) -> None:
    """Send log lines to standard error; `level` as in the configuration. May be called again."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json() if format == "json" else _Text())
    handler.addFilter(Repeats())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    STREAM.report = _report_dropped
    for noisy in ("aiobotocore", "botocore", "aiohttp.access"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def _report_dropped(count: int) -> None:
    log.error(
        "log_lines_dropped count=%d; Standard error could not be written, so these log lines are lost. Look at what "
        "reads it: a log driver, a pipe, a full disk.",
        count,
    )
