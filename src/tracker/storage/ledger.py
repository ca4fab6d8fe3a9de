"""The ledger: which bytes of every journal the visit log holds, and the one append that is in progress.

The writer asks it which bytes are stored, so a visit that is delivered twice is written once. The ledger and the writer
follow this protocol:

1. `begin` makes one commit. It merges the previous append, which is durable by then, and records the next append as
   pending: its offset in the log, its length, its CRC-32, and the ranges of journals that it newly stores.
2. The writer appends, calls fdatasync, and then calls `durable`. An append without a call of `durable` is never merged.
3. After a crash the log may have the pending append or not. The next start finds out by its length and CRC-32.
4. `checkpoint` merges and clears the pending append without a next one: when the writer is idle, before a rotation, and
   at a clean stop.

No work for one message grows with the number of a journal's intervals beyond O(log n), and no periodic work grows with
the number of journals. Intervals are found by index. Sums (what is stored of each journal, what is missing of all) are
kept by triggers of the database (`ledger_schema`), in the transaction that changes what they count. `tracker audit`
counts them again.

All calls are synchronous and are made in one thread, the writer's. Times are milliseconds since 1970 by SQS's clock.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from isal import isal_zlib

from tracker.core import spans
from tracker.errors import LedgerMoved, LogChanged
from tracker.storage import intervals
from tracker.storage import pending as pending_append
from tracker.storage.ledger_pruning import PRUNE_MS, prune
from tracker.storage.ledger_schema import COST_OF_A_NEW_LEDGER, KNOWN_END, connect, sqlite_errors, total_missing
from tracker.storage.pending import Append, Checksum, Pending
from tracker.visit_log_files import sqlite_files

KEPT_SPANS = 100_000  # how many spans' CRC-32 the ledger keeps; about 15 MB
COMPARED_SPANS = 100  # a repeated message is compared with at most this many stored spans


class Gaps(NamedTuple):
    """What is missing of all journals: how many bytes, and of how many journals."""

    size: int
    journals: int


class Ledger:
    """The file `ledger.sqlite`, as the writer uses it.

    Raises an AppendPaused when the disk is full, another program has locked the file, or the file was moved; then the
    call can be made again. Raises LedgerDamaged for a damaged file, AppendFailed for any other error of SQLite.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.db = connect(path)  # for the owner thread only
        try:
            with sqlite_errors(path):
                row = self.db.execute("SELECT size, clock_ms, inode, rotating FROM log").fetchone()
                self.pending = pending_append.read(self.db)
            self._identity = self._files()
        except BaseException:
            self.db.close()
            raise
        self._size: int | None = row[0] if row else None
        self._clock_ms: int = row[1] if row else 0
        self.inode: int | None = row[2] if row else None  # of the log, to recognise it under another name
        self.rotating: str | None = row[3] if row else None  # the name to which a rotation is renaming the log
        self._pending_is_durable = False
        self._pruned_ms = 0

    @property
    def size(self) -> int | None:
        """Bytes of the log up to the last durable append; None before the ledger has recorded a log."""
        durable = self._durable_pending
        return durable.end if durable else self._size

    def missing(
        self, journal: str, span: tuple[int, int], besides: Sequence[tuple[int, int]] = ()
    ) -> list[tuple[int, int]]:
        """The parts of a span that are neither in a durable append nor in `besides` (ascending, disjoint)."""
        with sqlite_errors(self._path):
            stored = [interval[:2] for interval in intervals.touching(self.db, journal, *span)]
        if durable := self._durable_pending:
            stored += spans.overlapping(span, durable.ranges.get(journal, []))
        return spans.subtract(span, [*stored, *spans.overlapping(span, besides)])

    def checksums(self, journal: str, span: tuple[int, int]) -> list[Checksum]:
        """The checksums of durable spans that lie within `span`, unordered.

        Of those that begin where `span` begins, the longest is returned, so a repeat of exactly this span is always
        compared. Of those that begin later, at most `COMPARED_SPANS` are returned. The last `KEPT_SPANS` spans are
        known.
        """
        with sqlite_errors(self._path):
            rows = self.db.execute(
                'SELECT * FROM (SELECT start, "end", crc32 FROM span WHERE journal = ?1 AND start = ?2 AND "end" <= ?3'
                ' ORDER BY "end" DESC LIMIT 1) UNION ALL SELECT * FROM (SELECT start, "end", crc32 FROM span'
                " WHERE journal = ?1 AND start > ?2 AND start < ?3 ORDER BY start LIMIT ?4)",
                (journal, *span, COMPARED_SPANS),
            ).fetchall()
        found = [Checksum(*row) for row in rows]
        if durable := self._durable_pending:
            found += durable.checksums.get(journal, [])
        return [each for each in found if span[0] <= each.start and each.end <= span[1]]

    def has_seen(self, message_id: str) -> bool:
        """Whether a durable append holds the visit of this message."""
        if (durable := self._durable_pending) and message_id in durable.seen:
            return True
        with sqlite_errors(self._path):
            return self.db.execute("SELECT 1 FROM seen WHERE message_id = ?", (message_id,)).fetchone() is not None

    def gaps(self) -> Gaps:
        """What is missing of all journals whose gaps the operator has not given up.

        Missing are the bytes before a journal's last stored byte, or before its end, that are not stored. The pending
        append counts as stored.
        """
        with sqlite_errors(self._path):
            high, low, journals = self.db.execute("SELECT high, low, journals FROM total").fetchone()
            size = total_missing(high, low)
            for journal, ranges in self.pending.ranges.items() if self.pending else ():
                row = self.db.execute(
                    f"SELECT stored, {KNOWN_END} FROM journal WHERE id = ? AND NOT given_up",
                    (journal,),
                ).fetchone()
                if row is not None:
                    stored, last = row
                    missing = max(last, ranges[-1][1]) - stored - sum(end - start for start, end in ranges)
                    size += missing - (last - stored)
                    journals += (missing > 0) - (last > stored)
        return Gaps(size, journals)

    def begin(self, append: Append) -> None:
        """Make one commit. It merges the previous append if that is durable, and records this one if it has data."""
        size = self.size
        if size is None:
            raise LogChanged(f"{self._path} has not recorded a log yet")
        assert self.rotating is None or not append.data, "during a rotation nothing may be pending"
        assert append.ranges.keys() | append.closed.keys() <= append.latest_ms.keys(), (
            "the sums of a journal need its row"
        )
        pending = None
        if append.data:
            crc = isal_zlib.crc32(append.data)
            pending = Pending(
                size, len(append.data), crc, dict(append.ranges), dict(append.checksums), dict(append.seen)
            )
        clock_ms = max(self._clock_ms, *append.latest_ms.values(), *append.seen.values(), 0)
        pruned = False
        with self._transaction():
            if durable := self._durable_pending:
                self._merge(durable)
            self._update_journals(append)
            pending_append.record(self.db, pending)
            self.db.execute("UPDATE log SET size = ?, clock_ms = ?", (size, clock_ms))
            if clock_ms - self._pruned_ms >= PRUNE_MS:
                pruned = prune(self.db, clock_ms)
        # Only after the commit, so that a failed one changes nothing here and can be tried again.
        self.pending, self._pending_is_durable = pending, False
        self._size, self._clock_ms = size, clock_ms
        if pruned:
            self._pruned_ms = clock_ms

    def durable(self) -> None:
        """Note that the pending append is durable in the log: the next commit may merge it."""
        self._pending_is_durable = True

    def checkpoint(self) -> None:
        """Make one commit that merges and clears the pending append: when idle, before a rotation, at a clean stop."""
        if self.pending is not None:
            self.begin(Append())

    def record_log(self, size: int, inode: int) -> None:
        """Record that this file, of `size` bytes, is the log. A pending append that is not durable is dropped."""
        self.checkpoint()
        with self._transaction():
            self.db.execute("REPLACE INTO log VALUES (1, ?, ?, ?, NULL)", (size, self._clock_ms, inode))
        self._size, self.inode, self.rotating = size, inode, None

    def record_rotation(self, name: str | None) -> None:
        """Record that the log is about to be renamed to `name`, or with None, that it was not renamed.

        Call `checkpoint` before.
        """
        assert self.pending is None, "a start would look for the pending append in the wrong file"
        with self._transaction():
            self.db.execute("UPDATE log SET rotating = ?", (name,))
        self.rotating = name

    def close(self) -> None:
        self.db.close()

    @property
    def _durable_pending(self) -> Pending | None:
        """The pending append if it is durable. Its ranges count as stored, although no commit has merged them yet."""
        return self.pending if self._pending_is_durable else None

    def _merge(self, pending: Pending) -> None:
        for journal, ranges in pending.ranges.items():
            for start, end in ranges:
                intervals.add(self.db, journal, start, end)
        self.db.execute('INSERT INTO span (journal, start, "end", crc32) SELECT * FROM pending_span')
        self.db.execute("DELETE FROM span WHERE number <= (SELECT max(number) FROM span) - ?", (KEPT_SPANS,))
        self.db.executemany("INSERT OR IGNORE INTO seen VALUES (?, ?)", pending.seen.items())

    def _update_journals(self, append: Append) -> None:
        """Record the time of each journal's latest message, and the ends that end markers name."""
        self.db.executemany(
            "INSERT INTO journal (id, latest_ms) VALUES (?, ?)"
            " ON CONFLICT (id) DO UPDATE SET latest_ms = max(latest_ms, excluded.latest_ms)",
            append.latest_ms.items(),
        )
        self.db.executemany(
            "UPDATE journal SET closed_end = max(coalesce(closed_end, 0), ?) WHERE id = ?",
            [(end, journal) for journal, end in append.closed.items()],
        )

    def _files(self) -> list[tuple[int, int]]:
        """The device and the inode that each name of SQLite's files leads to now. Raises OSError."""
        return [(status.st_dev, status.st_ino) for status in map(os.stat, sqlite_files(self._path))]

    def _check_identity(self) -> None:
        """Raise LedgerMoved when the names lead to other files than those opened: the next start would not see ours."""
        try:
            found: object = self._files()
        except OSError as error:
            found = error.strerror
        if found != self._identity:
            what = found if isinstance(found, str) else "other files have its names"
            raise LedgerMoved(
                f"{self._path} was removed, moved or replaced while storage was running ({what}): move the same files "
                f"back. If they are lost, restart storage, which then begins a new ledger. {COST_OF_A_NEW_LEDGER}"
            )

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._check_identity()
        with sqlite_errors(self._path):
            self.db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self.db.execute("COMMIT")
            except BaseException:
                if self.db.in_transaction:
                    self.db.execute("ROLLBACK")
                raise
