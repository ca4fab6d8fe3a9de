"""Reads outboxes in two ways. Nothing in them is changed.

The outbox of a host that does not run any more, from a copy of its disk (`unused_outbox`):

1. An outbox that a running pixel uses is refused: that pixel publishes it. `publisher.lock` shows whether one does.
   While the outbox is read, this process has a shared lock on that file, so no pixel can start with the outbox.
2. Each journal is read by the reader that also reads orphans, from its committed offset to its last whole line. A line
   without its newline was never answered. Damaged lines are left out and reported. So are bytes that are not there: a
   copy may be incomplete, and whoever made it may still have the disk.
3. Its end marker follows, as after an orphan. Journals that were set aside as `<id>.bad` are read as far as possible.
4. `refused.ndjson` is a file of lines: the caller reads it.

All that the segments of an outbox hold, also what SNS has accepted already (`read_published`). It brings back what was
lost between SNS and storage. The outbox may be a copy, or that of a running pixel:

1. Each journal is read from the first byte of its oldest segment to its last newline. Its worker may append meanwhile,
   and never changes or cuts off a whole line. No lock is taken, so no pixel waits.
2. No end marker is published, because the end of a journal is not known here: in a copy it looks as if its worker had
   ended. The pixel publishes the true one when it removes the journal.
3. If the pixel removes a segment while it is read, the journal is reported as not read to its end.
"""

import fcntl
import os
from collections.abc import Iterable, Iterator
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


def read_published(paths: Iterable[Path]) -> Iterator[tuple[str, Kept | Unusable]]:
    """The messages of all that these outboxes, or journals of outboxes, hold, each with the name of its journal."""
    for path in paths:
        try:
            if outbox_files.is_journal(outbox_files.journal_id(path)):
                journals = [path]
            else:
                journals = outbox_files.journals(path) + outbox_files.bad_journals(path)
        except OSError as error:
            yield str(path), Unusable(str(path), f"it cannot be read: {error.strerror}", could_not_read=True)
            continue
        if not journals:
            yield str(path), Unusable(str(path), "it holds no journal; expected an outbox, or a journal of one")
        for journal in journals:
            yield from ((str(journal), each) for each in journal_messages(journal, published=True))


def journal_messages(path: Path, *, published: bool = False) -> Iterator[Kept | Unusable]:
    """The messages for what SNS has not accepted of this journal, and its end marker.

    With `published`, those for all that its segments hold, without an end marker.
    """
    journal = outbox_files.journal_id(path)
    packer = Packer(journal)
    try:
        for file in outbox_files.foreign_files(path):
            yield Unusable(str(file), "no file of a journal: was it renamed or compressed?", could_not_read=True)
        reader = JournalReader(path)
        offset = min(outbox_files.segments(path), default=0) if published else reader.committed
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
        if offset and not published:
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
