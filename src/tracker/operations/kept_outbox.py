"""Reads the outbox of a host that does not run any more, from a copy of its disk. Nothing in the copy is changed.

1. An outbox that a running pixel uses is refused: that pixel publishes it. `publisher.lock` shows whether one does.
   While the outbox is read, this process has a shared lock on that file, so no pixel can start with the outbox.
2. Each journal is read by the reader that also reads orphans, from its committed offset to its last whole line. A line
   without its newline was never answered. Damaged lines are left out and reported. So are bytes that are not there: a
   copy may be incomplete, and whoever made it may still have the disk.
3. Its end marker follows, as after an orphan. Journals that were set aside as `<id>.bad` are read as far as possible.
4. `refused.ndjson` is a file of lines: the caller reads it.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tracker.core.message import end_marker
from tracker.core.visit import MAX_JOURNAL_LINE_BYTES
from tracker.errors import TrackerError
from tracker.operations.kept_messages import Kept, Unusable
from tracker.pixel import outbox_files
from tracker.pixel.journal_reader import JournalReader, UnreadableJournal
from tracker.pixel.packer import Packer
from tracker.pixel.segments import read_segments


def is_outbox(directory: Path) -> bool:
    """Whether `directory` is an outbox. Raises OSError."""
    return bool(
        outbox_files.journals(directory)
        or outbox_files.bad_journals(directory)
        or outbox_files.publisher_lock(directory).exists()
        or outbox_files.refused_lines(directory).exists()
    )


@contextmanager
def unused_outbox(directory: Path) -> Iterator[list[Path]]:
    """The journals of an outbox, which no pixel can use meanwhile. Raises TrackerError if one uses it, and OSError."""
    try:
        lock = os.open(outbox_files.publisher_lock(directory), os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        lock = None
    try:
        if lock is not None:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                raise TrackerError("a running pixel uses this outbox, and publishes it itself") from None
        yield outbox_files.journals(directory) + outbox_files.bad_journals(directory)
    finally:
        if lock is not None:
            os.close(lock)


def journal_messages(path: Path) -> Iterator[Kept | Unusable]:
    """The messages for what SNS has not accepted of this journal."""
    journal = outbox_files.journal_id(path)
    packer = Packer(journal)
    try:
        for file in outbox_files.foreign_files(path):
            yield Unusable(str(file), "no file of a journal: was it renamed or compressed?", could_not_read=True)
        reader = JournalReader(path)
        offset = reader.committed
        while (span := reader.take(packer.limit("packed"), offset)) is not None:
            if span.skipped:
                yield Unusable(f"{path} before offset {span.start}", f"{span.skipped} damaged lines")
            elif span.start > offset:
                yield _missing(path, offset, span.start)
            offset = span.start
            if span.data:
                [message] = packer.messages(span, "packed")
                yield Kept(message, f"{path}, offset {span.start}")
                offset = message.end
        end = max((segment.end for segment in read_segments(path)), default=0)
        if end - offset > MAX_JOURNAL_LINE_BYTES:
            yield _missing(path, offset, end)
        if offset:
            yield Kept(end_marker(journal, offset), str(path))
    except (UnreadableJournal, OSError) as error:
        yield Unusable(str(path), f"it cannot be read to its end: {error}", could_not_read=True)


def _missing(path: Path, start: int, end: int) -> Unusable:
    return Unusable(
        str(path),
        f"the bytes [{start}, {end}) are not there. Copy the journal again, if its disk still exists. Otherwise SNS "
        "had accepted them, or their visits are lost: tracker audit shows it",
        could_not_read=True,
    )
