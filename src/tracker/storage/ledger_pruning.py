"""Removes from the ledger what is no longer needed, a bounded number of rows in one commit.

The ledger keeps the MessageId of a message without our attributes for 14 days, because SQS keeps no message for longer.
It keeps a journal that is closed and complete for 180 days after its last delivery. Journals that are open or have gaps
are kept until the operator gives up their gaps (`tracker audit --forget`).
"""

import sqlite3

from tracker.storage.ledger_schema import DAY_MS

SEEN_MS = 14 * DAY_MS
JOURNAL_MS = 180 * DAY_MS
PRUNE_MS = 60_000  # time between two prunings, by SQS's clock
PRUNED_MESSAGES = 1_000  # at most this many in one commit; a commit adds at most as many
PRUNED_ROWS = 100  # about this many rows of journals and their intervals in one commit


def prune(db: sqlite3.Connection, clock_ms: int) -> bool:
    """Remove some of the rows that are old enough at the time `clock_ms`. Returns whether no such rows are left.

    The caller has begun the transaction.
    """
    messages = db.execute(
        "DELETE FROM seen WHERE message_id IN (SELECT message_id FROM seen WHERE at_ms < ? LIMIT ?)",
        (clock_ms - SEEN_MS, PRUNED_MESSAGES),
    ).rowcount
    rows = 0
    for (journal,) in db.execute(
        "SELECT id FROM journal WHERE removable AND latest_ms < ? ORDER BY latest_ms LIMIT ?",
        (clock_ms - JOURNAL_MS, PRUNED_ROWS),
    ).fetchall():
        intervals = db.execute(
            "DELETE FROM stored WHERE journal = ?1 AND start IN"
            " (SELECT start FROM stored WHERE journal = ?1 ORDER BY start LIMIT ?2)",
            (journal, PRUNED_ROWS),
        ).rowcount
        if intervals < PRUNED_ROWS:  # otherwise the next commit continues with this journal
            db.execute("DELETE FROM journal WHERE id = ?", (journal,))
        rows += intervals + 1
        if rows >= PRUNED_ROWS:
            break
    return messages < PRUNED_MESSAGES and rows < PRUNED_ROWS
