"""What the ledger keeps, and what it forgets by SQS's clock."""

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.storage.rig import SENT_MS, A, B
from tracker.errors import LedgerDamaged, LogChanged
from tracker.storage import ledger_schema
from tracker.storage.ledger import Ledger
from tracker.storage.ledger_schema import DAY_MS
from tracker.storage.pending import Append

C = "c" * 32


def ranges_of(ledger: Ledger) -> list[tuple[str, int, int]]:
    return ledger.db.execute('SELECT journal, start, "end" FROM stored ORDER BY journal, start').fetchall()


def store(ledger: Ledger, append: Append) -> None:
    append.data += b"x"
    append.latest_ms = dict.fromkeys([*append.ranges, *append.closed], SENT_MS) | append.latest_ms
    ledger.begin(append)
    ledger.durable()


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    ledger = Ledger(tmp_path / "ledger.sqlite")
    ledger.record_log(0, 1)
    return ledger


def test_ranges_that_touch_become_one(ledger: Ledger) -> None:
    for span in [(0, 10), (30, 40), (20, 30), (50, 60), (10, 20)]:
        store(ledger, Append(ranges={A: [span]}))
    ledger.checkpoint()
    assert ranges_of(ledger) == [(A, 0, 40), (A, 50, 60)]
    assert ledger.missing(A, (35, 55)) == [(40, 50)]
    assert ledger.missing(B, (0, 5)) == [(0, 5)]
    ledger.close()


def test_only_a_durable_append_counts(ledger: Ledger) -> None:
    ledger.begin(Append(data=bytearray(b"xy"), ranges={A: [(0, 10)]}, seen={"m": 1}, latest_ms={A: 1}))
    assert ledger.missing(A, (0, 10)) == [(0, 10)]
    assert not ledger.has_seen("m")
    assert ledger.size == 0
    ledger.durable()
    assert ledger.missing(A, (0, 10)) == []
    assert ledger.has_seen("m")
    assert ledger.size == 2
    ledger.close()


def test_commits_are_synced_to_the_disk(ledger: Ledger) -> None:
    assert ledger.db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert ledger.db.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL
    ledger.close()


def test_messages_are_forgotten_after_fourteen_days(ledger: Ledger) -> None:
    store(ledger, Append(seen={"old": SENT_MS, "newer": SENT_MS + DAY_MS}))
    store(ledger, Append(latest_ms={A: SENT_MS + 14 * DAY_MS}))
    assert ledger.has_seen("old")  # to the very millisecond
    store(ledger, Append(latest_ms={A: SENT_MS + 14 * DAY_MS + 60_000}))
    assert not ledger.has_seen("old")
    assert ledger.has_seen("newer")
    ledger.close()


@pytest.mark.parametrize(
    ("append", "forgotten"),
    [
        (Append(ranges={A: [(0, 10)]}, closed={A: 10}), True),
        (Append(closed={A: 0}), True),
        (Append(ranges={A: [(0, 20)]}, closed={A: 10}), True),
        (Append(ranges={A: [(0, 10)]}), False),
        (Append(ranges={A: [(0, 9)]}, closed={A: 10}), False),
        (Append(ranges={A: [(1, 10)]}, closed={A: 10}), False),
        (Append(ranges={A: [(0, 4), (5, 10)]}, closed={A: 10}), False),
        (Append(ranges={A: [(0, 10), (11, 20)]}, closed={A: 10}), False),
    ],
    ids=["complete", "empty", "beyond its end", "open", "tail missing", "head missing", "gap", "gap beyond its end"],
)
@pytest.mark.parametrize("days", [180, 181])
def test_a_journal_is_forgotten_when_closed_complete_and_old(
    ledger: Ledger, append: Append, forgotten: bool, days: int
) -> None:
    append = Append(ranges=dict(append.ranges), closed=dict(append.closed), latest_ms={A: SENT_MS})
    store(ledger, append)
    ledger.checkpoint()
    store(ledger, Append(latest_ms={C: SENT_MS + days * DAY_MS}))
    known = [row[0] for row in ledger.db.execute("SELECT id FROM journal ORDER BY id")]
    assert (A in known) == (not forgotten or days == 180)
    if A not in known:
        assert ranges_of(ledger) == []
    ledger.close()


def test_a_delivery_keeps_its_journal_for_another_180_days(ledger: Ledger) -> None:
    store(ledger, Append(ranges={A: [(0, 10)]}, closed={A: 10}, latest_ms={A: SENT_MS}))
    ledger.begin(Append(latest_ms={A: SENT_MS + 100 * DAY_MS}))
    ledger.begin(Append(latest_ms={A: SENT_MS + 50 * DAY_MS, C: SENT_MS + 240 * DAY_MS}))
    assert ranges_of(ledger) == [(A, 0, 10)]
    ledger.close()


def test_a_ledger_of_another_layout_is_refused_and_closed(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "ledger.sqlite")) as db:
        db.execute("PRAGMA user_version = 7")
    with pytest.raises(LogChanged, match="layout 7") as refused:
        Ledger(tmp_path / "ledger.sqlite")
    # SQLite removes the write-ahead log when the last connection closes; `refused` would keep one that is open.
    assert [path.name for path in tmp_path.iterdir()] == ["ledger.sqlite"], refused


def test_a_ledger_that_is_none_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "ledger.sqlite").write_bytes(b"no database" * 1000)
    with pytest.raises(LedgerDamaged, match=r"is damaged: file is not a database\. Start once with --accept-log"):
        Ledger(tmp_path / "ledger.sqlite")


def test_missing_bytes_are_gaps_and_missing_tails_of_all_journals(ledger: Ledger) -> None:
    assert ledger.gaps() == (0, 0)
    latest = {A: SENT_MS, B: SENT_MS, C: SENT_MS}
    store(ledger, Append(ranges={A: [(0, 10), (15, 20)], B: [(7, 9)]}, latest_ms=latest))
    assert ledger.gaps() == (5 + 7, 2)
    store(ledger, Append(ranges={A: [(10, 15)]}, closed={A: 20, B: 12, C: 4}))
    assert ledger.gaps() == (7 + 3 + 4, 2)  # what is under way counts as stored
    ledger.close()


def test_a_ledger_of_an_earlier_layout_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    with sqlite3.connect(path) as db:
        db.executescript(f"BEGIN; {ledger_schema.LAYOUTS[0]} PRAGMA user_version = 1; COMMIT;")
        db.execute("INSERT INTO log VALUES (1, 7, 5)")
        db.execute("INSERT INTO journal VALUES (?, 12, NULL)", (A,))
        db.execute("INSERT INTO stored VALUES (?, 0, 10), (?, 20, 30)", (A, A))
    db.close()
    for _ in range(2):
        ledger = Ledger(path)
        assert (ledger.size, ledger.inode, ledger.rotating) == (7, None, None)
        assert ledger.missing(A, (0, 30)) == [(10, 20)]
        assert ledger.db.execute("SELECT DISTINCT since_ms FROM stored").fetchall() == [(12,)]
        ledger.close()


def test_a_gap_is_known_since_the_first_delivery_beyond_it(ledger: Ledger) -> None:
    for at, span in enumerate([(0, 10), (20, 30), (15, 20), (40, 50), (30, 32)]):
        store(ledger, Append(ranges={A: [span]}, latest_ms={A: SENT_MS + at}))
    ledger.checkpoint()
    assert ledger.db.execute('SELECT start, "end", since_ms FROM stored').fetchall() == [
        (0, 10, SENT_MS),
        (15, 32, SENT_MS + 1),
        (40, 50, SENT_MS + 3),
    ]
    ledger.close()


def test_a_start_makes_durable_what_it_finds_in_the_ledger(tmp_path: Path) -> None:
    (tmp_path / "first").mkdir()
    first = Ledger(tmp_path / "first" / "ledger.sqlite")
    first.record_log(0, 1)
    # Its fsync failed, say, and the process died.
    first.begin(Append(data=bytearray(b"a\n"), ranges={A: [(0, 2)]}, latest_ms={A: 1}))
    second_dir = shutil.copytree(tmp_path / "first", tmp_path / "second")
    first.close()
    second = Ledger(second_dir / "ledger.sqlite")
    assert second.pending is not None
    without_wal = tmp_path / "without-wal.sqlite"
    shutil.copy(second_dir / "ledger.sqlite", without_wal)  # what of it does not hang on the write-ahead log
    second.close()
    with closing(sqlite3.connect(without_wal)) as db:
        assert db.execute("SELECT length FROM pending").fetchall() == [(2,)]
