"""`tracker audit` checks two things: the ledger shows what is missing, and the log shows what storage did not write.

1. It copies the ledger, and reports each journal that is open or has gaps, and the gaps older than `--grace`.
2. It counts the sums that the ledger keeps again, and reports those that differ.
3. If several ledgers are read, it reports the journals that more than one of them knows.
4. It reads the logs given with `--log`, and reports each line that is not as storage writes it.

The exit status is 1 when one of these steps has found something, otherwise 3 when a ledger could not be read. Only
`--forget` and `--forget-silent` write to the ledger. Storage may be running.
"""

import argparse
import math
import os
import time
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

from tracker import exit_status
from tracker.config import load_storage
from tracker.core.log_line import format_line
from tracker.core.visit import Visit, encode_line, visited_at_text
from tracker.errors import TrackerError, UnknownJournal, UsageError
from tracker.storage import erasure_log, ledger_reader
from tracker.storage.ledger_reader import Account, LedgerCopy
from tracker.storage.log_check import SHOWN_LINES, LogCheck, check_log
from tracker.storage.shared_journals import Stored, shared_journals
from tracker.visit_log_files import ledger_path, why_no_log

CONFIG = Path("config/storage.yaml")
SAMPLE_BYTES = 1 << 16
# By how many bytes the line of a visit in its journal is longer than its line in the log.
_PROBE = Visit(datetime(2026, 1, 1, tzinfo=UTC), "r", "u", "192.0.2.1")
JOURNAL_EXTRA_BYTES = len(encode_line(visited_at_text(0), "r", "u", _PROBE.ip)) - len(format_line(_PROBE))
_OPEN = "; whether the latest bytes of an open journal have arrived, only tracker doctor can see, in the outbox"
USUAL_LINE_BYTES = 220  # assumed for a log that has no line yet


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config",
        type=Path,
        nargs="+",
        action="extend",
        default=[],
        metavar="FILE",
        help=f"the configurations of one or several storages (without --log: {CONFIG})",
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
    """Print the audit. Returns the exit status."""
    logs: list[Path] = options.log
    lives = _live_logs(options.config, logs)
    well = True
    for journal in options.forget if lives else ():
        _give_up(lives, journal)
    if options.forget_silent is not None:
        for live in lives:
            count = ledger_reader.give_up_silent(ledger_path(live), options.forget_silent)
            print(f"{count} journals given up that were silent for {options.forget_silent:g} days")
    with ExitStack() as stack:
        copies: dict[Path, LedgerCopy] = {}
        for live in lives:
            try:
                copies[live] = stack.enter_context(ledger_reader.open_copy(ledger_path(live)))
            except TrackerError as error:
                exit_status.print_error(f"tracker: {error}")
        for live, copy in copies.items():
            well &= _print_ledger(copy, live, time.time() * 1000, options.grace, options.all)
            print("".join(f"{text}\n" for text in erasure_log.summary(live)), end="")
        well &= _print_shared({str(live): copy.stored() for live, copy in copies.items()})
    for file in logs:
        if reason := why_no_log(str(file), [str(other) for other in logs]):
            print(f"{file}: not read: {reason}")
        else:
            well &= _print_check(_check(file, lives))
    if not well:
        return exit_status.FOUND
    return exit_status.OK if len(copies) == len(lives) else exit_status.COULD_NOT_LOOK


def _give_up(lives: list[Path], journal: str) -> None:
    """Give up the gaps of a journal in each ledger that knows it. Raises TrackerError if none does."""
    unknown: list[UnknownJournal] = []
    for live in lives:
        try:
            ledger_reader.give_up(ledger_path(live), journal)
        except UnknownJournal as error:
            unknown.append(error)
    if len(unknown) == len(lives):
        raise unknown[0]


def _not_negative(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 <= number < math.inf:
        raise argparse.ArgumentTypeError(f"expected a number, 0 or more, found {text!r}")
    return number


def _live_logs(configs: list[Path], logs: list[Path]) -> list[Path]:
    """The logs whose ledgers are read: the configured ones, otherwise the first of `logs` with a ledger beside it."""
    if configs or not logs:
        paths: dict[Path, Path] = {}
        for config in configs or [CONFIG]:
            path = Path(load_storage(config, os.environ).log.path)
            if path in paths:
                raise UsageError(
                    f"--config: {paths[path]} and {config} have the same log.path {path}; expected a log of its own "
                    "for each storage. Of a storage on another host, copy <log>.d/ and name the copy in log.path"
                )
            paths[path] = config
        return list(paths)
    return [file for file in logs if ledger_path(file).exists()][:1]


def _print_ledger(ledger: LedgerCopy, log: Path, now_ms: float, grace: float, all_journals: bool) -> bool:
    """Steps 1 and 2. Returns whether nothing was found."""
    line_bytes = _mean_line_bytes(log) + JOURNAL_EXTRA_BYTES
    journals = complete = stored = missing = gaps = open_journals = 0
    for account in ledger.accounts():
        journals += 1
        open_journals += account.closed_end is None
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
        print(f"nothing has been missing for longer than {grace:g} s{_OPEN if open_journals else ''}")
    wrong = 0
    for wrong, problem in enumerate(ledger.wrong_sums(), 1):
        if wrong <= SHOWN_LINES:
            print(f"SUMS: {problem}")
    return not gaps and not wrong


def _print_shared(ledgers: dict[str, Stored]) -> bool:
    """Step 3. Returns whether nothing was found."""
    count = 0
    for count, (journal, names, twice) in enumerate(shared_journals(ledgers), 1):
        if count <= SHOWN_LINES:
            what = f"TWICE: {twice} bytes of" if twice else "DIVIDED: parts of"
            print(f"{what} journal {journal} are stored by more than one storage: {', '.join(names)}")
    if count > SHOWN_LINES:
        print(f"and {count - SHOWN_LINES} more journals that several storages know")
    return not count


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
            f"noticed at {_time(gap.since_ms)}"
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


def _check(file: Path, lives: list[Path]) -> LogCheck:
    """Step 4 for one log. If it is a live one, its length is compared with the ledger; storage may be appending."""
    live = next((each for each in lives if each.exists() and file.exists() and file.samefile(each)), None)
    if live is None:
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
