"""The ledger as other processes read it: for each journal what is stored, what is missing, and since when.

Readers work on a copy of the ledger, which is made in one step. So they see one consistent state while storage writes.
A long transaction on the ledger itself would keep SQLite from shortening its write-ahead log during that time.

A gap is an interval that no append has stored and that lies before stored bytes, or before the end that the journal's
end marker named.
"""

import errno
import itertools
import os
import sqlite3
import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from tracker.errors import LedgerBusy, TrackerError, UnknownJournal
from tracker.storage.ledger_schema import DAY_MS, KNOWN_END, LAYOUT, sqlite_errors, total_missing
from tracker.visit_log_files import sqlite_files

BUSY_SECONDS = 10.0  # how long a reader waits for the lock of another program
GIVEN_UP_AT_ONCE = 500  # journals in one transaction, so that storage never waits longer than about 20 ms for its end


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
    latest_ms: int
    closed_end: int | None
    """Where its end marker says it ended; None while it is open."""
    given_up: bool
    """Whether the operator has given up its gaps."""
    stored_bytes: int
    gaps: tuple[Gap, ...]


@dataclass(frozen=True, slots=True)
class Extent:
    """The length that the ledger expects of the log: at least `size` bytes, and up to `pending_end` during an append.

    `inode` is the log's, None before the ledger has recorded a log.
    """

    size: int
    pending_end: int
    inode: int | None


class LedgerCopy:
    """A copy of the ledger, in which the pending append counts as stored. Memory does not grow with the journals."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self.extent = _extent(db)
        self._db = db
        db.execute(
            'INSERT OR IGNORE INTO stored (journal, start, "end", since_ms)'
            ' SELECT journal, start, "end", latest_ms FROM pending_range JOIN journal ON id = journal'
        )

    def accounts(self) -> Iterator[Account]:
        """Every journal, in the order of their latest messages."""
        rows = self._db.execute(
            f"SELECT id, latest_ms, closed_end, given_up, stored, {KNOWN_END} > stored FROM journal"
            " ORDER BY latest_ms, id"
        )
        for journal, latest_ms, closed_end, given_up, stored, has_gaps in rows:
            gaps = tuple(self._gaps(journal, closed_end or 0, latest_ms)) if has_gaps else ()
            yield Account(journal, latest_ms, closed_end, bool(given_up), stored, gaps)

    def stored(self) -> Iterator[tuple[str, int, int]]:
        """What is stored: journal, start and end of each interval, in ascending order."""
        return iter(self._db.execute('SELECT journal, start, "end" FROM stored ORDER BY journal, start'))

    def wrong_sums(self) -> Iterator[str]:
        """The sums of the ledger that differ from a full count; none, unless the ledger is damaged."""
        rows = self._db.execute(
            "SELECT id, stored, top,"
            ' (SELECT coalesce(sum("end" - start), 0) FROM stored AS each WHERE each.journal = id) AS bytes,'
            ' (SELECT coalesce(max("end"), 0) FROM stored AS each WHERE each.journal = id) AS last'
            " FROM journal WHERE stored <> bytes OR (top <> last AND NOT given_up)"
        )
        for journal, stored, top, counted, last in rows:
            yield f"journal {journal}: the ledger has {stored} bytes up to {top}, a count gives {counted} up to {last}"
        kept = self._db.execute("SELECT high, low, journals FROM total").fetchone()
        # In halves, because a sum of forged ends could exceed SQLite's integers.
        found = self._db.execute(
            "SELECT coalesce(sum(missing >> 32), 0), coalesce(sum(missing & 4294967295), 0),"
            " coalesce(sum(missing > 0), 0) FROM journal"
        ).fetchone()
        if kept != found:
            yield f"all journals: the ledger has {_total_text(*kept)}, a count gives {_total_text(*found)}"

    def _gaps(self, journal: str, closed_end: int, latest_ms: int) -> Iterator[Gap]:
        """The gaps of a journal. A gap is known since the time when the first bytes after it were stored."""
        intervals: Sequence[tuple[int, int, int]] = self._db.execute(
            'SELECT start, "end", since_ms FROM stored WHERE journal = ? ORDER BY start', (journal,)
        ).fetchall()
        known = [*itertools.accumulate((since for _, _, since in reversed(intervals)), min)][::-1]
        position = 0
        for (start, end, _), since_ms in zip(intervals, known, strict=True):
            if start > position:
                yield Gap(position, start, since_ms)
            position = max(position, end)
        if closed_end > position:
            yield Gap(position, closed_end, latest_ms)


@contextmanager
def open_copy(ledger: Path) -> Iterator[LedgerCopy]:
    """A copy of `ledger.sqlite` as it is now, in a temporary file that SQLite makes and removes.

    Raises TrackerError when the ledger is not there or cannot be read.
    """
    with sqlite_errors(ledger), closing(sqlite3.connect("", isolation_level=None)) as copy:
        with _connect(ledger, "ro") as db:
            db.backup(copy)
        yield LedgerCopy(copy)


def read_extent(ledger: Path) -> Extent:
    """What the log should hold now. Raises TrackerError when the ledger is not there or cannot be read."""
    with _connect(ledger, "ro") as db:
        db.execute("BEGIN")  # one state, whatever is committed while we read
        return _extent(db)


def stored_ends(ledger: Path, journals: Iterable[str]) -> dict[str, int]:
    """Where the last stored interval of each of these journals ends; 0 if nothing is stored, without those given up.

    The pending append counts as stored. Raises TrackerError when the ledger is not there or cannot be read.
    """
    ends: dict[str, int] = {}
    with _connect(ledger, "ro") as db:
        db.execute("BEGIN")
        for journal in journals:
            top, given_up = db.execute("SELECT top, given_up FROM journal WHERE id = ?", (journal,)).fetchone() or (
                0,
                0,
            )
            (pending,) = db.execute('SELECT max("end") FROM pending_range WHERE journal = ?', (journal,)).fetchone()
            if not given_up:
                ends[journal] = max(top, pending or 0)
    return ends


def give_up(ledger: Path, journal: str) -> None:
    """Give up the gaps of a journal. Its stored intervals are kept, because its messages may be delivered again.

    Raises UnknownJournal when the ledger knows no such journal.
    """
    with _connect(ledger, "rw") as db:
        if not db.execute("UPDATE journal SET given_up = 1 WHERE id = ?", (journal,)).rowcount:
            raise UnknownJournal(f"{ledger} knows no journal {journal}")


def give_up_silent(ledger: Path, days: float) -> int:
    """Give up all journals that are open or have gaps and had no message for this many days. Returns their number.

    The days are counted back from the time of the latest message that storage has read, by SQS's clock. So no journal
    becomes silent while storage is down. Storage may be running.
    """
    count, last = 0, ""
    with _connect(ledger, "rw") as db:
        (clock_ms,) = db.execute("SELECT clock_ms FROM log").fetchone() or (0,)
        before = int(max(0.0, clock_ms - days * DAY_MS))
        while silent := db.execute(
            "SELECT id FROM journal WHERE id > ? AND latest_ms < ? AND NOT removable ORDER BY id LIMIT ?",
            (last, before, GIVEN_UP_AT_ONCE),
        ).fetchall():
            db.execute("BEGIN IMMEDIATE")
            for (journal,) in silent:
                count += db.execute(
                    "UPDATE journal SET given_up = 1 WHERE id = ? AND latest_ms < ?", (journal, before)
                ).rowcount
            db.execute("COMMIT")
            last = silent[-1][0]
    return count


def _extent(db: sqlite3.Connection) -> Extent:
    size, inode = db.execute("SELECT size, inode FROM log").fetchone() or (0, None)
    pending = db.execute("SELECT offset + length FROM pending").fetchone()
    return Extent(size, pending[0] if pending else size, inode)


def _total_text(high: int, low: int, journals: int) -> str:
    return f"{total_missing(high, low)} missing bytes of {journals} journals"


def _problem(ledger: Path) -> str | None:
    """Why SQLite could not read this file; None when no reason is known.

    The file is not opened, because closing it would release the locks that SQLite holds on it in this process.
    """
    try:
        status = ledger.stat()
    except FileNotFoundError:
        return f"{ledger} does not exist: storage creates it when it first runs with this log"
    except OSError as error:
        return f"{ledger} cannot be read: {error.strerror}"
    if not stat.S_ISREG(status.st_mode):
        return f"{ledger} cannot be read: it is not a regular file"
    if not os.access(ledger, os.R_OK):
        return f"{ledger} cannot be read: {os.strerror(errno.EACCES)}"
    if not status.st_size:
        return f"{ledger} is empty: start storage, which reports what to do"
    return None


@contextmanager
def _connect(ledger: Path, mode: str) -> Iterator[sqlite3.Connection]:
    if problem := _problem(ledger):
        raise TrackerError(problem)
    _, ahead, _ = sqlite_files(ledger)
    # A stopped storage leaves no write-ahead log. SQLite creates one even to read, and a user who may only read cannot.
    # `immutable` reads without one. A storage that starts meanwhile creates it.
    stopped = mode == "ro" and not ahead.exists() and not os.access(ledger.parent, os.W_OK)
    uri = f"file:{quote(str(ledger))}?mode={mode}{'&immutable=1' if stopped else ''}"
    with (
        sqlite_errors(ledger),
        closing(sqlite3.connect(uri, uri=True, timeout=BUSY_SECONDS, isolation_level=None)) as db,
    ):
        if (found := db.execute("PRAGMA user_version").fetchone()[0]) != LAYOUT:
            raise TrackerError(
                f"{ledger} has layout {found}, expected {LAYOUT}: start storage once in the release of this command"
            )
        yield db
        if stopped and ahead.exists():
            raise LedgerBusy(f"storage has started while {ledger} was read: try again")
