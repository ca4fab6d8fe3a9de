"""Log lines of every process: text for people, JSON for machines, one event word a line, and no flood of repeats.

They are written to `sys.stderr`. In a service that is `standard_error.STREAM`, which never blocks the caller.

A message is written `event key=%s other=%d; words for people`. What a visitor sends can neither begin a line nor reach
a terminal as it is, and the fields of a JSON line have their names from the code's own text, never out of a value.
"""

import json
import logging
import re
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Literal

from tracker.standard_error import STREAM

log = logging.getLogger("tracker.logs")

BURST = 10  # lines that one place of the code may write in PERIOD_SECONDS
PERIOD_SECONDS = 60.0

_PLACEHOLDER = re.compile(r"(?:\b([A-Za-z_]+)=)?%[-#0 +]*\d*(?:\.\d+)?([a-zA-Z%])")
_CREDENTIALS = re.compile(r"(?<=://)[^/@\s]*@")


class Structure:
    """A value of several parts: compact JSON in a text line, an object in a JSON line. Of a URL, credentials go."""

    def __init__(self, content: Mapping[str, Any]) -> None:
        self.content: dict[str, Any] = json.loads(_CREDENTIALS.sub("***@", json.dumps(content)))

    def __str__(self) -> str:
        return json.dumps(self.content, separators=(",", ":"))


class Repeats(logging.Filter):
    """Lets each place of the code write `BURST` lines a period; the next line says how many were left out."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: dict[tuple[str, int], tuple[float, int]] = {}  # the period's begin, and lines in it

    def filter(self, record: logging.LogRecord) -> bool:
        place = (record.pathname, record.lineno)
        now = time.monotonic()
        began, count = self._seen.get(place, (now, 0))
        if now - began >= PERIOD_SECONDS:
            record.suppressed = max(0, count - BURST)
            began, count = now, 0
        self._seen[place] = (began, count + 1)
        return count < BURST


class _Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        event, detail = _said(record)
        words = [_time(record), f"{record.levelname:<8}", record.name, event, detail]
        if suppressed := _suppressed(record):
            words.append(f"suppressed={suppressed}")
        line = printable(" ".join(word for word in words if word))
        if record.exc_info:
            # Only a traceback has lines of its own; indented, none of them can pass for another entry.
            line += ("\n" + printable(self.formatException(record.exc_info), keep="\n")).replace("\n", "\n    ")
        return line


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        event, detail = _said(record)
        entry = {
            **_fields(record),
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": event,
            "detail": detail,
        }
        if suppressed := _suppressed(record):
            entry["suppressed"] = suppressed
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry)


def _said(record: logging.LogRecord) -> tuple[str, str]:
    """The event's word and what follows it. Libraries know no events of ours: all theirs are one."""
    message = record.getMessage()
    if not record.name.startswith("tracker"):
        return "library_message", message
    event, _, detail = message.partition(" ")
    return event, detail


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    """The values that the message's template names, as `key=%s`."""
    if not record.name.startswith("tracker") or not isinstance(record.args, tuple):
        return {}
    fields: dict[str, Any] = {}
    values = iter(record.args)
    for name, kind in _PLACEHOLDER.findall(str(record.msg)):
        if kind == "%":
            continue
        value = next(values, None)
        if name:
            fields[name] = _plain(value)
    return fields


def _plain(value: object) -> Any:
    if isinstance(value, Structure):
        return value.content
    return value if isinstance(value, (int, float)) or value is None else str(value)


def _suppressed(record: logging.LogRecord) -> int:
    return getattr(record, "suppressed", 0)


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")


def printable(text: str, keep: str = "") -> str:
    """`text` with every character escaped that could move a terminal's cursor or look like a second line, but `keep`.

    Escaped text stays as it is when it is escaped again.
    """
    return "".join(c if c.isprintable() or c in keep else c.encode("unicode_escape").decode() for c in text)


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
    log.error("log_lines_dropped count=%d; standard error could not be written; look at what reads it", count)
