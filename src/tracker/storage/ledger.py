"""What the visit log holds: the stored intervals of every journal, and the one append that is under way.

The ledger is why a visit that comes twice, or half again, is written once. Its promise hangs on an order that
`begin` and the writer keep between them: one commit merges the append before, durable by then, and names the next
as pending; then that one is written. A crash leaves at most the pending append in doubt, and its length and CRC-32
tell at the next start whether it is in the log. An append that was never called `durable` is never merged.

Synchronous, and used from one thread only: the writer's. Times are SQS's, in milliseconds since 1970.
"""

import sqlite3
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tracker.core import spans
from tracker.errors import AppendFailed, LogChanged, StorageFull

DAY_MS = 86_400_000
SEEN_MS = 14 * DAY_MS  # SQS keeps a message no longer
JOURNAL_MS = 180 * DAY_MS
PRUNE_MS = 60_000  # by SQS's clock, between two prunings

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
)
LAYOUT = len(_LAYOUTS)


@dataclass(slots=True)
class Append:
    """What one append adds to the log, and what its messages tell besides."""

    data: bytearray = field(default_factory=bytearray)
    ranges: dict[str, list[tuple[int, int]]] = field(default_factory=dict)
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
    """The append the ledger was told of last: where it begins, and how to know it again."""

    offset: int
    length: int
    crc32: int
    ranges: dict[str, list[tuple[int, int]]]
    seen: dict[str, int]

    @property
    def end(self) -> int:
        return self.offset + self.length


class Ledger:
    """`ledger.sqlite`; raises StorageFull when its disk is, AppendFailed for any other trouble."""

    def __init__(self, path: Path) -> None:
        with _sqlite_errors(), ExitStack() as closing_on_failure:
            self._db = sqlite3.connect(path, timeout=10, isolation_level=None)
            closing_on_failure.callback(self._db.close)
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = FULL")
            self._db.execute("PRAGMA wal_autocheckpoint = 100")
            # What is read now may be in the page cache alone, after an fsync that failed: no commit may build on that.
            if self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]:
                raise AppendFailed(f"{path} is being read by another process and cannot be made durable")
            version = self._db.execute("PRAGMA user_version").fetchone()[0]
            if version > LAYOUT:
                raise LogChanged(f"{path} has layout {version}, this release knows {LAYOUT}: use the one that wrote it")
            for number, layout in enumerate(_LAYOUTS[version:], version + 1):
                self._db.executescript(f"BEGIN IMMEDIATE; {layout} PRAGMA user_version = {number}; COMMIT;")
            row = self._db.execute("SELECT size, clock_ms, inode, rotating FROM log").fetchone()
            self._size: int | None = row[0] if row else None
            self._clock_ms: int = row[1] if row else 0
            self.inode: int | None = row[2] if row else None  # of the log file, to know it again under another name
            self.rotating: str | None = row[3] if row else None  # the name that the log is being moved to
            self.pending = self._read_pending()
            closing_on_failure.pop_all()
        self._pending_is_durable = False
        self._pruned_ms = 0

    @property
    def size(self) -> int | None:
        """Bytes of the log up to the last durable append; None before the ledger has met a log."""
        if self.pending is not None and self._pending_is_durable:
            return self.pending.end
        return self._size

    @property
    def is_settled(self) -> bool:
        return self.pending is None

    def missing(self, journal: str, span: tuple[int, int]) -> list[tuple[int, int]]:
        """The parts of a span that no durable append has stored."""
        with _sqlite_errors():
            stored: list[tuple[int, int]] = self._db.execute(
                'SELECT start, "end" FROM stored WHERE journal = ? AND start < ? AND "end" > ?',
                (journal, span[1], span[0]),
            ).fetchall()
        if self.pending is not None and self._pending_is_durable:
            stored = stored + self.pending.ranges.get(journal, [])
        return spans.subtract(span, stored)

    def has_seen(self, message_id: str) -> bool:
        """Whether a durable append holds the visit of this message."""
        if self.pending is not None and self._pending_is_durable and message_id in self.pending.seen:
            return True
        with _sqlite_errors():
            return self._db.execute("SELECT 1 FROM seen WHERE message_id = ?", (message_id,)).fetchone() is not None

    def missing_bytes(self) -> int:
        """Bytes before the last stored one of a journal, or before its end, that are not stored, nor given up."""
        with _sqlite_errors():
            missing: int = self._db.execute(
                "SELECT coalesce(sum(max(coalesce(closed_end, 0), coalesce(top, 0)) - coalesce(held, 0)), 0)"
                ' FROM journal LEFT JOIN (SELECT journal, max("end") AS top, sum("end" - start) AS held FROM'
                ' (SELECT journal, start, "end" FROM stored UNION ALL SELECT journal, start, "end" FROM pending_range)'
                " GROUP BY journal) ON journal = id WHERE NOT excused"
            ).fetchone()[0]
        return missing

    def begin(self, append: Append) -> None:
        """One commit: the previous append, if durable, is merged; this one, if it has data, is pending."""
        size = self.size
        if size is None:
            raise LogChanged("the ledger has not met its log yet")
        assert self.rotating is None or not append.data, "which file would it be pending in?"
        pending = None
        if append.data:
            crc = zlib.crc32(append.data)
            pending = Pending(size, len(append.data), crc, dict(append.ranges), dict(append.seen))
        clock_ms = max(self._clock_ms, *append.heard.values(), *append.seen.values(), 0)
        prune = clock_ms - self._pruned_ms >= PRUNE_MS
        with self._transaction():
            if self.pending is not None and self._pending_is_durable:
                self._merge(self.pending)
            self._note(append)
            self._record(pending)
            self._db.execute("UPDATE log SET size = ?, clock_ms = ?", (size, clock_ms))
            if prune:
                self._prune(clock_ms)
        # Only now, so that a failed commit can be tried again as if it had never been.
        self.pending, self._pending_is_durable = pending, False
        self._size, self._clock_ms = size, clock_ms
        if prune:
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

    def _merge(self, pending: Pending) -> None:
        for journal, ranges in pending.ranges.items():
            for start, end in ranges:
                self._merge_range(journal, start, end)
        self._db.executemany("INSERT OR IGNORE INTO seen VALUES (?, ?)", pending.seen.items())

    def _merge_range(self, journal: str, start: int, end: int) -> None:
        touching: list[tuple[int, int, int]] = self._db.execute(
            'SELECT start, "end", since_ms FROM stored WHERE journal = ? AND start <= ? AND "end" >= ?',
            (journal, end, start),
        ).fetchall()
        self._db.executemany(
            "DELETE FROM stored WHERE journal = ? AND start = ?", [(journal, other) for other, _, _ in touching]
        )
        heard = self._db.execute("SELECT heard_ms FROM journal WHERE id = ?", (journal,)).fetchone()
        since_ms = min([*(since for _, _, since in touching), *(heard or (0,))])
        for merged in spans.merge([*((low, high) for low, high, _ in touching), (start, end)]):
            self._db.execute("INSERT INTO stored VALUES (?, ?, ?, ?)", (journal, *merged, since_ms))

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
        for table in ("pending", "pending_range", "pending_seen"):
            self._db.execute(f"DELETE FROM {table}")
        if pending is None:
            return
        self._db.execute("INSERT INTO pending VALUES (1, ?, ?, ?)", (pending.offset, pending.length, pending.crc32))
        rows = [(journal, *span) for journal, ranges in pending.ranges.items() for span in ranges]
        self._db.executemany("INSERT INTO pending_range VALUES (?, ?, ?)", rows)
        self._db.executemany("INSERT INTO pending_seen VALUES (?, ?)", pending.seen.items())

    def _read_pending(self) -> Pending | None:
        row = self._db.execute("SELECT offset, length, crc32 FROM pending").fetchone()
        if row is None:
            return None
        ranges: dict[str, list[tuple[int, int]]] = {}
        for journal, start, end in self._db.execute('SELECT journal, start, "end" FROM pending_range'):
            ranges.setdefault(journal, []).append((start, end))
        seen: dict[str, int] = dict(self._db.execute("SELECT message_id, at_ms FROM pending_seen").fetchall())
        offset, length, crc32 = row
        return Pending(offset, length, crc32, ranges, seen)

    def _prune(self, clock_ms: int) -> None:
        """Forget what cannot come again. Open journals and those with gaps stay: they are news to somebody."""
        self._db.execute("DELETE FROM seen WHERE at_ms < ?", (clock_ms - SEEN_MS,))
        old = self._db.execute(
            "SELECT id, closed_end, excused FROM journal WHERE heard_ms < ? AND (excused OR closed_end IS NOT NULL)",
            (clock_ms - JOURNAL_MS,),
        ).fetchall()
        for journal, closed_end, excused in old:
            stored = self._db.execute('SELECT start, "end" FROM stored WHERE journal = ?', (journal,)).fetchall()
            end = max([closed_end or 0, *(end for _, end in stored)])
            if excused or not spans.subtract((0, end), stored):
                self._db.execute("DELETE FROM stored WHERE journal = ?", (journal,))
                self._db.execute("DELETE FROM journal WHERE id = ?", (journal,))

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with _sqlite_errors():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise


@contextmanager
def _sqlite_errors() -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL:
            raise StorageFull(f"no room for the ledger: {error}") from error
        raise AppendFailed(f"the ledger cannot be used: {error}") from error
