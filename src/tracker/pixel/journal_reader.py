"""One journal as the publisher sees it: what of it waits, how far SNS has it, and its end.

Reads to the last newline only, so that it never reads what its maker may still cut. A journal whose lock is free is an
orphan, which is adopted. Every line is checked before it is published: a power cut, a failing disk or bad memory may
have made anything of it, and storage takes a message with one line that is no visit for malformed as a whole. A change
that leaves a valid visit (another letter in a page, say) cannot be detected.
Everything in this module blocks on the disk: call it from threads.
"""

import contextlib
import errno
import fcntl
import itertools
import logging
import os
import socket
import threading
import time
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from tracker.core.visit import addresses_of, decode_line, split_lines
from tracker.errors import MalformedMessage
from tracker.pixel import outbox_files
from tracker.pixel.outbox_files import lock_path, segment_path

log = logging.getLogger("tracker.pixel.journal_reader")

ABANDONED_SECONDS = 60.0  # nobody writes to a journal that is silent for so long and has no lock

COUNT_BYTES = 1 << 20  # read at a time
LONG_LINE = 65_536  # more than the longest line: two headers of 2,048 characters, twelve bytes each at worst

_UNREADABLE = {errno.EIO, errno.EUCLEAN, errno.EBADMSG} if hasattr(errno, "EUCLEAN") else {errno.EIO}


class Span(NamedTuple):
    """Whole lines `[start, end)` of a journal, each of them a visit.

    `skipped` damaged lines stand before `start`. `more` says that other lines probably follow.
    """

    start: int
    data: bytes
    skipped: int = 0
    more: bool = False

    @property
    def end(self) -> int:
        return self.start + len(self.data)


class UnreadableJournal(Exception):
    """The files of a journal contradict each other or cannot be read."""


class JournalReader:
    """The publisher's side of one journal. `published` is the offset up to which SNS has everything.

    `found` is how many lines were seen behind it since this reader was made; `earlier` says that they are of an earlier
    run of the pixel.
    """

    def __init__(self, path: Path, *, earlier: bool = False) -> None:
        self.path = path
        self.name = path.name
        self._lock: int | None = None  # held by us once its maker is gone
        self.published = outbox_files.committed_offset(path)
        self.earlier = earlier
        self.found = 0
        self._counted = self.published  # every line before it is in `found`
        self._counting = threading.Lock()
        self._oldest: tuple[int, datetime | None] = (-1, None)

    @property
    def orphaned(self) -> bool:
        return self._lock is not None

    def adopt(self) -> bool:
        """Take the journal over if its maker is gone; whether that happened now."""
        if self._lock is not None:
            return False
        try:
            lock = os.open(lock_path(self.path), os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            if self._maker_may_live():
                return False
            lock = os.open(lock_path(self.path), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(lock).st_ino != os.stat(lock_path(self.path)).st_ino:
                raise OSError(errno.ESTALE, "the lock is another file now")
        except OSError:
            os.close(lock)
            return False
        self._lock = lock
        return True

    def waiting(self) -> int:
        """Bytes that SNS has not accepted yet, a torn tail included."""
        starts = outbox_files.segments(self.path)
        return max(0, starts[-1] + self._size(starts[-1]) - self.published) if starts else 0

    def count(self, *, to: int | None = None, limit: int | None = None) -> None:
        """Find the lines up to the offset `to`, or all there are; stop after `limit` bytes, if one is given."""
        left = limit
        with self._counting:
            starts = outbox_files.segments(self.path)
            for segment, following in itertools.zip_longest(starts, starts[1:]):
                if (to is not None and self._counted >= to) or (left is not None and left <= 0):
                    return
                end = segment + self._size(segment) if following is None else following
                self._counted = max(self._counted, segment)
                while self._counted < (end if to is None else min(end, to)) and (left is None or left > 0):
                    data = self._pread(segment, self._counted - segment, min(COUNT_BYTES, end - self._counted))
                    whole = len(data)
                    if following is None and self._counted + whole >= end:
                        whole = data.rfind(b"\n") + 1  # its maker may still cut what is behind
                    if not whole:
                        break
                    self.found += data.count(b"\n")
                    self._counted += whole
                    left = None if left is None else left - whole

    def oldest(self) -> datetime | None:
        """When the first visit that waits was answered; None when none waits or its line is damaged."""
        offset = self.published
        if self._oldest[0] != offset or self._oldest[1] is None:
            try:
                span = self.take(LONG_LINE)
                time = decode_line(span.data[: span.data.index(b"\n") + 1]).time if span and span.data else None
            except (MalformedMessage, UnreadableJournal):
                time = None
            self._oldest = (offset, time)
        return self._oldest[1]

    def take(self, limit: int, start: int | None = None) -> Span | None:
        """The next whole lines, at most `limit` bytes of them; None when there are none (yet).

        They are the first that are not published, or the first from the offset `start` on.
        """
        offset = self.published if start is None else start
        try:
            starts = outbox_files.segments(self.path)
            for index, segment in enumerate(starts):
                end = segment + self._size(segment)
                if index + 1 < len(starts) and end > starts[index + 1]:
                    raise UnreadableJournal(f"segment {segment} reaches into {starts[index + 1]}")
                offset = max(offset, segment)  # a power cut may have taken what was before
                while offset < end:
                    data = self._pread(segment, offset - segment, min(limit, end - offset))
                    if lines := data[: data.rfind(b"\n") + 1]:
                        return _sound(offset, lines, more=len(lines) > limit - LONG_LINE)
                    if offset + len(data) >= end:
                        break  # a tail without newline was never answered
                    offset += len(data)  # no line is so long: the rest of it is counted as damaged
        except OSError as error:
            if error.errno in _UNREADABLE:
                raise UnreadableJournal(str(error)) from error
            raise
        return None

    def advance(self, offset: int) -> None:
        """Note that SNS has everything before `offset`, and remove the segments that lie before it."""
        if offset == self.published:
            return
        self.published = offset
        with contextlib.suppress(OSError):  # it only saves repeats
            outbox_files.write_committed_offset(self.path, offset)
        for segment, following in itertools.pairwise(outbox_files.segments(self.path)):
            if following <= offset:
                os.unlink(segment_path(self.path, segment))

    def retire(self) -> None:
        """Remove the journal; its lock goes last, so that a crash in between leaves an orphan and not a riddle."""
        for segment in outbox_files.segments(self.path):
            os.unlink(segment_path(self.path, segment))
        outbox_files.committed_path(self.path).unlink(missing_ok=True)
        lock_path(self.path).unlink(missing_ok=True)
        try:
            self.path.rmdir()
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            log.error("journal_not_empty journal=%s holds files that are none of ours", self.name)
            self.set_aside()
        self.release()

    def set_aside(self) -> None:
        """Put an unreadable journal out of the way, for the operator to look at."""
        self.path.rename(outbox_files.bad_path(self.path))
        self.release()

    def release(self) -> None:
        lock, self._lock = self._lock, None
        if lock is not None:
            os.close(lock)

    def _size(self, segment: int) -> int:
        return os.stat(segment_path(self.path, segment)).st_size

    def _pread(self, segment: int, at: int, count: int) -> bytes:
        if count <= 0:
            return b""
        fd = os.open(segment_path(self.path, segment), os.O_RDONLY | os.O_CLOEXEC)
        try:
            return os.pread(fd, count, at)
        finally:
            os.close(fd)

    def _maker_may_live(self) -> bool:
        """Without a lock file only silence tells: a live maker notices within a second and begins anew."""
        newest = max((os.stat(entry).st_mtime for entry in os.scandir(self.path)), default=0.0)
        return time.time() - newest < ABANDONED_SECONDS


def _sound(start: int, data: bytes, *, more: bool) -> Span:
    """The first run of lines that are visits."""
    if _are_visits(data):
        return Span(start, data, more=more)
    skipped = begin = end = 0
    for line in split_lines(data):
        try:
            sound = line.isascii() and decode_line(line) is not None
        except MalformedMessage:
            sound = False
        if not sound:
            if end > begin:
                break
            skipped += 1
            begin = end = end + len(line)
        else:
            end += len(line)
    return Span(start + begin, data[begin:end], skipped, more or end < len(data))


def _are_visits(data: bytes) -> bool:
    """Whether all lines are visits. This check of all at once is fast; only if it fails, each line is checked."""
    try:
        for address in addresses_of(data):
            socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)
    except (MalformedMessage, OSError, ValueError):
        return False
    return True
