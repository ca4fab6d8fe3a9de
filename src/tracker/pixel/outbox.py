"""The outbox as main sees it: the directory of journals, of whom each is, and how much it holds.

Main alone reads it, under `publisher.lock`. A journal whose lock is held is some worker's; one whose lock is free is an
orphan, taken over here and removed once SNS has all of it. Everything in this module blocks on the disk: call it from
threads.
"""

import errno
import logging
import os
import shutil
import threading
import time
from datetime import datetime
from pathlib import Path

from tracker.errors import ConfigurationError
from tracker.files import OPERATOR_FAULTS, make_directory, refuse_network_file_system, sync_directory, take_lock
from tracker.pixel.journal_reader import JournalReader
from tracker.pixel.outbox_files import is_journal, is_new_journal, publisher_lock, refused_lines

log = logging.getLogger("tracker.pixel.outbox")

COUNT_AT_A_LOOK = 256 << 20  # bytes; of a long backlog the rest is counted at the next look
ABANDONED_SECONDS = 60.0  # a journal still under its temporary name after that was never finished

_SAFELY = os.O_CLOEXEC | os.O_NOFOLLOW  # a link in the outbox is nothing that we made


class Outbox:
    """The directory of journals, of which this process is the one publisher."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.journals: list[JournalReader] = []  # those of live workers first
        self.size = 0  # bytes of all files
        self.waiting = 0  # bytes SNS has not accepted
        self.gone: list[JournalReader] = []  # removed, set aside or lost since somebody looked here
        self.oldest: datetime | None = None  # when the first visit that waits was answered
        self._known: dict[str, JournalReader] = {}
        self._earlier: frozenset[str] = frozenset()  # what was here before this pixel
        self._told: set[str] = set()  # names that cannot be read, said once each
        self._scanning = threading.Lock()
        self._lock: int | None = None

    @property
    def is_open(self) -> bool:
        return self._lock is not None

    def open(self) -> None:
        """Make the directory and lock it.

        Raises ConfigurationError for what an operator has to fix, HeldByAnother while another pixel has the lock,
        OSError for a disk that is full, failing or read-only and may recover.
        """
        if self.is_open:
            return
        try:
            make_directory(self.directory, 0o750)
            refuse_network_file_system(self.directory, "outbox.dir")
            sync_directory(self.directory)  # journals are made durable in it: where that is refused, none can be made
            lock = take_lock(
                publisher_lock(self.directory),
                f"outbox.dir: expected a directory that no other pixel uses, {self.directory}",
            )
        except OSError as error:
            if error.errno in OPERATOR_FAULTS:
                raise ConfigurationError(
                    f"outbox.dir: expected a directory that can be written, {self.directory}: {error.strerror}"
                ) from error
            raise
        self._earlier = frozenset(os.listdir(self.directory))
        self._lock = lock

    def close(self) -> None:
        for journal in self._known.values():
            journal.release()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def scan(self) -> int:
        """Look at the directory anew; how many journals were adopted."""
        with self._scanning:
            adopted = size = waiting = 0
            there: dict[str, JournalReader] = {}
            ages: list[datetime] = []
            for entry in sorted(os.scandir(self.directory), key=lambda entry: entry.name):
                try:
                    if is_journal(entry.name) and entry.is_dir(follow_symlinks=False):
                        # The same reader for as long as the journal is there: it may hold the lock.
                        journal = there[entry.name] = self._known.get(entry.name) or self._reader_of(Path(entry.path))
                        adopted += journal.adopt()
                        journal.count(limit=COUNT_AT_A_LOOK)
                        waiting += journal.waiting()
                        ages += filter(None, [journal.oldest()])
                    elif is_new_journal(entry.name):  # one that is being made, or was
                        self._sweep(entry)
                    size += _tree_size(entry)
                except FileNotFoundError:
                    continue  # removed while we looked, by the publisher or a worker
                except OSError as error:
                    if entry.name not in self._told:
                        log.error("outbox_entry_unreadable name=%r error=%s", entry.name, error.strerror)
                    self._told.add(entry.name)
            for name in self._known.keys() - there.keys():
                self._known[name].release()
                self.gone.append(self._known[name])
            self._known = there
            self.oldest = min(ages, default=None)
            self.journals = sorted(there.values(), key=lambda journal: journal.orphaned)
            self.size, self.waiting = size, waiting
            return adopted

    def forget(self, journal: JournalReader) -> None:
        """Leave a journal out until the next look at the directory."""
        self.journals = [other for other in self.journals if other is not journal]

    def known(self) -> list[JournalReader]:
        """Every journal of the last look, those too that the publisher has done with since."""
        return list(self._known.values())

    def give_up(self, lines: bytes) -> None:
        """Append the lines of a refused message to `refused.ndjson`, all of them or none, and make them durable.

        Raises OSError when that fails; the caller must not let the journal move on then.
        """
        fd = os.open(refused_lines(self.directory), os.O_WRONLY | os.O_APPEND | os.O_CREAT | _SAFELY, 0o640)
        try:
            length = os.fstat(fd).st_size
            if os.write(fd, lines) != len(lines):
                os.ftruncate(fd, length)
                raise OSError(errno.ENOSPC, "short write")
            os.fsync(fd)
        finally:
            os.close(fd)
        sync_directory(self.directory)

    def _reader_of(self, path: Path) -> JournalReader:
        return JournalReader(path, earlier=path.name in self._earlier)

    def _sweep(self, entry: "os.DirEntry[str]") -> None:
        if time.time() - entry.stat(follow_symlinks=False).st_mtime > ABANDONED_SECONDS:
            shutil.rmtree(entry.path, ignore_errors=True)


def _tree_size(entry: "os.DirEntry[str]") -> int:
    if entry.is_dir(follow_symlinks=False):
        return sum(_tree_size(inner) for inner in os.scandir(entry.path))
    return entry.stat(follow_symlinks=False).st_size
