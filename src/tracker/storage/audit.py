"""`tracker audit` checks two things: the ledger shows what is missing, and the log shows what storage did not write.

1. It copies the ledger, and reports each journal that is open or has gaps, and the gaps older than `--grace`.
2. It counts the sums that the ledger keeps again, and reports those that differ.
3. It reads the logs given with `--log`, and reports each line that is not as storage writes it.

The exit status is 1 when one of these steps has found something. Only `--forget` and `--forget-silent` write to the
ledger. Storage may be running.
"""

import argparse
import io
import math
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from tracker.config import load_storage
from tracker.core.log_line import MAX_LOG_LINE_BYTES, format_line, parse_line
from tracker.core.visit import Visit, encode_line, visited_at_text
from tracker.decompression import DamagedFile, IncompleteFile, decompressed
from tracker.errors import MalformedMessage, TrackerError
from tracker.storage import erasure_log, ledger_reader
from tracker.storage.ledger_reader import Account, LedgerCopy
from tracker.visit_log_files import ledger_path, why_no_log

CONFIG = Path("config/storage.yaml")
SHOWN_LINES = 10
SAMPLE_BYTES = 1 << 16
_LEGACY = re.compile(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{7}\+00:00\|")
# By how many bytes the line of a visit in its journal is longer than its line in the log.
_PROBE = Visit(datetime(2026, 1, 1, tzinfo=UTC), "r", "u", "192.0.2.1")
JOURNAL_EXTRA_BYTES = len(encode_line(visited_at_text(0), "r", "u", _PROBE.ip)) - len(format_line(_PROBE))
USUAL_LINE_BYTES = 220  # assumed for a log that has no line yet


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help=f"storage's configuration (without --log: {CONFIG})"
    )
    parser.add_argument(
        "--log",
        type=Path,
        action="extend",
        nargs="+",
        default=[],
        metavar="FILE",
        help="check these logs too, also closed or compressed; without --config, the ledger beside one of them is read",
    )
    parser.add_argument(
        "--grace",
        type=_not_negative,
        default=3600.0,
        metavar="SECONDS",
        help="do not report younger gaps as missing (default: 3600, an hour)",
    )
    parser.add_argument(
        "--forget",
        action="append",
        default=[],
        metavar="JOURNAL",
        help="give up the gaps of this journal: they are no longer reported; this cannot be undone",
    )
    parser.add_argument(
        "--forget-silent",
        type=_not_negative,
        metavar="DAYS",
        help="the same for all journals that are open or have gaps and had no message for this many days",
    )
    parser.add_argument("--all", action="store_true", help="list complete journals too")


def run(options: argparse.Namespace) -> int:
    """Print the audit. Returns the exit status: 0 when nothing was found, otherwise 1."""
    logs: list[Path] = options.log
    live, well = _live_log(options.config, logs), True
    if live is not None:
        for journal in options.forget:
            ledger_reader.give_up(ledger_path(live), journal)
        if options.forget_silent is not None:
            count = ledger_reader.give_up_silent(ledger_path(live), options.forget_silent)
            print(f"{count} journals given up that were silent for {options.forget_silent:g} days")
        with ledger_reader.open_copy(ledger_path(live)) as copy:
            well = _print_ledger(copy, live, time.time() * 1000, options.grace, options.all)
        print("".join(f"{text}\n" for text in erasure_log.summary(live)), end="")
    for file in logs:
        if reason := why_no_log(str(file), [str(other) for other in logs]):
            print(f"{file}: not read: {reason}")
        else:
            well &= _print_check(_check(file, live))
    return 0 if well else 1


def _not_negative(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 <= number < math.inf:
        raise argparse.ArgumentTypeError(f"expected a number, 0 or more, found {text!r}")
    return number


def _live_log(config: Path | None, logs: list[Path]) -> Path | None:
    """The log whose ledger is read: the configured one, otherwise the first of `logs` that has a ledger beside it."""
    if config is not None or not logs:
        return Path(load_storage(config or CONFIG, os.environ).log.path)
    return next((file for file in logs if ledger_path(file).exists()), None)


def _print_ledger(ledger: LedgerCopy, log: Path, now_ms: float, grace: float, all_journals: bool) -> bool:
    """Steps 1 and 2. Returns whether nothing was found."""
    line_bytes = _mean_line_bytes(log) + JOURNAL_EXTRA_BYTES
    journals = complete = stored = missing = gaps = 0
    for account in ledger.accounts():
        journals += 1
        complete += not account.gaps and account.closed_end is not None
        stored += account.stored_bytes
        for gap in account.gaps if not account.given_up else ():
            if now_ms - gap.since_ms > grace * 1000:
                missing, gaps = missing + gap.size, gaps + 1
        if all_journals or account.gaps or account.closed_end is None:
            _print_account(account, now_ms, line_bytes)
    in_progress = ledger.extent.pending_end - ledger.extent.size
    print(
        f"{journals} journals, {complete} of them closed and complete; "
        f"{stored} bytes of them stored; {log} has {ledger.extent.size} bytes"
        + (f" and an append of {in_progress} in progress" if in_progress else "")
    )
    if gaps:
        about = _visits(missing, line_bytes)
        print(f"MISSING: {missing} bytes in {gaps} gaps, about {about}, for longer than {grace:g} s")
    else:
        print(f"nothing has been missing for longer than {grace:g} s")
    wrong = 0
    for wrong, problem in enumerate(ledger.wrong_sums(), 1):
        if wrong <= SHOWN_LINES:
            print(f"SUMS: {problem}")
    return not gaps and not wrong


def _print_account(account: Account, now_ms: float, line_bytes: float) -> None:
    state = "open" if account.closed_end is None else f"closed at {account.closed_end}"
    print(
        f"journal {account.journal}: {state}, {account.stored_bytes} bytes stored, "
        f"latest message {_time(account.latest_ms)} ({max(0, now_ms - account.latest_ms) / 1000:.0f} s ago)"
        + (", its gaps are given up" if account.given_up else "")
    )
    for gap in account.gaps:
        print(
            f"  missing [{gap.start}, {gap.end}): {gap.size} bytes, about {_visits(gap.size, line_bytes)}, "
            f"since {_time(gap.since_ms)}"
        )


def _visits(size: int, line_bytes: float) -> str:
    count = max(1, round(size / line_bytes))
    return f"{count} visit{'s' if count > 1 else ''}"


def _time(ms: float) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="seconds")


def _mean_line_bytes(log: Path) -> float:
    """The mean length of the last lines of the log, in bytes."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - SAMPLE_BYTES))
            sample = file.read(SAMPLE_BYTES)
    except OSError:
        sample = b""
    return len(sample) / lines if (lines := sample.count(b"\n")) else USUAL_LINE_BYTES


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


def _check(file: Path, live: Path | None) -> LogCheck:
    """Step 3 for one log. If it is the live one, its length is compared with the ledger; storage may be appending."""
    if live is None or not live.exists() or not file.exists() or not file.samefile(live):
        return check_log(file)
    before = ledger_reader.read_extent(ledger_path(live))
    check = check_log(file, before.size)
    size, after = file.stat().st_size, ledger_reader.read_extent(ledger_path(live))
    if before.inode == after.inode and not before.size <= size <= max(before.pending_end, after.pending_end):
        check.problems.append(f"LENGTH: {size} bytes, the ledger knows {before.size} to {after.pending_end}")
    return check


def _print_check(check: LogCheck) -> bool:
    legacy = f", {check.legacy_lines} of them in the form of the legacy .NET services" if check.legacy_lines else ""
    print(f"{check.file}: {check.lines} lines of visits{legacy}")
    for problem in check.problems:
        print(f"  {problem}")
    if check.unshown:
        print(f"  and {check.unshown} more lines that are FOREIGN")
    return not check.problems
