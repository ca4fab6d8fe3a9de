"""The stored intervals of a journal, as rows of the ledger: disjoint, and with a gap between any two.

An interval is a row of the table `stored`: its start, its end (bytes of the journal), and `since_ms`, the time since
which the gap before it is known (milliseconds since 1970, by SQS's clock).
"""

import sqlite3


def touching(db: sqlite3.Connection, journal: str, start: int, end: int) -> list[tuple[int, int, int]]:
    """The stored intervals (start, end, since_ms) that overlap or touch `[start, end)`, ascending.

    Of the intervals that begin at or before `start`, only the last one can reach `start`, because intervals are
    disjoint. The index finds it in O(log n).
    """
    rows: list[tuple[int, int, int]] = db.execute(
        'SELECT * FROM (SELECT start, "end", since_ms FROM stored WHERE journal = ?1 AND start <= ?2'
        " ORDER BY start DESC LIMIT 1) UNION ALL"
        ' SELECT start, "end", since_ms FROM stored WHERE journal = ?1 AND start > ?2 AND start <= ?3',
        (journal, start, end),
    ).fetchall()
    rows.sort()
    return rows[1:] if rows and rows[0][1] < start else rows


def add(db: sqlite3.Connection, journal: str, start: int, end: int) -> None:
    """Store `[start, end)`, merged into one interval with those that it overlaps or touches.

    The caller has begun the transaction.
    """
    found = touching(db, journal, start, end)
    end = max([end, *(high for _, high, _ in found)])
    latest_ms: int = db.execute("SELECT latest_ms FROM journal WHERE id = ?", (journal,)).fetchone()[0]
    since_ms = min([latest_ms, *(since for _, _, since in found)])
    if found and found[0][0] <= start:  # the usual case: the span begins where the stored bytes end
        first, *found = found
        db.execute(
            'UPDATE stored SET "end" = ?, since_ms = ? WHERE journal = ? AND start = ?',
            (end, since_ms, journal, first[0]),
        )
    else:
        db.execute("INSERT INTO stored VALUES (?, ?, ?, ?)", (journal, start, end, since_ms))
    db.executemany("DELETE FROM stored WHERE journal = ? AND start = ?", [(journal, other) for other, _, _ in found])
