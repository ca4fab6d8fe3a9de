"""An append: what it adds to the visit log, and how the ledger records it until it is known to be durable.

The ledger has at most one pending append. After a crash it is the only one that may be in the log, in part or not at
all; `tracker.storage.recovery` compares it with the log.
"""

import sqlite3
from dataclasses import dataclass, field
from typing import NamedTuple


class Checksum(NamedTuple):
    """The CRC-32 of the bytes `[start, end)` of a journal, which were the span of one message."""

    start: int
    end: int
    crc32: int


@dataclass(slots=True)
class Append:
    """What one append adds to the log, and what its messages say about their journals.

    Every journal in `ranges` or `closed` must be in `latest_ms` too. Times are when SQS got the message, in
    milliseconds since 1970.
    """

    data: bytearray = field(default_factory=bytearray)
    ranges: dict[str, list[tuple[int, int]]] = field(default_factory=dict)  # newly stored; ascending, disjoint
    checksums: dict[str, list[Checksum]] = field(default_factory=dict)  # of the spans that these ranges are part of
    seen: dict[str, int] = field(default_factory=dict)  # MessageId of a message without our attributes -> its time
    latest_ms: dict[str, int] = field(default_factory=dict)  # journal -> the time of its latest message
    closed: dict[str, int] = field(default_factory=dict)  # journal -> the end that its end marker names, in bytes

    def begin_line(self, ends_mid_line: bool) -> None:
        """Begin the data with a newline if the log ends within a line, and only then.

        A newline at the beginning of the data was put there by an earlier try, because no line of a visit is empty.
        """
        if self.data.startswith(b"\n"):
            del self.data[:1]
        if self.data and ends_mid_line:
            self.data[:0] = b"\n"


@dataclass(frozen=True, slots=True)
class Pending:
    """The append that the ledger has recorded last.

    `offset`, `length` and `crc32` show whether the log has it. The rest is what it newly stores, as in `Append`.
    """

    offset: int
    length: int
    crc32: int
    ranges: dict[str, list[tuple[int, int]]]
    checksums: dict[str, list[Checksum]]
    seen: dict[str, int]

    @property
    def end(self) -> int:
        return self.offset + self.length


def record(db: sqlite3.Connection, pending: Pending | None) -> None:
    """Replace the pending append of the ledger by `pending`, or remove it if that is None.

    The caller has begun the transaction.
    """
    for table in ("pending", "pending_range", "pending_span", "pending_seen"):
        db.execute(f"DELETE FROM {table}")
    if pending is None:
        return
    db.execute("INSERT INTO pending VALUES (1, ?, ?, ?)", (pending.offset, pending.length, pending.crc32))
    db.executemany("INSERT INTO pending_range VALUES (?, ?, ?)", _rows(pending.ranges))
    db.executemany("INSERT INTO pending_span VALUES (?, ?, ?, ?)", _rows(pending.checksums))
    db.executemany("INSERT INTO pending_seen VALUES (?, ?)", pending.seen.items())


def read(db: sqlite3.Connection) -> Pending | None:
    """The pending append that the ledger has recorded, if there is one."""
    row = db.execute("SELECT offset, length, crc32 FROM pending").fetchone()
    if row is None:
        return None
    ranges: dict[str, list[tuple[int, int]]] = {}
    for journal, start, end in db.execute('SELECT journal, start, "end" FROM pending_range ORDER BY start'):
        ranges.setdefault(journal, []).append((start, end))
    checksums: dict[str, list[Checksum]] = {}
    for journal, *checksum in db.execute('SELECT journal, start, "end", crc32 FROM pending_span'):
        checksums.setdefault(journal, []).append(Checksum(*checksum))
    seen: dict[str, int] = dict(db.execute("SELECT message_id, at_ms FROM pending_seen").fetchall())
    offset, length, crc32 = row
    return Pending(offset, length, crc32, ranges, checksums, seen)


def _rows(by_journal: dict[str, list[tuple[int, int]]] | dict[str, list[Checksum]]) -> list[tuple[str | int, ...]]:
    return [(journal, *values) for journal, entries in by_journal.items() for values in entries]
