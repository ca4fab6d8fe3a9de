"""The files of the outbox: what each is called and which process owns it. No other module knows these names.

    <outbox.dir>/
      publisher.lock        locked by the main process, the only publisher of the outbox; holds its process number
      refused.ndjson        the lines of messages that SNS refuses; written by the publisher
      <journal id>.new/     a journal that a worker is about to make; not complete yet
      <journal id>/         a journal
        lock                locked by the worker that appends; by the publisher once that worker has ended
        <20 digits>         a segment; its name is the offset of its first byte; written by the worker
        published           the committed offset, 20 digits; written by the publisher
      <journal id>.bad/     a journal that could not be read; renamed by the publisher, kept for the operator

A journal id is 32 hexadecimal digits. Code that only reads the outbox (the doctor, a test) takes no lock.
"""

import os
import re
from pathlib import Path

from tracker.core.message import JOURNAL_ID

_PUBLISHER_LOCK = "publisher.lock"
_REFUSED = "refused.ndjson"
_NEW = ".new"
_BAD = ".bad"
_LOCK = "lock"
_COMMITTED = "published"
_OFFSET = re.compile(r"[0-9]{20}")


def publisher_lock(outbox: Path) -> Path:
    """The lock of the process that publishes the outbox."""
    return outbox / _PUBLISHER_LOCK


def refused_lines(outbox: Path) -> Path:
    """Where the lines of refused messages are kept. The file is there only after a message was refused."""
    return outbox / _REFUSED


def is_journal(name: str) -> bool:
    """Whether `name` is the directory name of a complete journal."""
    return JOURNAL_ID.fullmatch(name) is not None


def is_new_journal(name: str) -> bool:
    """Whether `name` is the directory name of a journal that is not complete."""
    return name.endswith(_NEW) and is_journal(name.removesuffix(_NEW))


def journals(outbox: Path) -> list[Path]:
    """The complete journals, by name. Raises OSError."""
    return sorted(outbox / name for name in os.listdir(outbox) if is_journal(name))


def bad_journals(outbox: Path) -> list[Path]:
    """The journals that were set aside because they could not be read, by name. Raises OSError."""
    return sorted(outbox / name for name in os.listdir(outbox) if name.endswith(_BAD))


def new_path(journal: Path) -> Path:
    """The path that a journal has until it is complete."""
    return journal.with_name(journal.name + _NEW)


def bad_path(journal: Path) -> Path:
    """The path of a journal after it was set aside."""
    return journal.with_name(journal.name + _BAD)


def journal_id(journal: Path) -> str:
    """The id of a journal, also of one that was set aside."""
    return journal.name.removesuffix(_BAD)


def is_segment(path: Path) -> bool:
    """Whether `path` has the name of a segment of a journal."""
    return _OFFSET.fullmatch(path.name) is not None


def foreign_files(journal: Path) -> list[Path]:
    """What is in the directory of a journal and is no file of it, by name. Raises OSError."""
    return sorted(path for path in journal.iterdir() if path.name not in (_LOCK, _COMMITTED) and not is_segment(path))


def lock_path(journal: Path) -> Path:
    """The lock of the process that owns the journal."""
    return journal / _LOCK


def committed_path(journal: Path) -> Path:
    """The file with the committed offset."""
    return journal / _COMMITTED


def segment_path(journal: Path, start: int) -> Path:
    """The segment whose first byte has the offset `start`."""
    return journal / f"{start:020d}"


def segments(journal: Path) -> list[int]:
    """The offsets at which the segments begin, ascending. Raises OSError."""
    return sorted(int(name) for name in os.listdir(journal) if _OFFSET.fullmatch(name))


def committed_offset(journal: Path) -> int:
    """Up to which offset SNS has accepted everything of the journal.

    It is 0 if the file is missing, cannot be read or holds anything else. If 0 is wrong, lines are published again, and
    no visit is lost.
    """
    try:
        text = committed_path(journal).read_text("latin-1")
    except OSError:
        return 0
    return int(text) if _OFFSET.fullmatch(text) else 0


def write_committed_offset(journal: Path, offset: int) -> None:
    """Overwrite the committed offset in place. Raises OSError.

    It is not synced: if a power cut loses it, lines are published again, and no visit is lost.
    """
    fd = os.open(committed_path(journal), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o640)
    try:
        os.pwrite(fd, b"%020d" % offset, 0)
    finally:
        os.close(fd)


def waiting_bytes(journal: Path) -> int:
    """How many bytes of the journal SNS has not accepted yet, including an incomplete line. Raises OSError."""
    starts = segments(journal)
    if not starts:
        return 0
    end = starts[-1] + segment_path(journal, starts[-1]).stat().st_size
    return max(0, end - committed_offset(journal))
