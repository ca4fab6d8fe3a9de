"""The start: a log that is taken over, completed, cut back, or refused; and one writer only."""

import errno
import fcntl
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.storage.rig import A, lines, logged, offset_of, open_rig, pages, span
from tracker.errors import AppendFailed, ConfigurationError, HeldByAnother, LogChanged
from tracker.storage import recovery
from tracker.storage.recovery import ledger_dir, only_writer, open_ledger

OLD = b"2023-12-10T22:22:43.7936205+00:00|https://old.example/|null|192.168.1.1"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "visits.log"


def torn_files(path: Path) -> list[bytes]:
    return [found.read_bytes() for found in path.parent.glob("visits.log.torn-*")]


async def two_appends(path: Path) -> int:
    """One append merged, the next pending; where the latter begins."""
    async with open_rig(path) as rig:
        await rig.write(span(A, 0, 2))
        begins = path.stat().st_size
        await rig.write(span(A, 2, 5))
    return begins


async def test_a_new_log_has_the_configured_mode(path: Path) -> None:
    async with open_rig(path):
        assert path.stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("ending", [b"", b"\n"], ids=["no final newline", "final newline"])
async def test_an_existing_log_is_taken_over_as_it_is(path: Path, ending: bytes) -> None:
    path.write_bytes(OLD + b"\n" + OLD + ending)
    async with open_rig(path) as rig:
        await rig.write(span(A, 0, 2))
        await rig.write(span(A, 0, 3))
    found = path.read_bytes()
    assert found.startswith(OLD + b"\n" + OLD + b"\n2026")
    assert logged(path) == ["https://old.example/"] * 2 + pages(A, 0, 3)
    async with open_rig(path):
        assert path.read_bytes() == found


@pytest.mark.parametrize("of", [lambda path: path.parent, ledger_dir], ids=["the log", "the ledger"])
def test_a_start_that_fails_to_sync_a_directory_closes_the_ledger(
    path: Path, monkeypatch: pytest.MonkeyPatch, of: Callable[[Path], Path]
) -> None:
    def fail(directory: Path) -> None:
        if directory == of(path):
            raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(recovery, "sync_directory", fail)
    ledger_dir(path).mkdir()
    with pytest.raises(AppendFailed, match=r"cannot be (recovered|written)") as failed:
        open_ledger(path, 0o640, accept=False)
    # SQLite removes the write-ahead log when the last connection closes; `failed` would keep one that is open.
    assert [file.name for file in ledger_dir(path).iterdir()] == ["ledger.sqlite"], failed


async def test_a_whole_pending_append_is_written_again_and_merged(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begins = await two_appends(path)
    before, synced = path.read_bytes(), []
    monkeypatch.setattr(recovery, "fdatasync", lambda descriptor: synced.append(os.fstat(descriptor).st_ino))
    async with open_rig(path) as rig:
        assert synced == [path.stat().st_ino]
        assert path.read_bytes() == before
        assert begins < len(before)
        assert rig.ledger.is_settled
        assert await rig.query('SELECT journal, start, "end" FROM stored') == [(A, 0, offset_of(A, 5))]
        await rig.write(span(A, 0, 6))
    assert logged(path) == pages(A, 0, 6)
    assert torn_files(path) == []


@pytest.mark.parametrize("kept", [0, 1, 50, -1])
async def test_a_torn_pending_append_is_kept_aside_and_cut(path: Path, kept: int) -> None:
    begins = await two_appends(path)
    whole = path.read_bytes()
    torn = whole[begins : begins + kept] if kept >= 0 else whole[begins:-1]
    os.truncate(path, begins + len(torn))
    async with open_rig(path) as rig:
        assert logged(path) == pages(A, 0, 2)
        assert torn_files(path) == ([torn] if torn else [])
        await rig.write(span(A, 2, 5))
    assert logged(path) == pages(A, 0, 5)


async def test_a_pending_append_with_other_bytes_is_torn(path: Path) -> None:
    begins = await two_appends(path)
    length = path.stat().st_size - begins
    with path.open("r+b") as file:
        file.seek(begins)
        file.write(bytes(length))  # what a power cut leaves of pages that were never written
    async with open_rig(path):
        assert logged(path) == pages(A, 0, 2)
        assert torn_files(path) == [bytes(length)]


def _append(path: Path) -> None:
    with path.open("ab") as file:
        file.write(OLD + b"\n")


def _cut_short(path: Path) -> None:
    os.truncate(path, 20)


def _remove(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize("settled", [True, False], ids=["settled", "pending"])
@pytest.mark.parametrize("change", [_append, _cut_short, _remove])
async def test_any_other_difference_is_refused_until_accepted(
    path: Path, change: Callable[[Path], None], settled: bool
) -> None:
    async with open_rig(path) as rig:
        await rig.write(span(A, 0, 2))
        await rig.write(span(A, 2, 5))
        if settled:
            await rig.call(rig.ledger.settle)
    change(path)
    changed = path.read_bytes() if path.exists() else b""
    for _ in range(2):
        with pytest.raises(LogChanged, match="--accept-log"):
            async with open_rig(path):
                pass
        assert (path.read_bytes() if path.exists() else b"") == changed
    async with open_rig(path, accept=True) as rig:
        assert path.read_bytes() == changed
        await rig.write(span(A, 5, 6))
    async with open_rig(path):
        assert path.read_bytes().startswith(changed)
        assert path.read_bytes().count(b"\n") == changed.count(b"\n") + (2 if changed[-1:] not in (b"", b"\n") else 1)


async def test_accepting_a_log_with_something_behind_the_pending_append_keeps_what_is_stored(path: Path) -> None:
    await two_appends(path)
    _append(path)
    async with open_rig(path, accept=True) as rig:
        await rig.write(span(A, 0, 6))
    assert logged(path) == [*pages(A, 0, 5), "https://old.example/", *pages(A, 5, 6)]


async def test_a_log_missing_while_its_only_append_is_pending_is_refused(path: Path) -> None:
    async with open_rig(path) as rig:
        await rig.write(span(A, 0, 2))
    path.unlink()
    with pytest.raises(LogChanged, match="is missing"):
        async with open_rig(path):
            pass


async def test_a_log_that_is_a_directory_is_a_configuration_error(path: Path) -> None:
    path.mkdir()
    with pytest.raises(ConfigurationError, match="expected a file"):
        async with open_rig(path):
            pass


def test_the_second_writer_is_told_who_the_first_is(path: Path) -> None:
    expected = pytest.raises(HeldByAnother, match=f"process {os.getpid()} holds .*lock")
    with only_writer(path), expected, only_writer(path):
        pass
    with only_writer(path), (path.parent / "visits.log.d" / "lock").open() as other, pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with only_writer(path):
        pass


def test_the_helper_knows_its_offsets() -> None:
    assert lines(A, 0, 3)[offset_of(A, 1) : offset_of(A, 2)] == lines(A, 1, 2)
