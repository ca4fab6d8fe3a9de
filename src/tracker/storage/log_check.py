"""Reads a log and finds each line that is not as storage writes it: a step of `tracker audit`."""

import io
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from tracker.core.log_line import MAX_LOG_LINE_BYTES, format_line, parse_line
from tracker.decompression import DamagedFile, IncompleteFile, decompressed
from tracker.errors import MalformedMessage, TrackerError

SHOWN_LINES = 10
_LEGACY = re.compile(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{7}\+00:00\|")


@dataclass(slots=True)
class LogCheck:
    """What is in a log: lines as storage writes them, lines of the legacy .NET services, and problems."""

    file: Path
    lines: int = 0
    legacy_lines: int = 0
    problems: list[str] = field(default_factory=list)
    unshown: int = 0  # problems beyond the first ones


def check_log(file: Path, limit: int | None = None) -> LogCheck:
    """Read a log, compressed or not, up to `limit` bytes. Raises TrackerError when it cannot be read."""
    check = LogCheck(file)
    try:
        with file.open("rb") as opened:
            source = io.BufferedReader(decompressed(opened))
            _check_lines(check, iter(partial(source.readline, MAX_LOG_LINE_BYTES), b""), limit)
    except (IncompleteFile, DamagedFile) as error:
        check.problems.append(f"TORN: {error}, after {check.lines} lines of visits")
    except OSError as error:
        raise TrackerError(f"{file}: cannot be read: {error.strerror}") from error
    return check


def _check_lines(check: LogCheck, lines: Iterator[bytes], limit: int | None) -> None:
    offset = 0
    for number, line in enumerate(lines, 1):
        if limit is not None and offset >= limit:
            return
        if not line.endswith(b"\n") and len(line) < MAX_LOG_LINE_BYTES:
            check.problems.append(f"TORN: the last {len(line)} bytes, from {offset}, are no whole line")
        elif (problem := _line_problem(line)) is None:
            check.lines += 1
            check.legacy_lines += _LEGACY.match(line) is not None
        elif len(check.problems) < SHOWN_LINES:
            check.problems.append(f"FOREIGN: line {number}, byte {offset}: {problem}: {line[:80]!r}")
        else:
            check.unshown += 1
        offset += len(line)


def _line_problem(line: bytes) -> str | None:
    try:
        as_written = format_line(parse_line(line))
    except MalformedMessage as error:
        return str(error)
    return None if as_written == line or _LEGACY.match(line) else "not as storage writes it"
