"""Two copies of one running pixel send other bytes for the same range of a journal: none of them is deleted unread."""

import errno
import logging
from pathlib import Path

import pytest

from tests.storage.rig import A, B, Rig, delivery, lines, logged, offset_of, open_rig, pages, span
from tracker import telemetry
from tracker.core.delivery import Delivery
from tracker.core.message import pack
from tracker.errors import StorageFull
from tracker.storage import ledger as ledger_module


def other(first: int, last: int) -> Delivery:
    """Other visits for the same lines of A: those of the journal B, whose lines are as long."""
    message = pack(A, offset_of(A, first), lines(B, first, last), compress=True)
    return delivery(message.body, message.attributes)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "visits.log"


async def test_a_repeat_with_other_bytes_is_left_counted_and_logged_once(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = telemetry.total(telemetry.CONFLICTING), telemetry.total(telemetry.MALFORMED)
    conflicting = other(0, 3)
    with caplog.at_level(logging.WARNING):
        async with open_rig(path) as rig:
            stored, repeat = span(A, 0, 3), span(A, 0, 3)
            await rig.write(stored, repeat)
            await rig.write(conflicting)
            await rig.write(conflicting)
            assert rig.left == [conflicting, conflicting]
            assert rig.acknowledged == [stored, repeat]
    assert logged(path) == pages(A, 0, 3)
    assert telemetry.total(telemetry.CONFLICTING) - before[0] == 2
    assert telemetry.total(telemetry.MALFORMED) == before[1]
    [record] = caplog.records
    assert record.getMessage().startswith(f"conflict_found id={conflicting.message_id} reason=journal {A}")


async def test_the_first_bytes_count_whoever_sent_them_and_the_others_are_left(path: Path) -> None:
    forged, real = other(2, 4), span(A, 2, 4)
    async with open_rig(path) as rig:
        await rig.write(forged, span(A, 0, 2), real)
        assert rig.left == [real]
    assert logged(path) == pages(B, 2, 4) + pages(A, 0, 2)


async def test_other_bytes_within_a_larger_span_are_found(path: Path) -> None:
    async with open_rig(path) as rig:
        await rig.write(span(A, 0, 1), span(A, 3, 5))
        longer = [other(0, 2), other(2, 6), other(0, 6)]
        await rig.write(*longer)
        assert rig.left == longer
    assert logged(path) == pages(A, 0, 1) + pages(A, 3, 5)


async def test_spans_that_are_cut_anew_after_a_crash_conflict_with_nothing(path: Path) -> None:
    async with open_rig(path) as rig:
        await rig.write(span(A, 0, 2), span(A, 2, 5))
        anew = [span(A, 1, 3), span(A, 0, 5), span(A, 0, 1), span(A, 4, 7), span(A, 0, 8)]
        await rig.write(*anew)
        assert rig.left == []
        assert rig.acknowledged[2:] == anew
    assert logged(path) == pages(A, 0, 8)


@pytest.mark.parametrize("checkpoint", [True, False], ids=["merged", "pending"])
async def test_checksums_outlive_the_process_with_the_append_that_they_are_of(path: Path, checkpoint: bool) -> None:
    async with open_rig(path) as rig:
        await rig.write(span(A, 0, 3))
        if checkpoint:
            await rig.call(rig.ledger.checkpoint)
    async with open_rig(path) as rig:
        conflicting, repeat = other(0, 3), span(A, 0, 3)
        await rig.write(conflicting, repeat)
        assert (rig.left, rig.acknowledged) == ([conflicting], [repeat])


async def test_an_append_that_was_rolled_back_leaves_no_checksum(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_rig(path) as rig:

        async def full(data: bytes) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(rig.log.file.stream, "write", full)
            with pytest.raises(StorageFull):
                await rig.write(other(0, 3))
        await rig.write(span(A, 0, 3))
        await rig.write(span(A, 0, 3))
        assert rig.left == []
    assert logged(path) == pages(A, 0, 3)


async def test_the_last_spans_are_known_and_the_table_stays_bounded(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_module, "KEPT_SPANS", 5)

    async def known(rig: Rig, number: int) -> bool:
        left = len(rig.left)
        await rig.write(other(number, number + 1))
        return len(rig.left) > left

    async with open_rig(path) as rig:
        for number in range(20):
            await rig.write(span(A, number, number + 1))
        await rig.call(rig.ledger.checkpoint)
        assert await rig.query("SELECT count(*) FROM span") == [(5,)]
        assert [await known(rig, number) for number in (13, 14, 15, 19)] == [False, False, True, True]
    assert logged(path) == pages(A, 0, 20)


async def test_a_span_with_every_second_line_stored_before_brings_exactly_the_others(path: Path) -> None:
    many = 400
    async with open_rig(path) as rig:
        for number in range(0, many, 2):
            rig.received.put_nowait(span(A, number, number + 1))
        await rig.write(span(A, 0, many))
        assert rig.left == []
        assert await rig.query('SELECT start, "end" FROM pending_range') == [(0, offset_of(A, many))]
    assert sorted(logged(path)) == sorted(pages(A, 0, many))
