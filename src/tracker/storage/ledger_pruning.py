"""What the ledger may forget, a bounded number of rows in one commit.

A message without our attributes is known for 14 days, because SQS keeps none for longer. A journal that is closed and
complete is known for 180 days after its last delivery. Journals that are open or have gaps are kept until the operator
gives their gaps up (`tracker audit --forget`).
"""

import sqlite3

from tracker.storage.ledger_schema import DAY_MS

SEEN_MS = 14 * DAY_MS
JOURNAL_MS = 180 * DAY_MS
PRUNE_MS = 60_000  # by SQS's clock, between two prunings
PRUNED_MESSAGES = 1_000  # at most in one commit, which adds at most as many
PRUNED_ROWS = 100  # of journals and their intervals, at most in one commit


def prune(db: sqlite3.Connection, clock_ms: int) -> bool:
    """Remove some of what may be forgotten at this time of SQS's clock. Returns whether nothing of it is left.

    Within the caller's transaction.
    """
    messages = db.execute(
        "DELETE FROM seen WHERE message_id IN (SELECT message_id FROM seen WHERE at_ms < ? LIMIT ?)",
        (clock_ms - SEEN_MS, PRUNED_MESSAGES),
    ).rowcount
    rows = 0
    for (journal,) in db.execute(
        "SELECT id FROM journal WHERE may_go AND heard_ms < ? ORDER BY heard_ms LIMIT ?",
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
