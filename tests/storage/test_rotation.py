"""The log is put aside between two appends: nothing is lost, repeated, split or overwritten, wherever it ends."""

import asyncio
import errno
import gzip
import os
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.metrics import value
from tests.storage.rig import A, journal_line, logged, open_rig, pages, span
from tests.waiting import until
from tracker import telemetry
from tracker.config import Rotate
from tracker.core.log_line import parse_line
from tracker.errors import ConfigurationError, LogChanged
from tracker.storage import compressor, rotation, visit_log
from tracker.storage import writer as writer_module
from tracker.storage.compressor import Compressor, compress
from tracker.storage.ledger import Ledger
from tracker.storage.rotation import Rotation
from tracker.visit_log_files import closed_logs

SMALL = Rotate(max_bytes=1)  # every append has a file of its own
NOON = datetime(2026, 11, 24, 12, tzinfo=UTC).timestamp()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "visits.log"


def all_pages(path: Path) -> list[str]:
    """The pages of all visits, in the order of writing: of the rotated files, then of the log."""
    files = [*closed_logs(path), path]
    return [page for file in files for page in logged(file)]


async def test_a_log_that_has_its_size_is_put_aside_before_the_next_append(path: Path) -> None:
    async with open_rig(path, rotate=Rotate(max_bytes=300)) as rig:
        for number in range(8):
            await rig.write(span(A, number, number + 1))
        assert path.stat().st_mode & 0o777 == 0o640
    assert len(closed_logs(path)) >= 2
    assert all(300 <= file.stat().st_size < 400 for file in closed_logs(path))
    assert all(file.read_bytes().endswith(b"\n") for file in [*closed_logs(path), path])
    assert all_pages(path) == pages(A, 0, 8)


@pytest.mark.parametrize(
    ("every", "written", "now", "due"),
    [
        ("hour", NOON - 1, NOON, True),
        ("hour", NOON, NOON + 3_599, False),
        ("hour", NOON, NOON + 3_600, True),
        ("day", NOON, NOON + 11 * 3_600, False),
        ("day", NOON, NOON + 12 * 3_600, True),
        ("day", NOON, NOON - 86_400, False),  # a clock that was put back
        (None, NOON, NOON + 400 * 86_400, False),
    ],
)
async def test_an_hour_or_a_day_of_utc_that_is_over_is_put_aside(
    path: Path, every: Any, written: float, now: float, due: bool
) -> None:
    async with open_rig(path, rotate=Rotate(every=every), clock=lambda: now) as rig:
        await rig.write(span(A, 0, 1))
        os.utime(path, (written, written))
        assert rig.log.rotation.is_due(path.stat()) is due


async def test_an_empty_log_is_never_due(path: Path) -> None:
    async with open_rig(path, rotate=Rotate(max_bytes=1, every="hour"), clock=lambda: NOON) as rig:
        os.utime(path, (0, 0))
        assert not rig.log.rotation.is_due(path.stat())


async def test_an_idle_log_is_rotated_when_its_hour_is_over(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer_module, "IDLE_SECONDS", 0.01)
    async with open_rig(path, rotate=Rotate(every="hour"), clock=lambda: NOON) as rig:
        running = asyncio.create_task(rig.writer.run())
        rig.received.put_nowait(span(A, 0, 2))
        await until(lambda: rig.acknowledged)
        os.utime(path, (NOON - 1, NOON - 1))
        await until(lambda: closed_logs(path) and path.exists() and path.stat().st_size == 0)
        rig.received.put_nowait(None)
        await running
    [file] = closed_logs(path)
    assert file.name == "visits.log.20261124T120000.000000Z"
    assert logged(file) == pages(A, 0, 2)


async def test_names_sort_in_the_order_of_writing_even_when_the_clock_goes_back(path: Path) -> None:
    clock = iter([NOON, NOON, NOON - 5_000, NOON + 1])
    async with open_rig(path, rotate=SMALL, clock=lambda: next(clock)) as rig:
        for number in range(5):
            await rig.write(span(A, number, number + 1))
    assert [file.name.partition("T")[2] for file in closed_logs(path)] == [
        "120000.000000Z",
        "120000.000001Z",
        "120000.000002Z",
        "120001.000000Z",
    ]
    assert all_pages(path) == pages(A, 0, 5)


async def test_files_of_others_are_neither_overwritten_nor_taken_for_rotated_ones(path: Path) -> None:
    foreign = {
        path.with_name(f"visits.log{suffix}"): suffix.encode()
        for suffix in (
            ".1",
            ".old",
            ".20261124T120000.000000Z",
            ".2026",
            "-20261124",
            ".20261124T120000.000000Z.gz.bak",
        )
    }
    for file, data in foreign.items():
        file.write_bytes(data)
    async with open_rig(path, rotate=SMALL, clock=lambda: NOON) as rig:
        await rig.write(span(A, 0, 1))
        await rig.write(span(A, 1, 2))
    async with open_rig(path):
        pass
    assert {file: file.read_bytes() for file in foreign} == foreign
    assert logged(path.with_name("visits.log.20261124T120000.000001Z")) == pages(A, 0, 1)


async def test_a_log_taken_over_within_a_line_does_not_leave_its_newline_to_the_next(path: Path) -> None:
    path.write_bytes(b"2023-12-10T22:22:43.793620+00:00|null|null|192.0.2.9")
    async with open_rig(path, rotate=SMALL) as rig:
        await rig.write(span(A, 0, 1))
    assert path.read_bytes().startswith(b"2026")
    async with open_rig(path, rotate=Rotate()) as rig:
        await rig.write(span(A, 1, 2))
    assert logged(path) == pages(A, 0, 2)


class Death(BaseException):
    """The process ends here: nothing behind it happens."""


def _die_at(monkeypatch: pytest.MonkeyPatch, steps: list[tuple[Any, str]], number: int, when: str) -> list[str]:
    """Let the `number`th call of these be the last: it does its work before the death, or does not."""
    made: list[str] = []

    def deadly(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            if len(made) >= number:
                raise Death  # a dead process does nothing more, not even clean up
            made.append(name)
            if len(made) == number and when == "before":
                raise Death
            result = real(*arguments, **options)
            if len(made) == number:
                raise Death
            return result

        return call

    for owner, name in steps:
        monkeypatch.setattr(owner, name, deadly(name, getattr(owner, name)))
    return made


STEPS = [
    (Ledger, "begin"),
    (Ledger, "record_rotation"),
    (Ledger, "record_log"),
    (Rotation, "reserve"),
    (rotation, "create_log"),
    (rotation, "sync_directory"),
    (Path, "rename"),
    (Path, "unlink"),
]


@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_death_at_any_step_loses_and_repeats_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    reached: list[str] = []
    for number in range(1, 50):
        path = tmp_path / str(number) / "visits.log"
        path.parent.mkdir()
        with pytest.MonkeyPatch.context() as patch:
            async with open_rig(path, rotate=SMALL) as rig:
                await rig.write(span(A, 0, 3))
                made = _die_at(patch, STEPS, number, when)
                died = False
                try:
                    await rig.write(span(A, 3, 5))
                except Death:
                    died = True
                    assert len(rig.acknowledged) == 1
        reached = made
        async with open_rig(path, rotate=SMALL) as rig:  # what was not acknowledged comes again
            await rig.write(span(A, 2, 5))
            await rig.write(span(A, 4, 7))
        assert all_pages(path) == pages(A, 0, 7), f"died {when} step {number}: {made}"
        assert [file for file in path.parent.glob("visits.log.2*") if not file.stat().st_size] == []
        if not died:
            break
    else:
        pytest.fail("no run came through untouched")
    assert {"reserve", "record_rotation", "rename", "create_log", "record_log"} <= set(reached)


CANNOT_BEGIN: list[Any] = [
    pytest.param(owner, name, number, id=f"{name.strip('_')} {errno.errorcode[number]}")
    for owner, name in ((os, "open"), (os, "listdir"), (Path, "rename"))
    for number in (errno.ENOSPC, errno.EMFILE, errno.ENFILE, errno.EACCES, errno.EEXIST, errno.EROFS, errno.EIO)
]


class Failing:
    """In the place of `owner.name`: fails with `number` until it is repaired."""

    def __init__(self, patch: pytest.MonkeyPatch, owner: Any, name: str, number: int) -> None:
        self.tries = 0
        self.repaired = False
        real = getattr(owner, name)

        def call(*arguments: Any, **options: Any) -> Any:
            if self.repaired or (owner is os and "visits.log.2" not in f"{arguments[0]}" and name == "open"):
                return real(*arguments, **options)
            self.tries += 1
            raise OSError(number, os.strerror(number))

        patch.setattr(owner, name, call)


@pytest.mark.parametrize(("owner", "name", "number"), CANNOT_BEGIN)
async def test_a_rotation_that_cannot_begin_is_put_off_and_appends_go_on(
    path: Path, caplog: pytest.LogCaptureFixture, owner: Any, name: str, number: int
) -> None:
    before = value(telemetry.ROTATIONS_FAILED)
    with pytest.MonkeyPatch.context() as patch:
        async with open_rig(path, rotate=SMALL) as rig:
            await rig.write(span(A, 0, 1))
            failing = Failing(patch, owner, name, number)
            for index in range(1, 5):
                await rig.write(span(A, index, index + 1))
            assert len(rig.acknowledged) == 5
            assert rig.ledger.rotating is None
            assert (failing.tries, value(telemetry.ROTATIONS_FAILED) - before) == (1, 1), "not tried at every append"
            assert logged(path) == pages(A, 0, 5)
    [said] = [record.getMessage() for record in caplog.records]
    assert said.startswith(f"rotation_put_off path={path} error={os.strerror(number)} ")
    async with open_rig(path, rotate=SMALL) as rig:
        await rig.write(span(A, 4, 6))
    assert [len(logged(file)) for file in closed_logs(path)] == [5]
    assert all_pages(path) == pages(A, 0, 6)


@pytest.mark.parametrize(("owner", "name"), [(os, "open"), (Path, "rename")])
async def test_a_rotation_that_was_put_off_is_tried_again_by_itself_and_said_once(
    path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str
) -> None:
    monkeypatch.setattr(rotation, "RETRY_SECONDS", 0.0)
    async with open_rig(path, rotate=SMALL) as rig:
        await rig.write(span(A, 0, 1))
        failing = Failing(monkeypatch, owner, name, errno.EMFILE)
        for index in range(1, 4):
            await rig.write(span(A, index, index + 1))
        assert failing.tries == 3
        failing.repaired = True
        await rig.write(span(A, 4, 5))
        assert [len(logged(file)) for file in closed_logs(path)] == [4]
        failing.repaired = False
        await rig.write(span(A, 5, 6))
    assert all_pages(path) == pages(A, 0, 6)
    said = [record.getMessage().split()[0] for record in caplog.records]
    assert said == ["rotation_put_off"] * 2, "once for each time it began to fail"
    assert [file for file in path.parent.glob("visits.log.2*") if not file.stat().st_size] == []


async def test_a_rename_that_was_done_and_says_that_it_failed_is_a_rotation(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Path.rename

    def late(self: Path, target: Path) -> Path:
        real(self, target)
        raise OSError(errno.EIO, "Input/output error")

    async with open_rig(path, rotate=SMALL) as rig:
        await rig.write(span(A, 0, 1))
        monkeypatch.setattr(Path, "rename", late)
        await rig.write(span(A, 1, 2))
        assert rig.closed == closed_logs(path)
    assert [len(logged(file)) for file in closed_logs(path)] == [1]
    assert all_pages(path) == pages(A, 0, 2)


@pytest.mark.parametrize("time", ["20269999T990000.000000Z", "20260230T000000.000000Z.gz", "00000101T000000.000000Z"])
async def test_a_name_that_is_no_time_is_somebody_elses_file(path: Path, time: str) -> None:
    foreign = path.with_name(f"visits.log.{time}")
    foreign.touch()
    async with open_rig(path, rotate=SMALL) as rig:
        await rig.write(span(A, 0, 1))
        await rig.write(span(A, 1, 2))
    assert len(closed_logs(path)) == 1
    assert foreign.exists()


async def test_when_no_later_name_is_left_the_rotation_is_put_off(path: Path) -> None:
    path.with_name("visits.log.99991231T235959.999999Z").write_text("somebody else's")
    async with open_rig(path, rotate=SMALL) as rig:
        await rig.write(span(A, 0, 1))
        await rig.write(span(A, 1, 2))
    assert logged(path) == pages(A, 0, 2)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EMFILE, errno.ENFILE, errno.EACCES, errno.EROFS])
@pytest.mark.parametrize(
    ("owner", "name"),
    [(rotation, "sync_directory"), (rotation, "create_log"), (visit_log, "open_log_file")],
    ids=["sync", "create", "open"],
)
async def test_a_rotation_that_has_begun_is_finished_before_the_next_append(
    path: Path, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, number: int
) -> None:
    monkeypatch.setattr(writer_module, "RETRY_SECONDS", 0.01)
    async with open_rig(path, rotate=SMALL) as rig:
        await rig.write(span(A, 0, 1))
        failing = Failing(monkeypatch, owner, name, number)
        running = asyncio.create_task(rig.run([span(A, 1, 3)]))
        await until(lambda: rig.writer.paused and failing.tries > 2)
        assert os.strerror(number) in str(rig.writer.paused)
        assert len(rig.acknowledged) == 1
        failing.repaired = True
        await running
        assert rig.writer.paused is None
        assert rig.closed == closed_logs(path)
    assert len(logged(closed_logs(path)[0])) == 1
    assert all_pages(path) == pages(A, 0, 3)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EMFILE, errno.EACCES])
@pytest.mark.parametrize(
    ("owner", "name"), [(rotation, "create_log"), (rotation, "sync_directory"), (visit_log, "open_log_file")]
)
async def test_a_reopening_that_fails_is_tried_again(
    path: Path, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, number: int
) -> None:
    monkeypatch.setattr(writer_module, "RETRY_SECONDS", 0.01)
    async with open_rig(path) as rig:
        await rig.write(span(A, 0, 1))
        aside = path.rename(path.with_suffix(".1"))
        failing = Failing(monkeypatch, owner, name, number)
        rig.log.request_reopen()
        running = asyncio.create_task(rig.run([span(A, 1, 3)]))
        await until(lambda: rig.writer.paused and failing.tries > 2)
        assert os.strerror(number) in str(rig.writer.paused)
        failing.repaired = True
        await running
    assert logged(aside) + logged(path) == pages(A, 0, 3)


async def test_a_sighup_for_a_log_that_was_not_moved_opens_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_rig(path) as rig:
        await rig.write(span(A, 0, 1))
        failing = Failing(monkeypatch, visit_log, "open_log_file", errno.EMFILE)
        rig.log.request_reopen()
        await rig.write(span(A, 1, 2))
    assert failing.tries == 0
    assert logged(path) == pages(A, 0, 2)


async def test_a_stop_amid_a_rotation_without_room_is_finished_by_the_next_start(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    async with open_rig(path, rotate=SMALL) as rig:
        await rig.write(span(A, 0, 1))
        with monkeypatch.context() as patch:
            patch.setattr(rotation, "create_log", full)
            rig.stop.set()
            await rig.run([span(A, 1, 3)])
        assert len(rig.acknowledged) == 1
        assert not path.exists()
    async with open_rig(path) as rig:
        await rig.write(span(A, 0, 3))
    assert all_pages(path) == pages(A, 0, 3)


@pytest.mark.parametrize("strange", ["both", "neither"])
async def test_files_that_no_rotation_leaves_are_refused_until_accepted(path: Path, strange: str) -> None:
    async with open_rig(path) as rig:
        await rig.write(span(A, 0, 1))
        await rig.call(rig.ledger.checkpoint)
        await rig.call(rig.ledger.record_rotation, "visits.log.20261124T120000.000000Z")
    if strange == "both":
        path.with_name("visits.log.20261124T120000.000000Z").write_bytes(path.read_bytes())
    else:
        path.unlink()
    with pytest.raises(LogChanged, match="--accept-log"):
        async with open_rig(path):
            pass
    async with open_rig(path, accept=True) as rig:
        await rig.write(span(A, 0, 2))
    assert logged(path)[-1:] == pages(A, 1, 2)


async def test_a_log_whose_name_leads_to_another_file_is_not_rotated(path: Path) -> None:
    async with open_rig(path, rotate=SMALL) as rig:
        await rig.write(span(A, 0, 1))
        path.rename(path.with_suffix(".moved"))
        path.write_bytes(b"foreign\n")
        with pytest.raises(LogChanged, match="SIGHUP"):
            await rig.write(span(A, 1, 2))
    assert path.read_bytes() == b"foreign\n"
    assert closed_logs(path) == []


@pytest.mark.parametrize("new", [None, b""], ids=["no new file", "an empty new file"])
@pytest.mark.parametrize("torn", [False, True])
async def test_a_log_put_aside_while_nobody_ran_is_followed(path: Path, new: bytes | None, torn: bool) -> None:
    async with open_rig(path) as rig:
        await rig.write(span(A, 0, 1))
        await rig.write(span(A, 1, 2))  # pending
    aside = path.with_name("visits.log.1")
    path.rename(aside)
    if torn:
        os.truncate(aside, aside.stat().st_size - 1)
    if new is not None:
        path.write_bytes(new)
    async with open_rig(path) as rig:
        assert logged(aside) == pages(A, 0, 1 if torn else 2)
        await rig.write(span(A, 0, 3))
    assert logged(aside) + logged(path) == pages(A, 0, 3)


async def test_a_log_that_is_a_symbolic_link_is_refused(path: Path) -> None:
    path.symlink_to(path.with_suffix(".elsewhere"))
    with pytest.raises(ConfigurationError, match="symbolic link"):
        async with open_rig(path):
            pass


def test_a_compressed_file_takes_the_place_of_the_other(tmp_path: Path) -> None:
    file = tmp_path / "visits.log.20261124T120000.000000Z"
    data = journal_line(A, 1) * 50_000
    file.write_bytes(data)
    file.chmod(0o604)
    os.utime(file, (NOON, NOON))
    compress(file, threading.Event())
    [done] = tmp_path.iterdir()
    assert done.name == f"{file.name}.gz"
    assert gzip.decompress(done.read_bytes()) == data
    assert (done.stat().st_mode & 0o777, done.stat().st_mtime) == (0o604, NOON)
    assert closed_logs(tmp_path / "visits.log") == [done]


@pytest.mark.parametrize("step", ["fsync", "rename", "unlink"])
def test_a_compression_that_ends_anywhere_is_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    file = tmp_path / "visits.log.20261124T120000.000000Z"
    file.write_bytes(b"x" * 100)

    def die(*arguments: Any, **options: Any) -> None:
        raise Death

    with monkeypatch.context() as patch:
        owner: Any = os if step == "fsync" else Path
        patch.setattr(owner, step, die)
        with pytest.raises(Death):
            compress(file, threading.Event())
    assert file.read_bytes() == b"x" * 100
    compress(file, threading.Event())
    [done] = tmp_path.iterdir()
    assert gzip.decompress(done.read_bytes()) == b"x" * 100


async def test_the_compressor_does_what_a_stop_or_a_full_disk_left_undone(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compressor, "RETRY_SECONDS", 0.01)
    real, room, refused = compress, threading.Event(), threading.Event()

    def full(file: Path, ending: threading.Event) -> None:
        if not room.is_set():
            refused.set()
            raise OSError(errno.ENOSPC, "No space left on device")
        real(file, ending)

    monkeypatch.setattr(compressor, "compress", full)
    async with open_rig(path, rotate=SMALL) as rig:
        for number in range(3):
            await rig.write(span(A, number, number + 1))
        assert rig.closed == closed_logs(path)
        under_test = Compressor(rig.closed[:1])
        running = asyncio.create_task(under_test.run())
        await until(refused.is_set)
        assert [file.suffix == ".gz" for file in closed_logs(path)] == [False, False]
        under_test.add(rig.closed[1])
        room.set()
        await until(lambda: [file.suffix == ".gz" for file in closed_logs(path)] == [True, True])
        under_test.add(path.with_name("visits.log.taken-away"))
        await rig.write(span(A, 3, 4))
        under_test.add(rig.closed[2])
        await until(lambda: [file.suffix == ".gz" for file in closed_logs(path)] == [True] * 3)
        running.cancel()
        await asyncio.wait([running])
    assert [parse_line(gzip.decompress(file.read_bytes())).referrer for file in closed_logs(path)] == pages(A, 0, 3)


def test_a_name_that_is_reserved_is_no_rotated_file(path: Path) -> None:
    reserved = path.with_name("visits.log.20261124T120000.000000Z")
    reserved.touch()
    assert closed_logs(path) == []
    rotation.remove_reserved_names(path)
    assert not reserved.exists()
