"""The writer's order, its cuts, and what it does when the disk does not obey."""

import asyncio
import errno
import json
import logging
import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.metrics import value
from tests.storage.rig import A, B, close, delivery, lines, logged, offset_of, open_rig, pages, span
from tests.waiting import until
from tracker import telemetry
from tracker.config import Rotate
from tracker.core.delivery import Delivery
from tracker.core.message import pack, unpack
from tracker.errors import AppendFailed, LogChanged, StorageFull
from tracker.files import fdatasync
from tracker.storage import batch as batch_module
from tracker.storage import log_file as log_file_module
from tracker.storage import writer as writer_module
from tracker.storage.log_check import check_log
from tracker.storage.log_file import LogFile
from tracker.visit_log_files import closed_logs

LEGACY = (
    '{"Referer":"https://legacy.example/","UserAgent":"","IpAddress":"192.0.2.9",'
    '"VisitedAt":"2023-12-10T22:22:43.7936205+00:00"}'
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "visits.log"


async def test_the_order_is_commit_append_sync_acknowledge(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    async with open_rig(path) as rig:
        begin, write, sync = rig.ledger.begin, rig.log.file.stream.write, fdatasync

        def spy_begin(append: Any) -> None:
            order.append("commit")
            begin(append)

        async def spy_write(data: bytes) -> int:
            order.append("append")
            return await write(data)

        def spy_sync(descriptor: int) -> None:
            order.append("sync")
            sync(descriptor)

        monkeypatch.setattr(rig.ledger, "begin", spy_begin)
        monkeypatch.setattr(rig.log.file.stream, "write", spy_write)
        monkeypatch.setattr(log_file_module, "fdatasync", spy_sync)
        rig.on_acknowledge = lambda: order.append("acknowledge")
        await rig.write(span(A, 0, 3))
        await rig.write(span(A, 3, 4))
    assert order == ["commit", "append", "sync", "acknowledge"] * 2


async def test_each_commit_merges_the_append_before_and_no_other(path: Path) -> None:
    async with open_rig(path) as rig:
        await rig.write(span(A, 0, 2))
        assert await rig.query('SELECT journal, start, "end" FROM stored') == []
        await rig.write(span(A, 2, 3))
        assert await rig.query('SELECT journal, start, "end" FROM stored') == [(A, 0, offset_of(A, 2))]
        assert await rig.query('SELECT start, "end" FROM pending_range') == [(offset_of(A, 2), offset_of(A, 3))]


@pytest.mark.parametrize("apart", [False, True], ids=["one batch", "batches of their own"])
async def test_overlaps_are_cut_and_every_delivery_is_acknowledged(path: Path, apart: bool) -> None:
    deliveries = [
        span(A, 2, 4),
        span(A, 0, 5),
        span(A, 2, 4),
        span(B, 1, 2),
        span(A, 4, 8),
        span(B, 0, 3),
        span(A, 0, 8),
    ]
    async with open_rig(path) as rig:
        for batch in [[each] for each in deliveries] if apart else [deliveries]:
            await rig.write(*batch)
        assert rig.acknowledged == deliveries
    found = logged(path)
    assert sorted(found) == sorted(pages(A, 0, 8) + pages(B, 0, 3))
    assert found[:5] == pages(A, 2, 4) + pages(A, 0, 2) + pages(A, 4, 5)


async def test_a_cut_within_a_line_is_malformed_as_a_whole(path: Path) -> None:
    other = pack(A, offset_of(A, 1) + 5, lines(B, 0, 9), compress=False)
    shifted = delivery(other.body, other.attributes)
    async with open_rig(path) as rig:
        await rig.write(span(A, 0, 3))
        await rig.write(shifted)
        assert rig.left == [shifted]
    assert logged(path) == pages(A, 0, 3)


async def test_a_malformed_message_is_counted_logged_once_and_not_deleted(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = value(telemetry.MALFORMED)
    bad = [delivery("nonsense", {}, message_id="bad-one") for _ in range(3)]
    with caplog.at_level(logging.WARNING):
        async with open_rig(path) as rig:
            await rig.write(bad[0], span(A, 0, 2), bad[1])
            await rig.write(bad[2])
            assert rig.left == bad
            assert len(rig.acknowledged) == 1
    assert value(telemetry.MALFORMED) - before == 3
    assert [record.getMessage().split()[:2] for record in caplog.records] == [["message_malformed", "id=bad-one"]]
    assert logged(path) == pages(A, 0, 2)


@pytest.mark.parametrize("kind", ["malformed", "conflicting"])
async def test_a_refused_message_that_comes_again_is_not_read_again(
    path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []

    def reading(attributes: Mapping[str, str], body: str) -> object:
        read.append(body)
        return unpack(attributes, body)

    monkeypatch.setattr(batch_module, "unpack", reading)
    other = pack(A, 0, lines(A, 0, 1).replace(b"example", b"elsewhe"), compress=False)  # as long
    counter = telemetry.CONFLICTING if kind == "conflicting" else telemetry.MALFORMED
    before = value(counter)
    async with open_rig(path) as rig:
        await rig.write(span(A, 0, 1), span(A, 1, 3))
        for _ in range(3):
            if kind == "conflicting":
                await rig.write(delivery(other.body, other.attributes, message_id="bad"))
            else:
                await rig.write(delivery("nonsense", {}, message_id="bad"))
        assert len(rig.left) == 3
    assert len(read) == 3
    assert value(counter) - before == 3


@pytest.mark.slow
async def test_of_refused_messages_the_last_ten_thousand_are_remembered(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []

    def reading(attributes: Mapping[str, str], body: str) -> object:
        read.append(body)
        return unpack(attributes, body)

    monkeypatch.setattr(batch_module, "unpack", reading)
    bad = [delivery(str(number), {}, message_id=f"bad-{number}") for number in range(10_001)]
    async with open_rig(path) as rig:
        await rig.run([*bad, bad[-1], bad[1], bad[0]])
        assert len(rig.left) == 10_004
    assert read[10_000:] == ["10000", "0"]


async def test_what_waits_for_its_delete_keeps_neither_body_nor_attributes(path: Path) -> None:
    """A message may have as much in attributes that nobody reads as in its body."""
    taken = span(A, 0, 1)
    taken.attributes["Stranger"] = "x" * 200_000
    async with open_rig(path) as rig:
        await rig.write(taken, single := delivery(lines(B, 0, 1).decode(), {"Stranger": "x" * 200_000}))
        assert rig.acknowledged == [taken, single]
    assert [(each.body, each.attributes) for each in (taken, single)] == [("", {}), ("", {})]


async def test_closings_are_recorded_and_the_largest_end_counts(path: Path) -> None:
    async with open_rig(path) as rig:
        await rig.write(close(A, 4))
        await rig.write(close(A, 2), close(B, 0))
        assert await rig.query("SELECT id, closed_end FROM journal") == [(A, offset_of(A, 4)), (B, 0)]
        await rig.write(span(A, 3, 6))  # beyond the closing: stored all the same
        assert len(rig.acknowledged) == 4
    assert logged(path) == pages(A, 3, 6)


async def test_messages_of_the_legacy_dotnet_pixel_are_known_by_their_message_id(path: Path) -> None:
    async with open_rig(path) as rig:
        await rig.write(delivery(LEGACY, {}, message_id="s1"), delivery(LEGACY, {}, message_id="s1"))
        await rig.write(delivery(LEGACY, {}, message_id="s1"))
        await rig.write(delivery(LEGACY, {"Type": "Visit"}, message_id="s2"))
        await rig.write(delivery(LEGACY, {}, message_id="s1"), delivery(LEGACY, {}, message_id="s2"))
        assert len(rig.acknowledged) == 6
    async with open_rig(path) as rig:
        await rig.write(delivery(LEGACY, {}, message_id="s2"))
    assert path.read_text() == "2023-12-10T22:22:43.793620+00:00|https://legacy.example/|null|192.0.2.9\n" * 2


def _envelope(body: str, attributes: dict[str, str]) -> Delivery:
    wrapped = {name: {"Type": "String", "Value": value} for name, value in attributes.items()}
    return delivery(json.dumps({"Type": "Notification", "Message": body, "MessageAttributes": wrapped}), {})


@pytest.mark.parametrize("text", ["x" * 11_000, "|" * 500_000, "😀" * 50_000, "\\" * 2_049, "nul" + "l" * 9_000])
async def test_no_message_makes_a_line_that_the_audit_does_not_know(path: Path, text: str) -> None:
    keys = {"Referer": text, "UserAgent": text, "IpAddress": "fe80::1%eth0", "VisitedAt": "9999-12-31T23:59:59.5Z"}
    body = json.dumps(keys, ensure_ascii=False)
    line = json.dumps(keys).encode("ascii") + b"\n"
    packed, plain = pack(A, 0, line * 2, compress=True), pack(B, 0, line, compress=False)
    async with open_rig(path) as rig:
        await rig.write(delivery(body, {}), _envelope(body, {"Type": "Visit"}))
        await rig.write(delivery(packed.body, packed.attributes), _envelope(plain.body, plain.attributes))
        assert rig.left == []
    assert logged(path) == [text[:2_048]] * 5
    check = check_log(path)
    assert (check.lines, check.problems) == (5, [])


@pytest.mark.parametrize("fault", ["error", "short"])
async def test_a_rolled_back_append_is_void(path: Path, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    async with open_rig(path) as rig:
        await rig.write(span(A, 0, 1))
        write = rig.log.file.stream.write

        async def full(data: bytes) -> int:
            written: int = await write(data[:7])
            if fault == "error":
                raise OSError(errno.ENOSPC, "No space left on device")
            return written

        with monkeypatch.context() as patch:
            patch.setattr(rig.log.file.stream, "write", full)
            with pytest.raises(StorageFull):
                await rig.write(span(A, 1, 3))
        assert len(rig.acknowledged) == 1
        assert logged(path) == pages(A, 0, 1)
        await rig.write(span(B, 0, 1))  # its commit must not merge the void one
        await rig.write(span(A, 0, 4))
    assert logged(path) == pages(A, 0, 1) + pages(B, 0, 1) + pages(A, 1, 4)


async def test_a_full_disk_pauses_the_writer_until_there_is_room(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer_module, "RETRY_SECONDS", 0.01)
    async with open_rig(path) as rig:
        write, room = rig.log.file.stream.write, asyncio.Event()

        async def full(data: bytes) -> int:
            if not room.is_set():
                raise OSError(errno.EDQUOT, "Disk quota exceeded")
            return await write(data)

        monkeypatch.setattr(rig.log.file.stream, "write", full)
        running = asyncio.create_task(rig.run([span(A, 0, 3)]))
        await until(lambda: rig.writer.paused)
        assert rig.writer.paused is not None
        assert "Disk quota exceeded: the disk is not full: look for a quota" in rig.writer.paused
        assert " bytes are free on " in rig.writer.paused
        assert rig.acknowledged == []
        room.set()
        await running
        assert rig.writer.paused is None
        assert len(rig.acknowledged) == 1
        assert rig.ledger.pending is None
    assert logged(path) == pages(A, 0, 3)


async def test_a_stop_while_the_disk_is_full_leaves_what_is_not_appended(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_rig(path) as rig:

        async def full(data: bytes) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(rig.log.file.stream, "write", full)
        rig.stop.set()
        await rig.run([span(A, 0, 3)])
        assert rig.acknowledged == rig.left == []
    async with open_rig(path) as rig:
        await rig.run([span(A, 0, 3)])
    assert logged(path) == pages(A, 0, 3)


async def test_a_full_disk_under_the_ledger_is_a_pause_too(path: Path) -> None:
    async with open_rig(path) as rig:
        await rig.write(span(A, 0, 1))
        used = await rig.query("PRAGMA page_count")
        await rig.query(f"PRAGMA max_page_count = {used[0][0]}")
        numbers = [f"legacy-{number:0200}" for number in range(900)]
        with pytest.raises(StorageFull, match=r"no room for the ledger .* bytes are free on "):
            await rig.write(*(delivery(LEGACY, {}, message_id=each) for each in numbers))
        assert len(rig.acknowledged) == 1
        await rig.query("PRAGMA max_page_count = 1000000")
        await rig.write(*(delivery(LEGACY, {}, message_id=each) for each in numbers))
        await rig.write(span(A, 0, 2))
    assert len(logged(path)) == 902


async def test_a_failed_fdatasync_ends_the_writer_and_deletes_nothing(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(descriptor: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    async with open_rig(path) as rig:
        with monkeypatch.context() as patch:
            patch.setattr(log_file_module, "fdatasync", broken)
            with pytest.raises(AppendFailed, match="fdatasync failed") as caught:
                await rig.run([span(A, 0, 3)])
        assert not isinstance(caught.value, StorageFull)
        assert rig.acknowledged == []
    async with open_rig(path) as rig:
        await rig.write(span(A, 0, 3))
    assert logged(path) == pages(A, 0, 3)


async def test_the_cut_of_a_rolled_back_append_is_made_durable(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []

    def recorded(descriptor: int) -> None:
        synced.append(os.fstat(descriptor).st_size)
        fdatasync(descriptor)

    class FullDisk:
        def __init__(self, file: Any) -> None:
            self.file = file

        async def write(self, data: bytes) -> int:
            await self.file.write(data[: len(data) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        async def close(self) -> None:
            await self.file.close()

    monkeypatch.setattr(log_file_module, "fdatasync", recorded)
    async with open_rig(path) as rig:
        await rig.write(span(A, 0, 2))
        before = path.stat().st_size
        synced.clear()
        rig.log.file.stream = FullDisk(rig.log.file.stream)  # type: ignore[assignment]
        with pytest.raises(StorageFull):
            await rig.write(span(A, 2, 5))
    assert path.stat().st_size == before
    assert synced == [before]


async def test_a_failed_cut_ends_the_writer(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_rig(path) as rig:
        write = rig.log.file.stream.write

        async def full(data: bytes) -> int:
            await write(data[:7])
            raise OSError(errno.ENOSPC, "No space left on device")

        def broken(descriptor: int, length: int) -> None:
            raise OSError(errno.EIO, "Input/output error")

        with monkeypatch.context() as patch:
            patch.setattr(rig.log.file.stream, "write", full)
            patch.setattr(os, "ftruncate", broken)
            with pytest.raises(AppendFailed, match="cannot cut back") as caught:
                await rig.run([span(A, 0, 3)])
        assert not isinstance(caught.value, StorageFull)
        assert rig.acknowledged == []
    async with open_rig(path) as rig:
        await rig.write(span(A, 0, 3))
    assert logged(path) == pages(A, 0, 3)


def _grow(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"foreign\n")


def _replace(path: Path) -> None:
    path.rename(path.with_suffix(".old"))
    path.write_bytes(path.with_suffix(".old").read_bytes())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_grow, "bytes where"),
        (lambda path: os.truncate(path, 3), "copytruncate"),
        (lambda path: path.unlink(), "deleted"),
    ],
    ids=["grown", "cut", "deleted"],
)
async def test_a_log_changed_under_the_writer_ends_it(path: Path, change: Any, words: str) -> None:
    async with open_rig(path) as rig:
        await rig.write(span(A, 0, 1))
        change(path)
        with pytest.raises(LogChanged, match=words):
            await rig.run([span(A, 1, 2)])
        assert len(rig.acknowledged) == 1


@pytest.mark.parametrize("rotate", [Rotate(), Rotate(max_bytes=1)], ids=["no rotation", "rotation"])
async def test_a_hard_link_to_the_log_and_its_removal_change_nothing(path: Path, rotate: Rotate) -> None:
    first, second = path.with_suffix(".backup-1"), path.with_suffix(".backup-2")
    changes: list[Callable[[], object]] = [
        *(partial(os.link, path, first), partial(os.link, path, second)),
        *(first.unlink, partial(os.link, path, first), second.unlink, first.unlink),
    ]
    async with open_rig(path, rotate=rotate) as rig:
        running = asyncio.create_task(rig.writer.run())
        for number in range(7):
            rig.received.put_nowait(span(A, number, number + 1))
            await until(lambda: rig.received.empty() and len(rig.acknowledged) > number)  # noqa: B023
            if number < len(changes):
                changes[number]()
        rig.received.put_nowait(None)
        await running
    assert [page for file in [*closed_logs(path), path] for page in logged(file)] == pages(A, 0, 7)


async def test_a_log_that_has_a_hard_link_is_started_with_and_without_it(path: Path) -> None:
    async with open_rig(path) as rig:
        await rig.write(span(A, 0, 1))
    os.link(path, path.with_suffix(".backup"))
    async with open_rig(path) as rig:
        await rig.write(span(A, 1, 2))
    path.with_suffix(".backup").unlink()
    async with open_rig(path) as rig:
        await rig.write(span(A, 0, 3))
    assert logged(path) == pages(A, 0, 3)


async def test_an_append_that_runs_while_the_log_is_cut_is_in_it_once_and_the_next_is_refused(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check = LogFile.check

    async def cut_behind_the_check(log: LogFile, offset: int) -> None:
        await check(log, offset)
        os.truncate(path, 0)

    async with open_rig(path) as rig:
        await rig.write(span(A, 0, 1))
        with monkeypatch.context() as patch:
            patch.setattr(LogFile, "check", cut_behind_the_check)
            await rig.write(span(A, 1, 2))
        assert len(rig.acknowledged) == 2
        with pytest.raises(LogChanged, match="copytruncate"):
            await rig.run([span(A, 2, 3)])
        assert len(rig.acknowledged) == 2
        assert logged(path) == pages(A, 1, 2)


@pytest.mark.parametrize(
    "change", [lambda path: path.rename(path.with_suffix(".1")), _replace], ids=["moved", "replaced"]
)
async def test_a_log_moved_under_the_writer_pauses_it_until_it_is_told_to_reopen(
    path: Path, monkeypatch: pytest.MonkeyPatch, change: Any
) -> None:
    monkeypatch.setattr(writer_module, "RETRY_SECONDS", 0.01)
    async with open_rig(path) as rig:
        await rig.write(span(A, 0, 1))
        before = path.read_bytes()
        change(path)
        running = asyncio.create_task(rig.run([span(A, 0, 2)]))
        await until(lambda: rig.writer.paused)
        assert "SIGHUP" in str(rig.writer.paused)
        assert len(rig.acknowledged) == 1
        rig.log.request_reopen()
        await running
        assert len(rig.acknowledged) == 2
    [old] = [found for found in (path.with_suffix(".1"), path.with_suffix(".old")) if found.exists()]
    assert old.read_bytes() == before
    assert logged(path)[-1:] == pages(A, 1, 2)


async def test_a_moved_log_that_comes_back_is_gone_on_with(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer_module, "RETRY_SECONDS", 0.01)
    async with open_rig(path) as rig:
        await rig.write(span(A, 0, 1))
        path.rename(path.with_suffix(".1"))
        running = asyncio.create_task(rig.run([span(A, 1, 2)]))
        await until(lambda: rig.writer.paused)
        path.with_suffix(".1").rename(path)
        await running
    assert logged(path) == pages(A, 0, 2)


async def test_an_idle_second_merges_and_clears_the_pending_append(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer_module, "IDLE_SECONDS", 0.01)
    async with open_rig(path) as rig:
        running = asyncio.create_task(rig.writer.run())
        rig.received.put_nowait(span(A, 0, 2))
        await until(lambda: rig.acknowledged)
        assert rig.ledger.pending is not None
        await until(lambda: rig.ledger.pending is None)
        assert await rig.query('SELECT journal, start, "end" FROM stored') == [(A, 0, offset_of(A, 2))]
        assert await rig.query("SELECT * FROM pending") == []
        rig.received.put_nowait(None)
        await running
