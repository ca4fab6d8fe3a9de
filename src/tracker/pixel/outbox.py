"""The outbox as main sees it: the directory of journals, which process owns each journal, and how much it holds.

Only the main process that holds the publisher's lock reads the outbox. A scan looks at each journal: if a worker holds
its lock, it is a live journal; if the lock is free, it is an orphan, which is adopted here and removed once SNS has
accepted all of it. Everything in this module blocks on the disk: call it from threads.
"""

import contextlib
import errno
import logging
import os
import shutil
import threading
import time
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from tracker.errors import ConfigurationError
from tracker.files import OPERATOR_FAULTS, make_directory, refuse_network_file_system, sync_directory, take_lock
from tracker.pixel.journal_reader import JournalReader
from tracker.pixel.outbox_files import is_journal, is_new_journal, publisher_lock, refused_lines

log = logging.getLogger(__name__)

COUNT_BYTES = 256 << 20  # a scan counts the lines in this many bytes of a journal, the next scans those in the rest
UNFINISHED_SECONDS = 60.0  # a journal that still has its temporary name after this time is removed

_NO_LINK = os.O_CLOEXEC | os.O_NOFOLLOW  # the pixel makes no symbolic links; somebody else's may point anywhere


class _Figures(NamedTuple):
    """What a journal holds: bytes that wait for SNS, the time of the oldest of these visits, and bytes of all files."""

    committed: int
    waiting: int
    oldest: datetime | None
    size: int


class Outbox:
    """The directory of journals. This process is its only publisher."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.journals: list[JournalReader] = []  # those of live workers first
        self.size = 0  # bytes of all files
        self.waiting = 0  # bytes that SNS has not accepted
        self.removed: list[JournalReader] = []  # removed or set aside; the reader of this list empties it
        self.oldest: datetime | None = None  # when the first waiting visit was answered
        self._known: dict[str, JournalReader] = {}
        self._figures: dict[JournalReader, _Figures] = {}  # of orphans whose lines are all counted
        self._earlier: frozenset[str] = frozenset()  # names that were here before this run of the pixel
        self._logged: set[str] = set()  # names that could not be read; each is logged once
        self._scanning = threading.Lock()
        self._lock: int | None = None

    @property
    def is_open(self) -> bool:
        return self._lock is not None

    def open(self) -> None:
        """Make the directory and lock it.

        Raises ConfigurationError for an error that an operator has to fix. Raises HeldByAnother while another pixel has
        the lock. Raises OSError while the disk is full, failing or read-only; it may recover.
        """
        if self.is_open:
            return
        try:
            make_directory(self.directory, 0o750)
            refuse_network_file_system(self.directory, "outbox.dir")
            sync_directory(self.directory)  # if the file system refuses this, no journal can be made durable
            self._lock = take_lock(
                publisher_lock(self.directory),
                f"outbox.dir: expected a directory that no other pixel uses, {self.directory}",
            )
            self._earlier = frozenset(os.listdir(self.directory))
        except OSError as error:
            self.close()
            if error.errno in OPERATOR_FAULTS:
                raise ConfigurationError(
                    f"outbox.dir: expected a directory that can be written, {self.directory}: {error.strerror}"
                ) from error
            raise

    def close(self) -> None:
        """Release the lock."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def scan(self) -> int:
        """Read the directory again, and return how many journals were adopted. Raises OSError if it cannot be read."""
        with self._scanning:
            adopted = size = waiting = 0
            there: dict[str, JournalReader] = {}
            ages: list[datetime] = []
            for entry in sorted(os.scandir(self.directory), key=lambda entry: entry.name):
                try:
                    if is_journal(entry.name) and entry.is_dir(follow_symlinks=False):
                        # A reader stays for as long as its journal is there: it knows what is counted and published.
                        journal = there[entry.name] = self._known.get(entry.name) or self._reader_of(Path(entry.path))
                        adopted += journal.adopt()
                        figures = self._figures_of(entry, journal)
                        waiting += figures.waiting
                        ages += filter(None, [figures.oldest])
                        size += figures.size
                        continue
                    if is_new_journal(entry.name):
                        _remove_unfinished(entry)
                    size += _tree_size(entry)
                except FileNotFoundError:
                    continue  # the publisher or a worker has removed it meanwhile
                except OSError as error:
                    self._log_once(entry.name, error)
            for name in self._known.keys() - there.keys():
                self.removed.append(self._known[name])
                self._figures.pop(self._known[name], None)
            self._known = there
            self.oldest = min(ages, default=None)
            self.journals = sorted(there.values(), key=lambda journal: journal.orphaned)
            self.size, self.waiting = size, waiting
            return adopted

    def forget(self, journal: JournalReader) -> None:
        """Leave a journal out of `journals` until the next scan."""
        with contextlib.suppress(ValueError):
            self.journals.remove(journal)

    def known(self) -> list[JournalReader]:
        """Every journal of the last scan, also those that the publisher has removed since."""
        return list(self._known.values())

    def keep_refused(self, lines: bytes) -> None:
        """Append the lines of a refused message to `refused.ndjson`, all of them or none, and make them durable.

        Raises OSError if that fails. The caller must not advance the journal then.
        """
        fd = os.open(refused_lines(self.directory), os.O_WRONLY | os.O_APPEND | os.O_CREAT | _NO_LINK, 0o640)
        try:
            length = os.fstat(fd).st_size
            if os.write(fd, lines) != len(lines):
                os.ftruncate(fd, length)
                raise OSError(errno.ENOSPC, "short write")
            os.fsync(fd)
        finally:
            os.close(fd)
        sync_directory(self.directory)

    def _figures_of(self, entry: "os.DirEntry[str]", journal: JournalReader) -> _Figures:
        """What one journal holds.

        Nobody appends to an orphan. So its figures are kept until its committed offset moves: a scan of many orphans
        that wait must not read the files of all of them.
        """
        orphaned, committed, counted = journal.orphaned, journal.committed, journal.lines_counted
        kept = self._figures.get(journal)
        if kept is not None and kept.committed == committed:
            return kept
        journal.count(limit=COUNT_BYTES)
        figures = _Figures(committed, journal.waiting(), journal.oldest(), _tree_size(entry))
        if orphaned and journal.lines_counted == counted:
            self._figures[journal] = figures
        return figures

    def _log_once(self, name: str, error: OSError) -> None:
        if name not in self._logged:
            log.error(
                "entry_read_failed name=%r error=%s; This entry of the outbox cannot be read. Visits in it are not "
                "published. Check its permissions and the disk.",
                name,
                error.strerror,
            )
        self._logged.add(name)

    def _reader_of(self, path: Path) -> JournalReader:
        return JournalReader(path, earlier=path.name in self._earlier)


def _remove_unfinished(entry: "os.DirEntry[str]") -> None:
    """Remove a journal that its worker did not finish making. It holds no visit."""
    if time.time() - entry.stat(follow_symlinks=False).st_mtime > UNFINISHED_SECONDS:
        shutil.rmtree(entry.path, ignore_errors=True)


def _tree_size(entry: "os.DirEntry[str]") -> int:
    if entry.is_dir(follow_symlinks=False):
        return sum(_tree_size(inner) for inner in os.scandir(entry.path))
    return entry.stat(follow_symlinks=False).st_size
