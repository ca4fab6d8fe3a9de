"""The recorder raises nothing: a visit is in the journal, or counted with its reason."""

import asyncio
import errno
import os
import shutil
from pathlib import Path

import pytest

from tests.waiting import until
from tracker.config import OutboxConfig
from tracker.files import fdatasync
from tracker.pixel import journal as journal_module
from tracker.pixel import recorder as module
from tracker.pixel.outbox_files import segment_path
from tracker.pixel.recorder import Recorder

LINE = b'{"n":1}\n'


def everything(outbox: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(outbox.rglob("0*")) if path.is_file())


def make(outbox: Path, quota: int = 1 << 20) -> Recorder:
    return Recorder(config=OutboxConfig(dir=str(outbox), fsync_interval=0.02), quota=quota)


async def test_visits_beyond_the_quota_are_discarded_and_recording_resumes_with_more(tmp_path: Path) -> None:
    recorder = make(tmp_path, quota=2 * len(LINE) + 1)
    await recorder.open()
    for _ in range(4):
        recorder.record(LINE)
    assert (recorder.accepted, recorder.counts) == (2, {"outbox_full": 2})
    recorder.quota = 100
    recorder.record(LINE)
    await recorder.close()
    assert everything(tmp_path) == LINE * 3


async def test_of_visits_written_together_as_many_are_recorded_as_the_quota_allows(tmp_path: Path) -> None:
    recorder = make(tmp_path, quota=3 * len(LINE) + 1)
    await recorder.open()
    recorder.record(LINE * 2, 2)
    recorder.record(LINE * 3, 3)
    await recorder.close()
    assert (recorder.accepted, recorder.counts) == (3, {"outbox_full": 2})
    assert everything(tmp_path) == LINE * 3


async def test_of_visits_written_together_those_that_got_in_are_recorded_and_the_rest_is_discarded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = Recorder(config=OutboxConfig(dir=str(tmp_path)), quota=1000)
    await recorder.open()
    write = os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda fd, data: write(fd, data[:10]))
        recorder.record(b"one\ntwo\nthree\nfour\n", 4)
    assert (recorder.accepted, recorder.counts["outbox_io"], recorder.quota) == (2, 2, 992)
    recorder.record(b"five\n")
    [segment] = tmp_path.glob("*/0*")
    assert segment.read_bytes() == b"one\ntwo\nfive\n"
    await recorder.close()


async def test_a_full_disk_discards_and_recording_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = make(tmp_path)
    await recorder.open()

    def full(fd: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "full")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        recorder.record(LINE)
    recorder.record(LINE)
    await recorder.close()
    assert (recorder.accepted, recorder.counts) == (1, {"outbox_io": 1})
    assert everything(tmp_path) == LINE


async def test_without_an_outbox_visits_are_discarded_until_there_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CHECK_SECONDS", 0.02)
    outbox = tmp_path / "outbox"
    recorder = make(outbox)
    await recorder.open()
    recorder.record(LINE)
    assert not recorder.recording
    running = asyncio.create_task(recorder.run())
    outbox.mkdir()
    await until(lambda: recorder.recording)
    recorder.record(LINE)
    running.cancel()
    await asyncio.wait([running])
    await recorder.close()
    assert (recorder.accepted, recorder.counts) == (1, {"outbox_io": 1})


async def test_a_failed_fsync_begins_a_new_journal_and_is_never_retried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = make(tmp_path)
    await recorder.open()
    failed: list[tuple[int, int]] = []
    synced: list[tuple[int, int]] = []
    real = fdatasync

    def fail_once(fd: int) -> None:
        identity = (os.fstat(fd).st_dev, os.fstat(fd).st_ino)
        assert identity not in failed, "fsync was tried again on a file whose pages it lost"
        if not failed:
            failed.append(identity)
            raise OSError(errno.EIO, "broken")
        real(fd)
        synced.append(identity)

    monkeypatch.setattr(journal_module, "fdatasync", fail_once)
    running = asyncio.create_task(recorder.run())
    recorder.record(LINE)
    first = recorder.journal
    await until(lambda: recorder.journal is not first)
    recorder.record(LINE)
    await until(lambda: synced)
    running.cancel()
    await asyncio.wait([running])
    await recorder.close()
    assert recorder.accepted == 2
    assert recorder.counts == {}
    assert everything(tmp_path) == LINE * 2


async def test_a_removed_journal_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHECK_SECONDS", 0.02)
    recorder = make(tmp_path)
    await recorder.open()
    (old,) = tmp_path.iterdir()
    running = asyncio.create_task(recorder.run())
    shutil.rmtree(old)
    first = recorder.journal
    await until(lambda: recorder.journal is not first)
    recorder.record(LINE)
    running.cancel()
    await asyncio.wait([running])
    await recorder.close()
    assert everything(tmp_path) == LINE


async def test_a_sealed_journal_is_synced_before_it_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = make(tmp_path)
    await recorder.open()
    first = recorder.journal
    assert first is not None
    synced: list[int] = []
    monkeypatch.setattr(journal_module, "fdatasync", lambda fd: synced.append(os.fstat(fd).st_ino))
    recorder.record(LINE)
    first.sealed = True  # because a cut has failed
    await recorder.check()
    assert recorder.journal is not first
    assert synced == [segment_path(first.path, 0).stat().st_ino]
    await recorder.close()


async def test_a_stop_right_after_a_failed_fsync_does_not_try_it_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = make(tmp_path)
    await recorder.open()
    loop = asyncio.get_running_loop()
    tried: list[int] = []

    def fail(fd: int) -> None:
        tried.append(fd)
        loop.call_soon_threadsafe(syncing.cancel)  # the stop comes before another journal is made
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(journal_module, "fdatasync", fail)
    recorder.record(LINE)
    journal = recorder.journal
    syncing = asyncio.create_task(recorder.sync())
    await asyncio.wait([syncing])
    assert syncing.cancelled()
    assert recorder.journal is journal
    await recorder.close()
    assert len(tried) == 1
