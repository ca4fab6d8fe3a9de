"""What the visit log holds: the stored intervals of every journal, and the one append that is under way.

The ledger is why a visit that comes twice, or half of it again, is written once. The protocol, which `begin` and the
writer keep together:

1. One commit merges the previous append, which is durable by then, and records the next one as pending: its offset in
   the log, its length, its CRC-32, and what it newly stores.
2. The writer appends, calls fdatasync, and then calls `durable`. An append for which `durable` was not called is never
   merged.
3. After a crash at most the pending append is in doubt. Its length and CRC-32 tell the next start whether the log has
   it.

No work for one message grows with the number of a journal's intervals beyond O(log n), and no periodic work with the
number of journals: intervals are found by index, and sums (what is stored of each journal, what is missing of all) are
kept by triggers of the database, in the transaction that changes what they count. `tracker audit` counts them anew.

All calls are synchronous and belong to one thread, the writer's. Times are SQS's, in milliseconds since 1970.
"""

import os
import sqlite3
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from tracker.core import spans
from tracker.errors import AppendFailed, LedgerBusy, LedgerDamaged, LedgerMoved, LogChanged, StorageFull

DAY_MS = 86_400_000
SEEN_MS = 14 * DAY_MS  # SQS keeps a message no longer
JOURNAL_MS = 180 * DAY_MS
PRUNE_MS = 60_000  # by SQS's clock, between two prunings
PRUNED_MESSAGES = 1_000  # at most in one commit, which adds at most as many
PRUNED_ROWS = 100  # of journals and their intervals, at most in one commit
KEPT_SPANS = 100_000  # whose CRC-32 is known; some 15 MB
COMPARED_SPANS = 100  # at most with one message
START_BUSY_SECONDS = 10.0  # how long a start waits for another program's lock
BUSY_SECONDS = 0.5  # how long the writer's thread waits for one; the writer itself pauses and tries again
# SQLite says of ENOSPC alone that the disk is full. A quota, a limit of file sizes or an index of the write-ahead log
# that finds no room is one of these. The transaction is rolled back, so it can be tried again. After a failed fsync,
# which has a code of its own, it must not be.
_UNWRITTEN = {sqlite3.SQLITE_IOERR_WRITE, sqlite3.SQLITE_IOERR_SHMSIZE}
COST_OF_A_NEW_LEDGER = (
    "Visits that the log has already and whose messages SQS delivers again, from the queue or by a redrive, are then "
    "written a second time, and every journal that goes on shows a gap before its next byte"
)

# Each entry brings a ledger from the layout of its index to the next.
_LAYOUTS = (
    """
CREATE TABLE log (id INTEGER PRIMARY KEY CHECK (id = 1), size INTEGER NOT NULL, clock_ms INTEGER NOT NULL);
CREATE TABLE journal (id TEXT PRIMARY KEY, heard_ms INTEGER NOT NULL, closed_end INTEGER) WITHOUT ROWID;
CREATE TABLE stored (journal TEXT, start INTEGER, "end" INTEGER, PRIMARY KEY (journal, start)) WITHOUT ROWID;
CREATE TABLE seen (message_id TEXT PRIMARY KEY, at_ms INTEGER NOT NULL) WITHOUT ROWID;
CREATE INDEX seen_at ON seen (at_ms);
CREATE TABLE pending (
    id INTEGER PRIMARY KEY CHECK (id = 1), offset INTEGER NOT NULL, length INTEGER NOT NULL, crc32 INTEGER NOT NULL);
CREATE TABLE pending_range (journal TEXT, start INTEGER, "end" INTEGER);
CREATE TABLE pending_seen (message_id TEXT, at_ms INTEGER);
""",
    # since_ms: when the gap before this interval was first seen. excused: the operator gave its gaps up.
    """
ALTER TABLE log ADD COLUMN inode INTEGER;
ALTER TABLE log ADD COLUMN rotating TEXT;
ALTER TABLE journal ADD COLUMN excused INTEGER NOT NULL DEFAULT 0;
ALTER TABLE stored ADD COLUMN since_ms INTEGER NOT NULL DEFAULT 0;
UPDATE stored SET since_ms = coalesce((SELECT heard_ms FROM journal WHERE id = journal), 0);
""",
    # Of a journal, stored: the bytes of its intervals; top: the end of the last one that it ever had.
    # total: what is missing of all journals, in bytes. A sum of so many numbers could exceed 63 bits, so it is kept in
    # two halves: missing = high * 2^32 + low. journals: of how many journals something is missing.
    # span: the CRC-32 of the last spans that brought something new, as they were received.
    """
ALTER TABLE journal ADD COLUMN stored INTEGER NOT NULL DEFAULT 0;
ALTER TABLE journal ADD COLUMN top INTEGER NOT NULL DEFAULT 0;
INSERT OR IGNORE INTO journal (id, heard_ms) SELECT DISTINCT journal, since_ms FROM stored;
UPDATE journal SET stored = counted.bytes, top = counted.last FROM
    (SELECT journal AS of, sum("end" - start) AS bytes, max("end") AS last FROM stored GROUP BY journal) AS counted
    WHERE id = counted.of;
ALTER TABLE journal ADD COLUMN missing INTEGER GENERATED ALWAYS AS
    (CASE WHEN excused THEN 0 ELSE max(coalesce(closed_end, 0), top) - stored END) VIRTUAL;
ALTER TABLE journal ADD COLUMN may_go INTEGER GENERATED ALWAYS AS
    (excused OR (closed_end IS NOT NULL AND missing = 0)) VIRTUAL;
CREATE INDEX journal_may_go ON journal (heard_ms) WHERE may_go;
CREATE TABLE total (
    id INTEGER PRIMARY KEY CHECK (id = 1), high INTEGER NOT NULL, low INTEGER NOT NULL, journals INTEGER NOT NULL);
INSERT INTO total SELECT 1, coalesce(sum(missing >> 32), 0), coalesce(sum(missing & 4294967295), 0),
    coalesce(sum(missing > 0), 0) FROM journal;
CREATE TRIGGER stored_added AFTER INSERT ON stored BEGIN
    UPDATE journal SET stored = stored + new."end" - new.start, top = max(top, new."end") WHERE id = new.journal;
END;
CREATE TRIGGER stored_changed AFTER UPDATE OF start, "end" ON stored BEGIN
    UPDATE journal SET stored = stored + new."end" - new.start - old."end" + old.start, top = max(top, new."end")
        WHERE id = new.journal;
END;
CREATE TRIGGER stored_removed AFTER DELETE ON stored BEGIN
    UPDATE journal SET stored = stored - old."end" + old.start WHERE id = old.journal;
END;
CREATE TRIGGER journal_changed AFTER UPDATE OF stored, top, closed_end, excused ON journal
    WHEN new.missing <> old.missing BEGIN
    UPDATE total SET high = high + (new.missing >> 32) - (old.missing >> 32),
        low = low + (new.missing & 4294967295) - (old.missing & 4294967295),
        journals = journals + (new.missing > 0) - (old.missing > 0);
END;
CREATE TRIGGER journal_removed AFTER DELETE ON journal WHEN old.missing <> 0 BEGIN
    UPDATE total SET high = high - (old.missing >> 32), low = low - (old.missing & 4294967295),
        journals = journals - (old.missing > 0);
END;
CREATE TABLE span (
    number INTEGER PRIMARY KEY, journal TEXT NOT NULL, start INTEGER NOT NULL, "end" INTEGER NOT NULL,
    crc32 INTEGER NOT NULL);
CREATE INDEX span_range ON span (journal, start, "end");
CREATE TABLE pending_span (journal TEXT, start INTEGER, "end" INTEGER, crc32 INTEGER);
""",
)
LAYOUT = len(_LAYOUTS)


class Checksum(NamedTuple):
    """The CRC-32 of the bytes `[start, end)` of a journal, as a message brought them."""

    start: int
    end: int
    crc32: int


class Gaps(NamedTuple):
    """What is missing of all journals: how many bytes, and of how many journals."""

    size: int
    journals: int


@dataclass(slots=True)
class Append:
    """What one append adds to the log, and what its messages say besides.

    Every journal that `ranges` or `closed` name must be in `heard`.
    """

    data: bytearray = field(default_factory=bytearray)
    ranges: dict[str, list[tuple[int, int]]] = field(default_factory=dict)  # newly stored; ascending, disjoint
    checksums: dict[str, list[Checksum]] = field(default_factory=dict)  # of the spans that these ranges come from
    seen: dict[str, int] = field(default_factory=dict)  # MessageId of messages without our attributes -> sent
    heard: dict[str, int] = field(default_factory=dict)  # journal -> latest sent
    closed: dict[str, int] = field(default_factory=dict)  # journal -> its end

    def begin_line(self, ends_mid_line: bool) -> None:
        """Begin with a newline exactly if the log ends within a line; no line of ours is empty."""
        if self.data.startswith(b"\n"):
            del self.data[:1]
        if self.data and ends_mid_line:
            self.data[:0] = b"\n"


@dataclass(frozen=True, slots=True)
class Pending:
    """The append that the ledger recorded last: where it begins, how to know it again, what it newly stores."""

    offset: int
    length: int
    crc32: int
    ranges: dict[str, list[tuple[int, int]]]
    checksums: dict[str, list[Checksum]]
    seen: dict[str, int]

    @property
    def end(self) -> int:
        return self.offset + self.length


class Ledger:
    """`ledger.sqlite`.

    Raises an AppendPaused when the disk is full, another program has locked the file, or the file was moved; then the
    call can be made again. Raises LedgerDamaged for a damaged file, AppendFailed for any other error of SQLite.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        _probe(path)
        with sqlite_errors(path):
            self._db = sqlite3.connect(path, timeout=START_BUSY_SECONDS, isolation_level=None)
            try:
                self._open()
            except BaseException:
                self._db.close()
                raise
        self._pending_is_durable = False
        self._pruned_ms = 0

    def _open(self) -> None:
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = FULL")
        self._db.execute("PRAGMA wal_autocheckpoint = 100")
        self._db.execute("PRAGMA journal_size_limit = 4194304")  # bytes; a long reader lets the WAL grow beyond
        # What is read now may be in the page cache alone, after an fsync that failed: no commit may build on that.
        if self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]:
            raise LedgerBusy(f"{self._path} is being read by another program and cannot be made durable")
        # All of it is read (0.5 s for a million journals). Damage that a message finds first would
        # end one start after the other, each with messages in flight, until these are dead letters.
        if (found := self._db.execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
            raise _damaged(self._path, found)
        version = self._db.execute("PRAGMA user_version").fetchone()[0]
        if version > LAYOUT:
            raise LogChanged(
                f"{self._path} has layout {version}, this release knows {LAYOUT}: use the release that wrote it"
            )
        for number, layout in enumerate(_LAYOUTS[version:], version + 1):
            self._db.executescript(f"BEGIN IMMEDIATE; {layout} PRAGMA user_version = {number}; COMMIT;")
        row = self._db.execute("SELECT size, clock_ms, inode, rotating FROM log").fetchone()
        self._size: int | None = row[0] if row else None
        self._clock_ms: int = row[1] if row else 0
        self.inode: int | None = row[2] if row else None  # of the log file, to know it again under another name
        self.rotating: str | None = row[3] if row else None  # the name that the log is being moved to
        self.pending = self._read_pending()
        self._db.execute(f"PRAGMA busy_timeout = {BUSY_SECONDS * 1000:.0f}")
        self._identity = self._look()

    @property
    def size(self) -> int | None:
        """Bytes of the log up to the last durable append; None before the ledger has met a log."""
        if self.pending is not None and self._pending_is_durable:
            return self.pending.end
        return self._size

    @property
    def is_settled(self) -> bool:
        return self.pending is None

    def missing(
        self, journal: str, span: tuple[int, int], besides: Sequence[tuple[int, int]] = ()
    ) -> list[tuple[int, int]]:
        """The parts of a span that neither a durable append nor `besides` (ascending, disjoint) holds."""
        with sqlite_errors(self._path):
            stored = [interval[:2] for interval in self._stored(journal, *span)]
        if self.pending is not None and self._pending_is_durable:
            stored += spans.overlapping(span, self.pending.ranges.get(journal, []))
        return spans.subtract(span, [*stored, *spans.overlapping(span, besides)])

    def checksums(self, journal: str, span: tuple[int, int]) -> list[Checksum]:
        """The checksums of ranges within the span that messages of durable appends have brought, in no order.

        Of those that begin where the span begins it is the longest, so the span's own range is never left out. Of those
        that begin later there are at most `COMPARED_SPANS`. The last `KEPT_SPANS` spans are known.
        """
        with sqlite_errors(self._path):
            rows = self._db.execute(
                'SELECT * FROM (SELECT start, "end", crc32 FROM span WHERE journal = ?1 AND start = ?2 AND "end" <= ?3'
                ' ORDER BY "end" DESC LIMIT 1) UNION ALL SELECT * FROM (SELECT start, "end", crc32 FROM span'
                " WHERE journal = ?1 AND start > ?2 AND start < ?3 ORDER BY start LIMIT ?4)",
                (journal, *span, COMPARED_SPANS),
            ).fetchall()
        found = [Checksum(*row) for row in rows]
        if self.pending is not None and self._pending_is_durable:
            found += self.pending.checksums.get(journal, [])
        return [each for each in found if span[0] <= each.start and each.end <= span[1]]

    def has_seen(self, message_id: str) -> bool:
        """Whether a durable append holds the visit of this message."""
        if self.pending is not None and self._pending_is_durable and message_id in self.pending.seen:
            return True
        with sqlite_errors(self._path):
            return self._db.execute("SELECT 1 FROM seen WHERE message_id = ?", (message_id,)).fetchone() is not None

    def gaps(self) -> Gaps:
        """Bytes before the last stored one of a journal, or before its end, that are not stored, nor given up.

        The pending append counts as stored.
        """
        with sqlite_errors(self._path):
            high, low, journals = self._db.execute("SELECT high, low, journals FROM total").fetchone()
            size = (high << 32) + low
            for journal, ranges in self.pending.ranges.items() if self.pending else ():
                row = self._db.execute(
                    "SELECT stored, max(coalesce(closed_end, 0), top) FROM journal WHERE id = ? AND NOT excused",
                    (journal,),
                ).fetchone()
                if row is not None:
                    stored, last = row
                    missing = max(last, ranges[-1][1]) - stored - sum(end - start for start, end in ranges)
                    size += missing - (last - stored)
                    journals += (missing > 0) - (last > stored)
        return Gaps(size, journals)

    def begin(self, append: Append) -> None:
        """One commit: the previous append, if durable, is merged; this one, if it has data, is pending."""
        size = self.size
        if size is None:
            raise LogChanged("the ledger has not met its log yet")
        assert self.rotating is None or not append.data, "which file would it be pending in?"
        assert append.ranges.keys() | append.closed.keys() <= append.heard.keys(), "whose sums could not be kept"
        pending = None
        if append.data:
            crc = zlib.crc32(append.data)
            pending = Pending(
                size, len(append.data), crc, dict(append.ranges), dict(append.checksums), dict(append.seen)
            )
        clock_ms = max(self._clock_ms, *append.heard.values(), *append.seen.values(), 0)
        pruned = False
        with self._transaction():
            if self.pending is not None and self._pending_is_durable:
                self._merge(self.pending)
            self._note(append)
            self._record(pending)
            self._db.execute("UPDATE log SET size = ?, clock_ms = ?", (size, clock_ms))
            if clock_ms - self._pruned_ms >= PRUNE_MS:
                pruned = self._prune(clock_ms)
        # Only now, so that a failed commit can be tried again as if it had never been.
        self.pending, self._pending_is_durable = pending, False
        self._size, self._clock_ms = size, clock_ms
        if pruned:
            self._pruned_ms = clock_ms

    def durable(self) -> None:
        """The pending append is on the disk: the next commit may merge it."""
        self._pending_is_durable = True

    def settle(self) -> None:
        """One commit that merges and clears the pending append: when idle, and at a clean stop."""
        if self.pending is not None:
            self.begin(Append())

    def adopt(self, size: int, inode: int) -> None:
        """Go on with this file, `size` bytes, as the log; a pending append that is not durable is void."""
        self.settle()
        with self._transaction():
            self._db.execute("REPLACE INTO log VALUES (1, ?, ?, ?, NULL)", (size, self._clock_ms, inode))
        self._size, self.inode, self.rotating = size, inode, None

    def rotate_to(self, name: str | None) -> None:
        """Note that the log, settled, is about to be moved to `name`; None when it was not."""
        assert self.is_settled, "what is pending would be looked for in the wrong file"
        with self._transaction():
            self._db.execute("UPDATE log SET rotating = ?", (name,))
        self.rotating = name

    def close(self) -> None:
        self._db.close()

    def _stored(self, journal: str, start: int, end: int) -> list[tuple[int, int, int]]:
        """The intervals (start, end, since_ms) that overlap or touch `[start, end)`: one look-up, and those within."""
        rows: list[tuple[int, int, int]] = self._db.execute(
            'SELECT * FROM (SELECT start, "end", since_ms FROM stored WHERE journal = ?1 AND start <= ?2'
            " ORDER BY start DESC LIMIT 1) UNION ALL"
            ' SELECT start, "end", since_ms FROM stored WHERE journal = ?1 AND start > ?2 AND start <= ?3',
            (journal, start, end),
        ).fetchall()
        rows.sort()
        return rows[1:] if rows and rows[0][1] < start else rows

    def _merge(self, pending: Pending) -> None:
        for journal, ranges in pending.ranges.items():
            for start, end in ranges:
                self._merge_range(journal, start, end)
        self._db.execute('INSERT INTO span (journal, start, "end", crc32) SELECT * FROM pending_span')
        self._db.execute("DELETE FROM span WHERE number <= (SELECT max(number) FROM span) - ?", (KEPT_SPANS,))
        self._db.executemany("INSERT OR IGNORE INTO seen VALUES (?, ?)", pending.seen.items())

    def _merge_range(self, journal: str, start: int, end: int) -> None:
        touching = self._stored(journal, start, end)
        end = max([end, *(high for _, high, _ in touching)])
        heard_ms: int = self._db.execute("SELECT heard_ms FROM journal WHERE id = ?", (journal,)).fetchone()[0]
        since_ms = min([heard_ms, *(since for _, _, since in touching)])
        if touching and touching[0][0] <= start:  # the usual case: the journal goes on where it ended
            first, *touching = touching
            self._db.execute(
                'UPDATE stored SET "end" = ?, since_ms = ? WHERE journal = ? AND start = ?',
                (end, since_ms, journal, first[0]),
            )
        else:
            self._db.execute("INSERT INTO stored VALUES (?, ?, ?, ?)", (journal, start, end, since_ms))
        self._db.executemany(
            "DELETE FROM stored WHERE journal = ? AND start = ?", [(journal, other) for other, _, _ in touching]
        )

    def _note(self, append: Append) -> None:
        self._db.executemany(
            "INSERT INTO journal (id, heard_ms) VALUES (?, ?)"
            " ON CONFLICT (id) DO UPDATE SET heard_ms = max(heard_ms, excluded.heard_ms)",
            append.heard.items(),
        )
        self._db.executemany(
            "UPDATE journal SET closed_end = max(coalesce(closed_end, 0), ?) WHERE id = ?",
            [(end, journal) for journal, end in append.closed.items()],
        )

    def _record(self, pending: Pending | None) -> None:
        for table in ("pending", "pending_range", "pending_span", "pending_seen"):
            self._db.execute(f"DELETE FROM {table}")
        if pending is None:
            return
        self._db.execute("INSERT INTO pending VALUES (1, ?, ?, ?)", (pending.offset, pending.length, pending.crc32))
        self._db.executemany("INSERT INTO pending_range VALUES (?, ?, ?)", _rows(pending.ranges))
        self._db.executemany("INSERT INTO pending_span VALUES (?, ?, ?, ?)", _rows(pending.checksums))
        self._db.executemany("INSERT INTO pending_seen VALUES (?, ?)", pending.seen.items())

    def _read_pending(self) -> Pending | None:
        row = self._db.execute("SELECT offset, length, crc32 FROM pending").fetchone()
        if row is None:
            return None
        ranges: dict[str, list[tuple[int, int]]] = {}
        for journal, start, end in self._db.execute('SELECT journal, start, "end" FROM pending_range ORDER BY start'):
            ranges.setdefault(journal, []).append((start, end))
        checksums: dict[str, list[Checksum]] = {}
        for journal, *checksum in self._db.execute('SELECT journal, start, "end", crc32 FROM pending_span'):
            checksums.setdefault(journal, []).append(Checksum(*checksum))
        seen: dict[str, int] = dict(self._db.execute("SELECT message_id, at_ms FROM pending_seen").fetchall())
        offset, length, crc32 = row
        return Pending(offset, length, crc32, ranges, checksums, seen)

    def _prune(self, clock_ms: int) -> bool:
        """Forget what cannot come again; open journals and those with gaps stay until the operator gives them up.

        Removes a bounded number of rows; whether all that may go is gone.
        """
        messages = self._db.execute(
            "DELETE FROM seen WHERE message_id IN (SELECT message_id FROM seen WHERE at_ms < ? LIMIT ?)",
            (clock_ms - SEEN_MS, PRUNED_MESSAGES),
        ).rowcount
        rows = 0
        for (journal,) in self._db.execute(
            "SELECT id FROM journal WHERE may_go AND heard_ms < ? ORDER BY heard_ms LIMIT ?",
            (clock_ms - JOURNAL_MS, PRUNED_ROWS),
        ).fetchall():
            intervals = self._db.execute(
                "DELETE FROM stored WHERE journal = ?1 AND start IN"
                " (SELECT start FROM stored WHERE journal = ?1 ORDER BY start LIMIT ?2)",
                (journal, PRUNED_ROWS),
            ).rowcount
            if intervals < PRUNED_ROWS:  # else the next commit goes on with this journal
                self._db.execute("DELETE FROM journal WHERE id = ?", (journal,))
            rows += intervals + 1
            if rows >= PRUNED_ROWS:
                break
        return messages < PRUNED_MESSAGES and rows < PRUNED_ROWS

    def _look(self) -> list[tuple[int, int]]:
        """What the names of the database, its write-ahead log and the index of that lead to now."""
        names = [self._path, *(self._path.with_name(self._path.name + suffix) for suffix in ("-wal", "-shm"))]
        return [(status.st_dev, status.st_ino) for status in map(os.stat, names)]

    def _check_identity(self) -> None:
        try:
            found: object = self._look()
        except OSError as error:
            found = error.strerror
        if found != self._identity:
            what = found if isinstance(found, str) else "other files have its names"
            raise LedgerMoved(
                f"{self._path} was removed, moved or replaced under the running service ({what}): move the same files "
                f"back. If they are gone for good, restart storage; a new ledger begins. {COST_OF_A_NEW_LEDGER}"
            )

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._check_identity()
        with sqlite_errors(self._path):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise


def _rows(of: dict[str, list[tuple[int, int]]] | dict[str, list[Checksum]]) -> list[tuple[str | int, ...]]:
    return [(journal, *each) for journal, many in of.items() for each in many]


def _probe(path: Path) -> None:
    """Raise the system's own error for a file that cannot be opened; SQLite says the same of each: cannot open."""
    try:
        # Before SQLite opens it: closing any descriptor of the file would drop the locks that SQLite has on it.
        os.close(os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC))
    except FileNotFoundError:
        pass  # SQLite makes it


def _damaged(path: Path, what: object) -> LedgerDamaged:
    return LedgerDamaged(
        f"{path} is damaged: {what}. Start once with --accept-log: the damaged ledger is kept aside, a new one begins. "
        f"{COST_OF_A_NEW_LEDGER}"
    )


@contextmanager
def sqlite_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # without what extends it
        if code == sqlite3.SQLITE_FULL:
            raise StorageFull(f"no room for the ledger {path}: {error}") from error
        if getattr(error, "sqlite_errorcode", 0) in _UNWRITTEN:
            raise StorageFull(
                f"the ledger {path} cannot be written ({error}): check quotas, limits of file sizes, and the disk"
            ) from error
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise LedgerBusy(f"another program has locked {path} ({error}): let it end") from error
        if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            raise _damaged(path, error) from error
        raise AppendFailed(f"the ledger {path} cannot be used: {error}") from error
