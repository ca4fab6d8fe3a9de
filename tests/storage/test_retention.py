"""`log.rotate.keep`: which closed logs are removed, and which never are."""

import asyncio
import errno
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.metrics import value
from tests.storage.rig import A, open_rig, pages, span
from tests.waiting import until
from tracker import telemetry
from tracker.archive_marker import Marker, write_marker
from tracker.config import Rotate
from tracker.storage import retention
from tracker.storage.retention import Retention
from tracker.visit_log_files import archived_marker, closed_log_path, closed_logs, compressed_path, ledger_directory

NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "visits.log"


def closed(path: Path, hours_ago: float, *, compressed: bool = False) -> Path:
    file = closed_log_path(path, NOON - timedelta(hours=hours_ago))
    file = compressed_path(file) if compressed else file
    file.write_text("a line\n")
    return file


def retain(path: Path, keep: int | str, *, archived_only: bool = False, recorded: int | None = None) -> Retention:
    return Retention(
        path=path,
        rotate=Rotate(keep=keep),
        archived_only=archived_only,
        recorded_inode=lambda: recorded,
        clock=NOON.timestamp,
    )


def test_the_newest_files_are_kept_and_each_removal_is_counted(path: Path) -> None:
    files = [closed(path, hours, compressed=hours > 2) for hours in (5, 4, 3, 2, 1)]
    before = value(telemetry.CLOSED_LOGS_REMOVED)
    retain(path, 2).remove()
    assert closed_logs(path) == files[3:]
    assert value(telemetry.CLOSED_LOGS_REMOVED) - before == 3


def test_a_log_that_is_there_plain_and_compressed_counts_once_and_goes_as_one(path: Path) -> None:
    old, new = closed(path, 2), closed(path, 1)
    both = [closed(path, 2, compressed=True), closed(path, 1, compressed=True)]
    retain(path, 1).remove()
    assert closed_logs(path) == [new, both[1]]
    assert not old.exists()


def test_an_age_is_counted_from_the_time_in_the_name(path: Path) -> None:
    old, exactly, young = closed(path, 49), closed(path, 48), closed(path, 47)
    for file in (old, exactly, young):
        os.utime(file, (0, 0))  # a copy may have any time
    retain(path, "2d").remove()
    assert closed_logs(path) == [young]


def test_only_files_that_a_rotation_of_this_log_has_made_are_counted_and_removed(path: Path) -> None:
    name = closed_log_path(path, NOON - timedelta(days=400)).name
    others = [
        *("visits.log", "visits.log.1", "visits.log-20251123.gz", "visits.log.old", f"other.{name}", f"{name}.bak"),
        *(f"{name}.gz.part", "visits.log.torn-20251124T120000.000000Z", "visits.log.20251324T120000.000000Z"),
        *("visits.log2.20251124T120000.000000Z", "visits.log.20251124T120000.00000٣Z", "visits.log.20251124T120000Z"),
    ]
    for other in others:
        path.with_name(other).write_text("somebody's\n")
    path.with_name("visits.log.20251124T120001.000000Z").mkdir()
    path.with_name("visits.log.20251124T120002.000000Z").symlink_to(path.with_name("visits.log.1"))
    reserved = path.with_name("visits.log.20251124T120003.000000Z")
    reserved.touch()
    before = sorted(path.parent.iterdir())
    mine = closed(path, 9_000)
    kept = closed(path, 1)
    retain(path, 1).remove()
    retain(path, "30d").remove()
    assert not mine.exists()
    assert sorted(path.parent.iterdir()) == sorted([*before, kept])


def test_where_there_is_an_archive_nothing_goes_that_it_has_not_stored(path: Path) -> None:
    """Nor a log that has got the name of another one, which was stored and has gone."""
    files = [closed(path, 6), closed(path, 5), closed(path, 4, compressed=True), closed(path, 3), closed(path, 2)]
    ledger_directory(path).mkdir()
    archived_marker(path, files[1]).parent.mkdir()
    write_marker(archived_marker(path, files[1]), Marker("0" * 64, 1, 0, [], 1_000_000_000))
    for file in files[2:4]:
        write_marker(archived_marker(path, file), Marker("0" * 64, 1, 0, [], file.stat().st_mtime_ns))
    archived_marker(path, files[0]).touch()  # such a marker does not count
    retain(path, 1, archived_only=True).remove()
    assert closed_logs(path) == [files[0], files[1], files[4]]
    assert archived_marker(path, files[2]).name == closed_log_path(path, NOON - timedelta(hours=4)).name


def test_the_file_that_the_ledger_has_recorded_as_the_log_stays_whatever_its_name(path: Path) -> None:
    files = [closed(path, 30), closed(path, 20), closed(path, 10)]
    retain(path, "1h", recorded=files[2].stat().st_ino).remove()
    assert closed_logs(path) == [files[2]]
    retain(path, 1, recorded=files[2].stat().st_ino).remove()
    assert closed_logs(path) == [files[2]]


async def test_a_rotation_that_is_interrupted_before_its_end_can_still_be_finished(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_rig(path, rotate=Rotate(max_bytes=1)) as rig:
        await rig.write(span(A, 0, 2))
        real = rig.ledger.record_log

        def interrupted(size: int, inode: int) -> None:
            Retention(
                path=path, rotate=Rotate(keep="1ms"), archived_only=False, recorded_inode=lambda: rig.ledger.inode
            ).remove()
            real(size, inode)

        monkeypatch.setattr(rig.ledger, "record_log", interrupted)
        await rig.write(span(A, 2, 3))
        [file] = closed_logs(path)
    assert file.stat().st_size > 0


async def test_a_removal_that_fails_is_logged_and_tried_again(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(retention, "PERIOD_SECONDS", 0.01)
    files = [closed(path, 3), closed(path, 2), closed(path, 1)]
    real, fixed = Path.unlink, False

    def unlink(self: Path, **options: Any) -> None:
        if self == files[0] and not fixed:
            raise PermissionError(errno.EPERM, "Operation not permitted")
        real(self, **options)

    monkeypatch.setattr(Path, "unlink", unlink)
    running = asyncio.create_task(retain(path, 1).run())
    await until(lambda: not files[1].exists() and "closed_log_not_removed" in caplog.text)
    assert files[0].exists()
    fixed = True
    await until(lambda: not files[0].exists())
    running.cancel()
    await asyncio.wait([running])
    assert closed_logs(path) == [files[2]]


async def test_a_directory_that_cannot_be_read_is_logged_and_read_again(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(retention, "PERIOD_SECONDS", 0.01)
    missing = path.parent / "later" / "visits.log"
    running = asyncio.create_task(retain(missing, 1).run())
    await until(lambda: "closed_log_not_removed" in caplog.text)
    missing.parent.mkdir()
    old, new = closed(missing, 2), closed(missing, 1)
    await until(lambda: not old.exists())
    running.cancel()
    await asyncio.wait([running])
    assert new.exists()


async def test_a_rotation_starts_the_next_look(path: Path) -> None:
    under_test = retain(path, 1)
    first = closed(path, 3)
    running = asyncio.create_task(under_test.run())
    second = closed(path, 2)
    under_test.add(second)
    await until(lambda: not first.exists())
    running.cancel()
    await asyncio.wait([running])
    assert second.exists()


async def test_what_is_removed_costs_no_visit_and_the_next_start_finds_all_in_order(path: Path) -> None:
    rotate = Rotate(max_bytes=1, keep=1)
    async with open_rig(path, rotate=rotate) as rig:
        for number in range(4):
            await rig.write(span(A, number, number + 1))
            Retention(path=path, rotate=rotate, archived_only=False, recorded_inode=lambda: rig.ledger.inode).remove()
    async with open_rig(path, rotate=rotate) as rig:
        await rig.write(span(A, 0, 5))
        assert await rig.call(rig.ledger.gaps) == (0, 0)
    assert pages(A, 4, 5)[0] in path.read_text()
