"""The ledger's books as others read them: for each journal what is stored, what is missing and since when.

Reads one consistent state, also while storage writes. A gap is an interval that lies before stored bytes, or before the
end that the journal's closing message named, and that no append has stored.
"""

import itertools
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from tracker.core import spans
from tracker.errors import AppendFailed, TrackerError
from tracker.storage.ledger import LAYOUT


@dataclass(frozen=True, slots=True)
class Gap:
    """Bytes `[start, end)` of a journal that are not stored; known since `since_ms`, by SQS's clock."""

    start: int
    end: int
    since_ms: int

    @property
    def size(self) -> int:
        return self.end - self.start


@dataclass(frozen=True, slots=True)
class Account:
    """One journal. Times are SQS's, in milliseconds since 1970."""

    journal: str
    heard_ms: int
    closed_end: int | None
    """Where its closing message says it ended; None while it is open."""
    excused: bool
    """The operator gave its gaps up."""
    stored_bytes: int
    gaps: tuple[Gap, ...]


@dataclass(frozen=True, slots=True)
class Books:
    """The whole ledger. The log holds `size` bytes for certain; up to `pending_end` an append is under way."""

    size: int
    pending_end: int
    inode: int | None
    accounts: tuple[Account, ...]


def read(ledger: Path) -> Books:
    """The state of `ledger.sqlite`. Raises TrackerError when it is not there or cannot be read."""
    with _connect(ledger, "ro") as db:
        db.execute("BEGIN")  # one state, whatever is committed while we read
        size, inode = db.execute("SELECT size, inode FROM log").fetchone() or (0, None)
        pending = db.execute("SELECT offset + length FROM pending").fetchone()
        intervals: dict[str, list[tuple[int, int, int]]] = {}
        rows = db.execute(
            'SELECT journal, start, "end", since_ms FROM stored UNION ALL'
            ' SELECT journal, start, "end", heard_ms FROM pending_range JOIN journal ON id = journal'
            " ORDER BY journal, start"
        )
        for journal, *interval in rows:
            intervals.setdefault(journal, []).append(tuple(interval))
        accounts = tuple(
            _account(intervals.get(journal, []), journal, heard_ms, closed_end, bool(excused))
            for journal, heard_ms, closed_end, excused in db.execute(
                "SELECT id, heard_ms, closed_end, excused FROM journal ORDER BY heard_ms, id"
            )
        )
        return Books(size, pending[0] if pending else size, inode, accounts)


def excuse(ledger: Path, journal: str) -> None:
    """Give the gaps of a journal up. What is stored of it stays known, for its messages may come again.

    Raises TrackerError when the ledger knows no such journal.
    """
    with _connect(ledger, "rw") as db, db:
        if not db.execute("UPDATE journal SET excused = 1 WHERE id = ?", (journal,)).rowcount:
            raise TrackerError(f"{ledger} knows no journal {journal}")


def _account(
    intervals: list[tuple[int, int, int]], journal: str, heard_ms: int, closed_end: int | None, excused: bool
) -> Account:
    gaps = tuple(_gaps(intervals, closed_end or 0, heard_ms))
    stored = sum(end - start for start, end in spans.merge((start, end) for start, end, _ in intervals))
    return Account(journal, heard_ms, closed_end, excused, stored, gaps)


def _gaps(intervals: Sequence[tuple[int, int, int]], closed_end: int, heard_ms: int) -> Iterator[Gap]:
    """Each gap, known since the first of what is stored beyond it."""
    known = [*itertools.accumulate((since for _, _, since in reversed(intervals)), min)][::-1]
    position = 0
    for (start, end, _), since_ms in zip(intervals, known, strict=True):
        if start > position:
            yield Gap(position, start, since_ms)
        position = max(position, end)
    if closed_end > position:
        yield Gap(position, closed_end, heard_ms)


@contextmanager
def _connect(ledger: Path, mode: str) -> Iterator[sqlite3.Connection]:
    if not ledger.is_file():
        raise TrackerError(f"{ledger}: there is no ledger; a storage that has run with this log has one")
    try:
        with closing(sqlite3.connect(f"file:{quote(str(ledger))}?mode={mode}", uri=True, timeout=10)) as db:
            if (found := db.execute("PRAGMA user_version").fetchone()[0]) != LAYOUT:
                raise TrackerError(
                    f"{ledger} has layout {found}, expected {LAYOUT}: start storage of this release once"
                )
            yield db
    except sqlite3.Error as error:
        raise AppendFailed(f"{ledger} cannot be read: {error}") from error
