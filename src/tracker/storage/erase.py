"""`tracker erase` removes the lines of a person from closed logs, and records how many, without the person's data.

The live log is refused, because only storage may write to it: rotate first. The ledger knows byte ranges of journals
and not the content of closed logs, so it stays as it is. Exit status: 0 when no such line is left in the files that
were read, 1 when `--dry-run` has found some, 2 for a wrong command line, 3 when a file could not be read or changed.
"""

import argparse
import gzip
import os
import zlib
from collections.abc import Iterator
from pathlib import Path

from tracker import exit_status
from tracker.config import load_storage
from tracker.core.erasure import Key, Selection
from tracker.errors import HeldByAnother, LogChanged, TrackerError, UsageError
from tracker.storage import erasure_log
from tracker.storage.audit import CONFIG
from tracker.storage.erasing import Counts, erase_lines
from tracker.storage.ledger_reader import read_extent
from tracker.visit_log_files import (
    beside_the_log,
    closed_logs,
    ledger_path,
    logs_of_logrotate,
    numbered_logs,
    size_of,
)

HOW_TO_ROTATE = (
    "rotate it first, with logrotate --force /etc/logrotate.d/tracker, or by moving it to another name in its "
    "directory and sending SIGHUP to storage"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config", type=Path, default=CONFIG, metavar="FILE", help=f"storage's configuration ({CONFIG})"
    )
    parser.add_argument(
        "--ip", action="append", default=[], metavar="ADDRESS", help="an address, or a network such as 203.0.113.0/24"
    )
    for option, what in (("--agent", "a user agent"), ("--page", "a page (the referrer)")):
        parser.add_argument(
            option, action="append", default=[], metavar="TEXT", help=f"{what}, whole and without escapes"
        )
    parser.add_argument("--dry-run", action="store_true", help="count the lines and change nothing")
    parser.add_argument(
        "files", nargs="*", type=Path, metavar="LOG", help="closed logs (default: all beside the configured log)"
    )


def run(options: argparse.Namespace) -> int:
    if not (options.ip or options.agent or options.page):
        raise UsageError("expected at least one of --ip, --agent and --page")
    selection = Selection(ips=options.ip, agents=options.agent, pages=options.page)
    log = Path(load_storage(options.config, os.environ).log.path)
    for file in options.files:
        if log.exists() and file.exists() and file.samefile(log):
            raise UsageError(f"{file} is the live log: {HOW_TO_ROTATE}")
    try:
        work = _Work(log, selection, dry_run=options.dry_run)
        for file in _files(log, options.files):
            work.do(file, named=bool(options.files))
        work.end(_not_read(log, set(work.seen)) if not options.files else [])
    except OSError as error:
        raise TrackerError(f"{error.filename or log}: {error.strerror or error}") from error
    return work.exit_status


def _files(log: Path, named: list[Path]) -> Iterator[Path]:
    """The files to work on. Closed logs that a rotation or a compression makes meanwhile come last."""
    if named:
        yield from dict.fromkeys(named)
        return
    seen: set[Path] = set()
    while new := [
        file for find in (closed_logs, logs_of_logrotate, numbered_logs) for file in find(log) if file not in seen
    ]:
        seen.update(new)
        yield from new


def _not_read(log: Path, seen: set[Path]) -> list[Path]:
    """The other files beside the log that may have lines: copies of torn appends, and what people put there."""
    return [file for file in beside_the_log(log) if file not in (*seen, log) and file.is_file() and size_of(file)]


class _Work:
    """Erases in one file after the other, prints what was done, and collects the exit status."""

    def __init__(self, log: Path, selection: Selection, *, dry_run: bool) -> None:
        self.seen: list[Path] = []
        self._log = log
        self._selection = selection
        self._dry_run = dry_run
        self._selected = 0
        self._failed = False

    @property
    def exit_status(self) -> int:
        if self._failed:
            return exit_status.COULD_NOT_LOOK
        return exit_status.FOUND if self._dry_run and self._selected else exit_status.OK

    def do(self, file: Path, *, named: bool) -> None:
        """Erase in one file. If nobody has `named` it, it may be gone: compressed (and listed later), or removed."""
        self.seen.append(file)
        try:
            counts = erase_lines(
                file,
                self._selection,
                check=lambda inode: self._check(file, inode),
                record=None if self._dry_run else lambda counts: self._record(file, counts),
            )
        except FileNotFoundError as error:
            if named:
                self._fail(file, f"{error.strerror}: was it compressed meanwhile?")
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            self._fail(file, f"not a whole gzip file, nothing was changed ({error})")
        except (OSError, HeldByAnother, LogChanged) as error:
            self._fail(file, error.strerror or str(error) if isinstance(error, OSError) else str(error))
        else:
            self._report(file, counts)

    def end(self, not_read: list[Path]) -> None:
        what = "would be erased" if self._dry_run else "erased"
        print(f"{self._selected} lines {what} in {len(self.seen)} files")
        for file in not_read:
            print(f"not read: {file}")
        if size_of(self._log):
            print(f"not read: {self._log}, the live log; to erase in it, {HOW_TO_ROTATE}, then give this command again")

    def _check(self, file: Path, inode: int) -> None:
        """Raise LogChanged for the file that storage writes, or has renamed and not yet left. Raises TrackerError."""
        if ledger_path(self._log).exists() and read_extent(ledger_path(self._log)).inode == inode:
            raise LogChanged(f"storage may still write to it ({self._log}): {HOW_TO_ROTATE}")

    def _record(self, file: Path, counts: Counts) -> None:
        selected = counts.selected
        erasure_log.append(
            self._log,
            erasure_log.Entry(
                time=erasure_log.now(),
                file=str(file),
                lines=counts.total_selected,
                ip=selected[Key.IP],
                agent=selected[Key.AGENT],
                page=selected[Key.PAGE],
            ),
        )

    def _report(self, file: Path, counts: Counts) -> None:
        self._selected += counts.total_selected
        by = ", ".join(f"{count} by {key.value}" for key, count in counts.selected.items() if count)
        what = "would be erased" if self._dry_run else "erased"
        print(f"{file}: {counts.total_selected} of {counts.lines} lines {what}" + (f" ({by})" if by else ""))
        if counts.other_names and counts.total_selected and not self._dry_run:
            print(f"{file}: it had {counts.other_names} other names (hard links), under which these lines still exist")
        if counts.unreadable:
            self._fail(file, f"{counts.unreadable} lines are no lines of visits and were kept: look at them")

    def _fail(self, file: Path, text: str) -> None:
        self._failed = True
        exit_status.print_error(f"{file}: {text}")
