"""The tables of the ledger, and how its file is opened, brought to the current layout, and checked.

Every table, trigger and sum of the ledger is defined here. Three modules read and write them: `ledger` for the writer,
`ledger_pruning` for what may be forgotten, and `ledger_reader` for other processes.
"""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tracker.errors import AppendFailed, LedgerBusy, LedgerDamaged, LogChanged, StorageFull
from tracker.files import room_for

DAY_MS = 86_400_000
START_BUSY_SECONDS = 10.0  # how long a start waits for another program's lock
BUSY_SECONDS = 0.5  # how long a call in the writer's thread waits for a lock; then the writer pauses and tries again
# SQLite reports only ENOSPC as a full disk. A quota, a limit of file sizes, or no room for the index of the write-ahead
# log is reported as one of these. The transaction is rolled back, so it can be tried again. A failed fsync has a code
# of its own, and after it nothing may be tried again.
_NOT_WRITTEN = {sqlite3.SQLITE_IOERR_WRITE, sqlite3.SQLITE_IOERR_SHMSIZE}

COMMIT_BYTES = 65_536  # about what one commit writes: a file system with less free space has no room for it

COST_OF_A_NEW_LEDGER = (
    "With a new ledger, visits that the log has already are written a second time if SQS delivers their messages again "
    "(from the queue or by a redrive), and every journal that continues shows a gap before its next byte"
)

# Each entry changes a ledger from the layout with its index to the next layout. All times (`…_ms`) are milliseconds
# since 1970 by SQS's clock; all offsets and sizes are bytes.
LAYOUTS = (
    # log: the visit log's size after the last merged append, and the time of the latest message.
    # journal: each journal, with the time of its latest message, and the end that its end marker names.
    # stored: the stored intervals of the journals.
    # seen: the MessageId of messages without our attributes.
    # pending, pending_range, pending_seen: the pending append, and what it newly stores.
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
    # stored.since_ms: when the gap before this interval was first seen.
    # journal.excused: the operator has given its gaps up.
    # log.rotating: the name that a rotation is renaming the log to.
    """
ALTER TABLE log ADD COLUMN inode INTEGER;
ALTER TABLE log ADD COLUMN rotating TEXT;
ALTER TABLE journal ADD COLUMN excused INTEGER NOT NULL DEFAULT 0;
ALTER TABLE stored ADD COLUMN since_ms INTEGER NOT NULL DEFAULT 0;
UPDATE stored SET since_ms = coalesce((SELECT heard_ms FROM journal WHERE id = journal), 0);
""",
    # journal.stored: the sum of its intervals, in bytes. journal.top: the end of the last interval that it ever had.
    # journal.missing: the bytes before `top`, or before the journal's end, that are not stored.
    # journal.may_go: whether pruning may remove the journal once it is old enough.
    # total: the sum of `missing` over all journals, and how many journals lack something. Such a sum could exceed 63
    # bits, so it is kept in two halves: high * 2^32 + low.
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
    # journal.latest_ms: the time of its latest message. journal.given_up: the operator has given its gaps up.
    # journal.removable: whether pruning may remove the journal once it is old enough.
    """
ALTER TABLE journal RENAME COLUMN heard_ms TO latest_ms;
ALTER TABLE journal RENAME COLUMN excused TO given_up;
ALTER TABLE journal RENAME COLUMN may_go TO removable;
DROP INDEX journal_may_go;
CREATE INDEX journal_removable ON journal (latest_ms) WHERE removable;
""",
)
LAYOUT = len(LAYOUTS)

# SQL: the end of a journal as far as the ledger knows it. Every byte before it that is not stored is missing.
KNOWN_END = "max(coalesce(closed_end, 0), top)"


def total_missing(high: int, low: int) -> int:
    """All missing bytes, from the two halves that the table `total` keeps."""
    return (high << 32) + low


def connect(path: Path) -> sqlite3.Connection:
    """Open the ledger for writing, in the current layout; make a new one when there is none.

    Raises LedgerBusy, LedgerDamaged, LogChanged for a ledger of a newer release, and OSError when the file cannot be
    opened.
    """
    probe(path)
    with sqlite_errors(path):
        db = sqlite3.connect(path, timeout=START_BUSY_SECONDS, isolation_level=None)
        try:
            _prepare(db, path)
        except BaseException:
            db.close()
            raise
    return db


def _prepare(db: sqlite3.Connection, path: Path) -> None:
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")
    db.execute("PRAGMA wal_autocheckpoint = 100")
    # In bytes. While another program reads for long, the write-ahead log grows beyond this; then it is cut back to it.
    db.execute("PRAGMA journal_size_limit = 4194304")
    # If an fsync failed before this start, what is read now may be in the page cache only. So it is made durable first.
    if db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]:
        raise LedgerBusy(f"{path} is being read by another program and cannot be made durable")
    # The whole ledger is checked, which takes 0.5 s for a million journals. Otherwise a message might find the damage
    # later and end the process. After `maxReceiveCount` such starts SQS would move good messages to the dead-letter
    # queue.
    if (found := db.execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
        raise _damaged(path, found)
    version = db.execute("PRAGMA user_version").fetchone()[0]
    if version > LAYOUT:
        raise LogChanged(f"{path} has layout {version}, this release knows {LAYOUT}: use the release that wrote it")
    for number, layout in enumerate(LAYOUTS[version:], version + 1):
        db.executescript(f"BEGIN IMMEDIATE; {layout} PRAGMA user_version = {number}; COMMIT;")
    db.execute(f"PRAGMA busy_timeout = {BUSY_SECONDS * 1000:.0f}")


def probe(path: Path) -> None:
    """Raise the system's own OSError for a file that cannot be opened. SQLite reports all causes as the same error."""
    try:
        # Done before SQLite opens the file, because closing any descriptor of it releases the locks that SQLite holds.
        os.close(os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC))
    except FileNotFoundError:
        pass  # SQLite will create it


def _damaged(path: Path, what: object) -> LedgerDamaged:
    return LedgerDamaged(
        f"{path} is damaged: {what}. Start once with --accept-log: the damaged ledger is kept, and a new one begins. "
        f"{COST_OF_A_NEW_LEDGER}"
    )


@contextmanager
def sqlite_errors(path: Path) -> Iterator[None]:
    """Convert an error of SQLite into one of the project's errors.

    Raises StorageFull and LedgerBusy, after which the call can be made again; LedgerDamaged; and AppendFailed for all
    other errors of SQLite.
    """
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the primary code, without its extension
        if code == sqlite3.SQLITE_FULL:
            raise StorageFull(f"no room for the ledger {path} ({error}){room_for(path, COMMIT_BYTES)}") from error
        if getattr(error, "sqlite_errorcode", 0) in _NOT_WRITTEN:
            raise StorageFull(f"the ledger {path} cannot be written ({error}){room_for(path, COMMIT_BYTES)}") from error
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise LedgerBusy(f"another program has locked {path} ({error}): end it, or wait until it ends") from error
        if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            raise _damaged(path, error) from error
        raise AppendFailed(f"the ledger {path} cannot be used: {error}") from error
