"""The ledger's own file: removed, replaced, locked, damaged, or not to be opened. Nothing is deleted from SQS then."""

import asyncio
import logging
import os
import resource
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.storage.rig import A, logged, open_rig, pages, span
from tests.waiting import until
from tracker.errors import AppendFailed, ConfigurationError, LedgerBusy, LedgerDamaged, LogChanged
from tracker.storage import ledger_schema, pending
from tracker.storage import writer as writer_module
from tracker.storage.ledger_reader import open_copy, read_extent
from tracker.storage.recovery import open_ledger
from tracker.visit_log_files import ledger_directory, ledger_path, sqlite_files


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "visits.log"


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer_module, "RETRY_SECONDS", 0.01)
    monkeypatch.setattr(ledger_schema, "BUSY_SECONDS", 0.01)
    monkeypatch.setattr(ledger_schema, "START_BUSY_SECONDS", 0.05)


def pauses(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The cause of each pause that was logged."""
    messages = [record.getMessage().split() for record in caplog.records if record.levelno == logging.ERROR]
    return [message[1] for message in messages if message[0] == "append_paused"]


def aside(file: Path) -> Path:
    return file.with_name(file.name + ".aside")


def replace(path: Path) -> None:
    file = ledger_path(path)
    file.rename(aside(file))
    file.write_bytes(aside(file).read_bytes())


MOVES: dict[str, tuple[Callable[[Path], object], Callable[[Path], object]]] = {
    "file moved": (
        lambda path: ledger_path(path).rename(aside(ledger_path(path))),
        lambda path: aside(ledger_path(path)).rename(ledger_path(path)),
    ),
    "file replaced by a copy": (replace, lambda path: aside(ledger_path(path)).rename(ledger_path(path))),
    "directory moved": (
        lambda path: ledger_directory(path).rename(aside(path)),
        lambda path: aside(path).rename(ledger_directory(path)),
    ),
    "write-ahead log moved": (
        lambda path: Path(f"{ledger_path(path)}-wal").rename(aside(path)),
        lambda path: aside(path).rename(f"{ledger_path(path)}-wal"),
    ),
    "index of it moved": (
        lambda path: Path(f"{ledger_path(path)}-shm").rename(aside(path)),
        lambda path: aside(path).rename(f"{ledger_path(path)}-shm"),
    ),
}


@pytest.mark.parametrize("what", MOVES)
async def test_a_ledger_that_is_moved_under_the_writer_pauses_it_until_it_is_back(
    path: Path, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    move, move_back = MOVES[what]
    async with open_rig(path) as rig:
        await rig.write(span(A, 0, 2))
        move(path)
        running = asyncio.create_task(rig.run([span(A, 0, 3)]))
        await until(lambda: rig.writer.paused)
        assert "was removed, moved or replaced" in str(rig.writer.paused)
        assert (logged(path), len(rig.acknowledged)) == (pages(A, 0, 2), 1)
        move_back(path)
        await running
        assert len(rig.acknowledged) == 2
    assert logged(path) == pages(A, 0, 3)
    assert pauses(caplog) == ["cause=ledger_moved"]


async def test_a_ledger_that_is_deleted_under_the_writer_pauses_it_until_the_stop(path: Path) -> None:
    async with open_rig(path) as rig:
        await rig.write(span(A, 0, 2))
        for file in ledger_directory(path).iterdir():
            file.unlink()
        running = asyncio.create_task(rig.run([span(A, 0, 3)]))
        await until(lambda: rig.writer.paused)
        rig.stop.set()
        await running
        assert len(rig.acknowledged) == 1
    assert logged(path) == pages(A, 0, 2)


async def test_another_hard_link_to_the_ledger_is_ignored(path: Path) -> None:
    async with open_rig(path) as rig:
        await rig.write(span(A, 0, 2))
        os.link(ledger_path(path), aside(path))
        await rig.write(span(A, 0, 3))
        aside(path).unlink()
        await rig.run([span(A, 0, 4)])
    assert logged(path) == pages(A, 0, 4)


@contextmanager
def locked(path: Path, how: str) -> Iterator[None]:
    with closing(sqlite3.connect(ledger_path(path), isolation_level=None)) as db:
        db.execute(how)
        db.execute("SELECT * FROM log").fetchall()
        yield
        db.execute("ROLLBACK")


async def test_a_ledger_that_another_program_has_locked_pauses_the_writer_until_it_is_free(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_rig(path) as rig:
        await rig.write(span(A, 0, 2))
        with locked(path, "BEGIN IMMEDIATE"):
            running = asyncio.create_task(rig.run([span(A, 0, 3), span(A, 3, 4)]))
            await until(lambda: rig.writer.paused)
            assert "another program has locked" in str(rig.writer.paused)
            assert len(rig.acknowledged) == 1
        await running
        assert rig.writer.paused is None
        assert len(rig.acknowledged) == 3
    assert logged(path) == pages(A, 0, 4)
    assert pauses(caplog) == ["cause=ledger_busy"]


async def test_a_look_into_a_locked_ledger_pauses_too_and_takes_the_delivery_once(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_rig(path) as rig:
        await rig.write(span(A, 0, 2))
        missing, tries = rig.ledger.missing, []

        def busy_twice(*arguments: object) -> object:
            tries.append(arguments)
            if len(tries) < 3:
                raise LedgerBusy("another program has locked it")
            return missing(*arguments)  # type: ignore[arg-type]

        monkeypatch.setattr(rig.ledger, "missing", busy_twice)
        await rig.run([span(A, 0, 3)])
        assert len(rig.acknowledged) == 2
    assert logged(path) == pages(A, 0, 3)


@pytest.mark.parametrize("how", ["BEGIN IMMEDIATE", "BEGIN"], ids=["written", "read"])
async def test_a_start_with_a_locked_ledger_names_the_lock_and_may_be_tried_again(path: Path, how: str) -> None:
    async with open_rig(path) as rig:
        await rig.write(span(A, 0, 2))
        with locked(path, "BEGIN"):  # keeps the write-ahead log from being emptied by the close
            await rig.call(rig.ledger.checkpoint)
    with closing(sqlite3.connect(ledger_path(path), isolation_level=None)) as db:
        db.execute("UPDATE log SET clock_ms = clock_ms + 1")
        with locked(path, how), pytest.raises(LedgerBusy, match=r"by another program|another program has locked"):
            open_ledger(path, 0o640, accept=False)
    async with open_rig(path) as rig:
        await rig.write(span(A, 0, 3))
    assert logged(path) == pages(A, 0, 3)


def _no_database(file: Path) -> None:
    file.write_bytes(b"no database" * 1_000)


def _zeros(file: Path) -> None:
    file.write_bytes(bytes(file.stat().st_size))


def _half(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def _empty(file: Path) -> None:
    os.truncate(file, 0)


@pytest.mark.parametrize("damage", [_no_database, _zeros, _half, _empty])
async def test_a_damaged_ledger_is_refused_with_a_way_out_that_keeps_it_and_goes_on_with_the_log(
    path: Path, damage: Callable[[Path], None]
) -> None:
    async with open_rig(path) as rig:
        await rig.run([span(A, 0, 2)])
    damage(ledger_path(path))
    found = ledger_path(path).read_bytes()
    for _ in range(2):
        with pytest.raises(LogChanged, match="--accept-log") as caught:
            open_ledger(path, 0o640, accept=False)
        assert "written a second time" in str(caught.value)
        assert ledger_path(path).read_bytes() == found, "a start that is refused changes nothing"
    async with open_rig(path, accept=True) as rig:
        await rig.run([span(A, 2, 3)])
    async with open_rig(path) as rig:
        await rig.run([span(A, 2, 4)])
    assert logged(path) == pages(A, 0, 4)
    kept = [file.read_bytes() for file in ledger_directory(path).glob("ledger.sqlite.damaged-*")]
    assert kept == ([found] if found else [])


async def test_damage_is_found_by_a_start_wherever_it_is_and_kept_aside_when_the_log_is_accepted(path: Path) -> None:
    async with open_rig(path) as rig:
        await rig.run([span(A, number, number + 1) for number in range(0, 200, 2)])
        [(page,)] = await rig.query("SELECT rootpage FROM sqlite_master WHERE name = 'stored'")
    assert isinstance(page, int)
    with ledger_path(path).open("r+b") as file:
        file.seek((page - 1) * 4096)
        file.write(b"\xff" * 4096)
    with pytest.raises(LedgerDamaged, match="Start once with --accept-log"):
        open_ledger(path, 0o640, accept=False)
    async with open_rig(path, accept=True) as rig:
        await rig.run([span(A, 300, 301)])
    assert len(list(ledger_directory(path).glob("ledger.sqlite.damaged-*"))) == 1
    assert logged(path)[-1:] == pages(A, 300, 301)


async def test_an_empty_ledger_beside_an_empty_or_new_log_is_a_first_start(path: Path) -> None:
    ledger_directory(path).mkdir()
    ledger_path(path).touch()  # where a first start was killed
    async with open_rig(path) as rig:
        await rig.run([span(A, 0, 2)])
    assert logged(path) == pages(A, 0, 2)


@pytest.mark.parametrize("what", ["directory", "link"])
def test_a_ledger_that_only_the_operator_can_fix_is_a_configuration_error_that_names_it(path: Path, what: str) -> None:
    file = ledger_path(path)
    ledger_directory(path).mkdir()
    if what == "directory":
        file.mkdir()
    else:
        file.symlink_to(aside(path))
        aside(path).touch()
    with pytest.raises(ConfigurationError, match=r"ledger\.sqlite"):
        open_ledger(path, 0o640, accept=False)


def test_a_ledger_of_another_user_is_a_configuration_error_that_names_it() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "visits.log"
        ledger_directory(path).mkdir()
        ledger_path(path).touch(0o000)
        is_root = not os.geteuid()
        if is_root:  # who may open everything
            os.chown(folder, 65534, -1)
            os.chown(ledger_directory(path), 65534, -1)
            os.seteuid(65534)
        try:
            with pytest.raises(ConfigurationError, match=r"Permission denied.*ledger\.sqlite"):
                open_ledger(path, 0o640, accept=False)
        finally:
            if is_root:
                os.seteuid(0)


@contextmanager
def another_user() -> Iterator[None]:
    """Run as a user who may read what everybody may read, and write nothing."""
    os.setresuid(65534, 65534, 0)
    try:
        yield
    finally:
        os.setresuid(0, 0, 0)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
async def test_a_user_who_may_only_read_reads_the_ledger_of_a_storage_that_runs_or_is_stopped() -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        path = Path(folder) / "visits.log"
        async with open_rig(path) as rig:
            await rig.write(span(A, 0, 2))
            for file in (ledger_directory(path), *ledger_directory(path).iterdir()):
                file.chmod(0o755)
            with another_user():
                running = read_extent(ledger_path(path))
        assert not sqlite_files(ledger_path(path))[1].exists()
        with another_user():
            stopped = read_extent(ledger_path(path))
            with open_copy(ledger_path(path)) as copy:
                assert [account.journal for account in copy.accounts()] == [A]
        assert stopped == running
        assert (stopped.pending_end, stopped.inode) == (path.stat().st_size, path.stat().st_ino)


async def test_a_storage_that_starts_while_its_ledger_is_only_read_makes_the_reader_try_again(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_rig(path) as rig:
        await rig.write(span(A, 0, 2))
    real = sqlite3.connect

    def connect(database: str, **options: Any) -> sqlite3.Connection:
        sqlite_files(ledger_path(path))[1].touch()  # as SQLite does in the storage that starts now
        connection: sqlite3.Connection = real(database, **options)
        return connection

    monkeypatch.setattr(os, "access", lambda file, mode: mode != os.W_OK)
    monkeypatch.setattr(sqlite3, "connect", connect)
    with pytest.raises(LedgerBusy, match="try again"):
        read_extent(ledger_path(path))


async def test_a_ledger_at_its_quota_pauses_the_writer_until_there_is_room(path: Path) -> None:
    async with open_rig(path) as rig:
        await rig.write(span(A, 0, 2))
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (Path(f"{ledger_path(path)}-wal").stat().st_size, hard))
        try:
            running = asyncio.create_task(rig.run([span(A, 0, 3)]))
            await until(lambda: rig.writer.paused)
            assert "quota" in str(rig.writer.paused)
            assert (logged(path), len(rig.acknowledged)) == (pages(A, 0, 2), 1)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        await running
        assert len(rig.acknowledged) == 2
    assert logged(path) == pages(A, 0, 3)


@pytest.mark.parametrize("code", [sqlite3.SQLITE_IOERR_FSYNC, sqlite3.SQLITE_READONLY], ids=["fsync", "read-only"])
async def test_a_failing_disk_under_the_ledger_ends_the_writer(
    path: Path, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_rig(path) as rig:
        await rig.write(span(A, 0, 2))

        def fail(*arguments: object) -> None:
            error = sqlite3.OperationalError("disk I/O error")
            error.sqlite_errorcode = code
            raise error

        monkeypatch.setattr(pending, "record", fail)
        with pytest.raises(AppendFailed, match=r"ledger\.sqlite cannot be used"):
            await rig.run([span(A, 2, 3)])
        assert len(rig.acknowledged) == 1
