"""The ledger's sums are those that a full count finds, and no work of it grows with what it holds."""

import random
import sqlite3
import tempfile
from collections.abc import Callable
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.storage.rig import SENT_MS, A, B
from tracker.core import spans
from tracker.storage import ledger_pruning, ledger_reader, ledger_schema
from tracker.storage.ledger import Ledger
from tracker.storage.ledger_schema import DAY_MS
from tracker.storage.pending import Append

C = "c" * 32
LARGEST = 10**15 - 1  # the largest end that a message may name


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.sqlite"


def opened(path: Path) -> Ledger:
    ledger = Ledger(path)
    if ledger.size is None:
        ledger.record_log(0, 1)
    return ledger


def counted(path: Path) -> tuple[int, int]:
    """Missing bytes and journals with gaps by a full count of the tables, the pending append included."""
    with closing(sqlite3.connect(path)) as db:
        ends = {
            journal: closed_end or 0
            for journal, closed_end in db.execute("SELECT id, closed_end FROM journal WHERE NOT given_up")
        }
        held = dict.fromkeys(ends, 0)
        for journal, start, end in db.execute(
            'SELECT journal, start, "end" FROM stored UNION ALL SELECT journal, start, "end" FROM pending_range'
        ):
            if journal in ends:
                ends[journal] = max(ends[journal], end)
                held[journal] += end - start
    missing = [ends[journal] - held[journal] for journal in ends]
    return sum(missing), sum(each > 0 for each in missing)


def wrong_sums(path: Path) -> list[str]:
    with ledger_reader.open_copy(path) as copy:
        return list(copy.wrong_sums())


journals = st.sampled_from([A, B, C])
steps = st.lists(
    st.one_of(
        st.tuples(st.just("span"), journals, st.integers(0, 30), st.integers(1, 9)),
        st.tuples(st.just("close"), journals, st.integers(0, 40), st.just(0)),
        st.tuples(st.just("roll back"), journals, st.integers(0, 30), st.integers(1, 9)),
        st.tuples(st.just("forget"), journals, st.just(0), st.just(0)),
        st.tuples(st.just("forget silent"), journals, st.integers(0, 3), st.just(0)),
        st.tuples(st.just("days pass"), journals, st.integers(1, 200), st.just(0)),
        st.tuples(st.just("start"), journals, st.just(0), st.just(0)),
    ),
    max_size=25,
)


@pytest.mark.slow
@pytest.mark.unmeasured
@settings(max_examples=100)
@given(script=steps)
def test_kept_sums_equal_a_full_count_whatever_is_stored_closed_forgotten_and_pruned(
    script: list[tuple[str, str, int, int]],
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ledger.sqlite"
        ledger, now = opened(path), SENT_MS
        for what, journal, number, length in script:
            if what in ("span", "roll back"):
                new = ledger.missing(journal, (number, number + length))
                if new:
                    ledger.begin(Append(data=bytearray(b"x"), ranges={journal: new}, latest_ms={journal: now}))
                    if what == "span":
                        ledger.durable()
                    else:
                        ledger.begin(Append())
            elif what == "close":
                ledger.begin(Append(closed={journal: number}, latest_ms={journal: now}))
            elif what == "days pass":
                now += number * DAY_MS
                ledger.begin(Append(latest_ms={"d" * 32: now}))
            elif what == "forget silent":
                ledger_reader.give_up_silent(path, number)
            elif what == "start":
                ledger.close()
                ledger = opened(path)
                ledger.checkpoint()
            elif any(each.journal == journal for each in accounts_of(path)):
                ledger_reader.give_up(path, journal)
            assert ledger.gaps() == counted(path)
            assert wrong_sums(path) == []
        ledger.close()


def accounts_of(path: Path) -> list[ledger_reader.Account]:
    with ledger_reader.open_copy(path) as copy:
        return list(copy.accounts())


def test_a_sum_that_was_changed_by_others_is_named(path: Path) -> None:
    ledger = opened(path)
    ledger.begin(Append(data=bytearray(b"x"), ranges={A: [(5, 9)]}, latest_ms={A: SENT_MS}))
    ledger.durable()
    ledger.checkpoint()
    ledger.close()
    with closing(sqlite3.connect(path)) as db:
        db.execute("UPDATE total SET low = low + 1")
        db.execute("DROP TRIGGER stored_removed")
        db.execute("DELETE FROM stored")
        db.commit()
    assert wrong_sums(path) == [
        f"journal {A}: the ledger has 4 bytes up to 9, a count gives 0 up to 0",
        "all journals: the ledger has 6 missing bytes of 1 journals, a count gives 5 missing bytes of 1 journals",
    ]


def test_forged_ends_overflow_no_sum_and_hide_no_gap_of_another_journal(path: Path) -> None:
    ledger = opened(path)
    forged = [f"{number:032x}" for number in range(20_000)]  # their sum exceeds 63 bits
    ledger.begin(Append(closed=dict.fromkeys(forged, LARGEST), latest_ms=dict.fromkeys(forged, SENT_MS)))
    before = ledger.gaps()
    assert before == (20_000 * LARGEST, 20_000)
    ledger.begin(Append(data=bytearray(b"x"), ranges={A: [(0, 10), (286, 300)]}, latest_ms={A: SENT_MS}))
    ledger.durable()
    ledger.checkpoint()
    assert ledger.gaps() == (before.size + 276, before.journals + 1)
    assert wrong_sums(path) == []
    assert ledger_reader.give_up_silent(path, 0) == 0  # its latest message has the ledger's own latest time: not silent
    ledger.begin(Append(latest_ms={B: SENT_MS + 2 * DAY_MS, A: SENT_MS + 2 * DAY_MS}))
    assert ledger_reader.give_up_silent(path, 1) == 20_000
    assert ledger.gaps() == (276, 1)
    ledger.close()


def steps_of(ledger: Ledger, work: Callable[[], object]) -> int:
    """How many instructions of SQLite's virtual machine the work takes, in tens."""
    count = 0

    def tick() -> int:
        nonlocal count
        count += 1
        return 0

    ledger.db.set_progress_handler(tick, 10)
    try:
        work()
    finally:
        ledger.db.set_progress_handler(None, 10)
    return count


def test_a_message_costs_the_same_with_one_interval_and_with_thousands(path: Path) -> None:
    ledger = opened(path)
    numbers = random.Random(1).sample(range(1, 5_000), 40)

    def store(number: int) -> None:
        span = (number * 20, number * 20 + 10)
        assert ledger.missing(A, span) == [span]
        ledger.begin(Append(data=bytearray(b"x"), ranges={A: [span]}, latest_ms={A: SENT_MS}))
        ledger.durable()

    first = [steps_of(ledger, lambda number=number: store(number)) for number in numbers[:20]]  # type: ignore[misc]
    many = [(number * 20, number * 20 + 10) for number in range(1, 5_000) if number not in numbers]
    ledger.begin(Append(data=bytearray(b"x"), ranges={A: many}, latest_ms={A: SENT_MS}))
    ledger.durable()
    ledger.checkpoint()
    last = [steps_of(ledger, lambda number=number: store(number)) for number in numbers[-20:]]  # type: ignore[misc]
    assert max(last) <= 1.5 * max(first)
    ledger.close()


def test_periodic_work_costs_the_same_with_few_journals_and_with_thousands(path: Path) -> None:
    ledger = opened(path)

    def add(first: int, last: int) -> None:
        ids = [f"{number:032x}" for number in range(first, last)]
        ledger.begin(
            Append(
                data=bytearray(b"x"),
                ranges={each: [(0, 10)] if number % 3 else [(5, 10)] for number, each in enumerate(ids)},
                closed=dict.fromkeys(ids[::2], 10),
                latest_ms=dict.fromkeys(ids, SENT_MS),
            )
        )
        ledger.durable()
        ledger.checkpoint()

    def look() -> int:
        return steps_of(ledger, ledger.gaps)

    def commit(minutes: int) -> int:  # with a pruning, for which none is old enough
        return steps_of(ledger, lambda: ledger.begin(Append(latest_ms={A: SENT_MS + minutes * 60_000})))

    add(0, 10)
    commit(1)
    few = look(), commit(2)
    add(10, 5_000)
    assert look() <= few[0] + 1
    assert commit(3) <= 1.5 * few[1]
    ledger.close()


def test_a_pruning_removes_a_bounded_number_and_the_next_commits_the_rest(path: Path) -> None:
    ledger = opened(path)
    many = ledger_pruning.PRUNED_ROWS * 3
    ids = [f"{number:032x}" for number in range(many)]
    wide = [(number * 20, number * 20 + 10) for number in range(many)]
    append = Append(
        data=bytearray(b"x"),
        ranges={each: [(0, 10)] for each in ids} | {A: wide},
        closed=dict.fromkeys(ids, 10),
        latest_ms=dict.fromkeys([*ids, A], SENT_MS),
        seen={str(number): SENT_MS for number in range(ledger_pruning.PRUNED_MESSAGES * 2)},
    )
    ledger.begin(append)
    ledger.durable()
    ledger.checkpoint()
    ledger_reader.give_up(path, A)  # a journal of many intervals that may go
    late = SENT_MS + 181 * DAY_MS

    def rows(table: str) -> int:
        count: int = ledger.db.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
        return count

    left = [(rows("journal"), rows("stored"), rows("seen"))]
    while len(left) < 20 and left[-1] != (1, 0, 0):
        ledger.begin(Append(latest_ms={C: late}))
        left.append((rows("journal"), rows("stored"), rows("seen")))
        assert ledger.gaps() == counted(path) == (0, 0)
    assert left[-1] == (1, 0, 0)
    for (journals, intervals, seen), after in pairwise(left):
        assert journals - after[0] + intervals - after[1] <= 2 * ledger_pruning.PRUNED_ROWS + 2
        assert seen - after[2] <= ledger_pruning.PRUNED_MESSAGES
    ledger.close()


def test_reading_the_books_for_long_holds_no_checkpoint_of_storage_up(path: Path) -> None:
    ledger = opened(path)
    for number in range(50):
        ledger.begin(Append(data=bytearray(b"x"), ranges={A: [(number, number + 1)]}, latest_ms={A: SENT_MS}))
        ledger.durable()
    with ledger_reader.open_copy(path) as copy:
        first = next(copy.accounts())
        assert ledger.db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0  # not busy
        ledger.begin(Append(data=bytearray(b"x"), ranges={B: [(0, 9)]}, latest_ms={B: SENT_MS}))
        assert [each.journal for each in copy.accounts()] == [A]
    assert first.stored_bytes == 50
    ledger.close()


@pytest.mark.parametrize("layout", [1, 2, 3])
def test_sums_of_a_ledger_of_an_earlier_layout_are_counted_once_and_kept_from_then_on(path: Path, layout: int) -> None:
    with closing(sqlite3.connect(path)) as db:
        for number in range(layout):
            db.executescript(f"BEGIN; {ledger_schema.LAYOUTS[number]} PRAGMA user_version = {number + 1}; COMMIT;")
        db.execute("INSERT INTO log (id, size, clock_ms) VALUES (1, 7, ?)", (SENT_MS,))
        huge = 10**18 - 1  # such an end was taken by earlier releases
        forged = [f"{number:032x}" for number in range(20)]
        rows = [(A, 12, None), (B, 13, 40), (C, 14, 10), *((each, 1, huge) for each in forged)]
        db.executemany("INSERT INTO journal (id, heard_ms) VALUES (?, ?)", [row[:2] for row in rows])
        db.executemany("UPDATE journal SET closed_end = ?2 WHERE id = ?1", [(row[0], row[2]) for row in rows])
        intervals = [(A, 0, 10), (A, 20, 30), (B, 0, 30), (C, 0, 10)]
        db.executemany('INSERT INTO stored (journal, start, "end") VALUES (?, ?, ?)', intervals)
        db.execute("INSERT INTO pending VALUES (1, 7, 3, 5)")
        db.execute("INSERT INTO pending_range VALUES (?, 10, 15)", (A,))
        db.commit()
    ledger = Ledger(path)
    assert ledger.pending is not None
    assert ledger.gaps() == counted(path) == (5 + 10 + 20 * huge, 22)
    ledger.durable()
    ledger.begin(Append(data=bytearray(b"x"), ranges={A: [(15, 20)]}, latest_ms={A: 15}))
    assert ledger.gaps() == counted(path) == (10 + 20 * huge, 21)
    ledger.close()
    assert wrong_sums(path) == []


def test_spans_stored_in_any_order_end_as_the_intervals_of_their_union(path: Path) -> None:
    ledger, rng = opened(path), random.Random(7)
    given = [(start, start + rng.randrange(1, 30)) for start in (rng.randrange(2_000) for _ in range(300))]
    for span in given:
        if new := ledger.missing(A, span):
            ledger.begin(Append(data=bytearray(b"x"), ranges={A: new}, latest_ms={A: SENT_MS}))
            ledger.durable()
    ledger.checkpoint()
    found = ledger.db.execute('SELECT start, "end" FROM stored ORDER BY start').fetchall()
    assert found == spans.merge(given)
    ledger.close()
