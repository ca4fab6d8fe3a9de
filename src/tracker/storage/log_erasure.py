"""Erases the selected lines in the closed logs beside a visit log, or in those that were named.

The live log is refused, because only storage may write to it: rotate first. The ledger knows byte ranges of journals
and not the content of closed logs, so it stays as it is. A closed log with such lines whose archiving has begun and
not ended is refused while the archiver works, because it goes on with the lines that it has read. Otherwise, if it was
interrupted or cannot end, the objects that are in the archive already are taken back before the log is replaced.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

from tracker.archive_marker import read_marker
from tracker.core.erasure import Selection
from tracker.decompression import DamagedFile, IncompleteFile
from tracker.errors import HeldByAnother, LogChanged, TrackerError, UsageError
from tracker.files import open_exclusively, reason
from tracker.storage.erasing import Counts, erase_lines
from tracker.storage.erasure_report import ErasureReport
from tracker.storage.ledger_reader import read_extent
from tracker.visit_log_files import (
    archived_marker,
    archiver_lock_path,
    archiving_path,
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


class LogErasure:
    """Erases in one closed log after the other. Raises UsageError when one of the `named` files is the live log.

    `take_back` takes the objects of a closed log with this digest out of the archive, or raises TrackerError. None when
    no archive is configured.
    """

    def __init__(
        self,
        log: Path,
        named: list[Path],
        selection: Selection,
        report: ErasureReport,
        take_back: Callable[[Path, str], None] | None = None,
    ) -> None:
        for file in named:
            if log.exists() and file.exists() and file.samefile(log):
                raise UsageError(f"{file} is the live log: {HOW_TO_ROTATE}")
        self.seen: dict[Path, None] = {}
        """The files that were worked on, in this order."""
        self._log = log
        self._named = named
        self._selection = selection
        self._report = report
        self._take_back = take_back

    def erase(self) -> bool:
        """Erase in the files that were not there before. Returns whether there were any. Raises OSError."""
        before = len(self.seen)
        for file in self._files():
            self.seen[file] = None
            self._erase(file)
        return len(self.seen) > before

    def _files(self) -> Iterator[Path]:
        """The files to work on. Closed logs that a rotation or a compression makes meanwhile come last."""
        if self._named:
            yield from (file for file in dict.fromkeys(self._named) if file not in self.seen)
            return
        while new := [
            file
            for find in (closed_logs, logs_of_logrotate, numbered_logs)
            for file in find(self._log)
            if file not in self.seen
        ]:
            yield from new

    def _erase(self, file: Path) -> None:
        """Erase in one file. If nobody has named it, it may be gone: compressed (and listed later), or removed."""
        report = self._report
        try:
            with ExitStack() as until_replaced:
                counts = erase_lines(
                    file,
                    self._selection,
                    check=self._check,
                    record=None if report.dry_run else lambda counts: self._record(file, counts, until_replaced),
                )
        except FileNotFoundError as error:
            if self._named:
                report.fail(str(file), f"{error.strerror}: was it compressed meanwhile?")
        except (IncompleteFile, DamagedFile) as error:
            report.fail(str(file), f"{error}; nothing was changed")
        except OSError as error:
            report.fail(str(file), error.strerror or str(error))
        except TrackerError as error:
            report.fail(str(file), str(error))
        else:
            self._done(file, counts)

    def _check(self, inode: int) -> None:
        """Raise LogChanged if storage may still write to this file, also after a rename of it.

        Raises TrackerError if the ledger cannot be read.
        """
        if ledger_path(self._log).exists() and read_extent(ledger_path(self._log)).inode == inode:
            raise LogChanged(f"storage may still write to it ({self._log}): {HOW_TO_ROTATE}")

    def _record(self, file: Path, counts: Counts, until_replaced: ExitStack) -> None:
        """Prepare the archive for what is about to be erased, and record it. Raises OSError and TrackerError.

        The archiver is kept from this log until it is replaced.
        """
        if self._is_begun(file):
            lock = archiver_lock_path(self._log)
            try:
                until_replaced.enter_context(open_exclusively(lock))
            except HeldByAnother as error:
                raise HeldByAnother(
                    "it is being archived: give this command again when `tracker archive` has ended, or was stopped"
                ) from error
            except OSError as error:
                raise TrackerError(f"its archiving was begun, and {lock} cannot be locked: {reason(error)}") from error
        if self._is_begun(file):  # the archiver may have ended it just before it released the lock
            if self._take_back is None:
                raise TrackerError(
                    "its archiving was begun, and archive.url does not say where. Set it; or, if that archive is not "
                    f"kept, remove {archiving_path(self._log, file)}"
                )
            self._take_back(file, counts.before)
        self._report.record(str(file), counts)

    def _is_begun(self, file: Path) -> bool:
        """Whether the archive may have a part of the log. With a marker that counts, whatever its time, it has all."""
        return archiving_path(self._log, file).exists() and read_marker(archived_marker(self._log, file)) is None

    def _done(self, file: Path, counts: Counts) -> None:
        self._report.done(str(file), counts)
        if counts.other_names and counts.total_selected and not self._report.dry_run:
            self._report.say(
                f"{file}: it had {counts.other_names} other names (hard links), under which these lines still exist"
            )
        if counts.unreadable:
            self._report.fail(
                str(file), f"{counts.unreadable} lines are no lines of visits and were kept: look at them"
            )

    def print_not_read(self) -> None:
        """Name the other files beside the log that may have lines. Raises OSError.

        They are copies of torn appends, what people put there, and the live log.
        """
        if not self._named:
            for file in beside_the_log(self._log):
                if file not in (*self.seen, self._log) and file.is_file() and size_of(file):
                    self._report.say(f"not read: {file}")
        if size_of(self._log):
            self._report.say(
                f"not read: {self._log}, the live log; to erase in it, {HOW_TO_ROTATE}, then give this command again"
            )
