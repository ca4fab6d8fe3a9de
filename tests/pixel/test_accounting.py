"""The accounting: each line of a journal is found once, and the two sums hold whatever happens to it."""

import asyncio
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fake_aws.in_memory import FakeTopic
from tests.metrics import value
from tests.pixel.journals import journal_with, line
from tracker import telemetry
from tracker.config import SnsConfig
from tracker.core.discards import (
    HEADERS_CUT,
    HEADERS_MISSING,
    NOT_PUBLISHED,
    NOT_RECORDED,
    REFUSED_CONNECTIONS,
    REFUSED_STATUSES,
)
from tracker.core.message import Message, StoredSpan, unpack
from tracker.errors import PublishFailed, PublishRefused
from tracker.lifecycle import Backoff
from tracker.pixel import line_counter, publisher
from tracker.pixel.accounting import Accounting
from tracker.pixel.control import Counts, refused_connection, refused_request
from tracker.pixel.journal_reader import JournalReader
from tracker.pixel.outbox import Outbox
from tracker.pixel.outbox_files import segment_path
from tracker.pixel.publisher import Publisher
from tracker.pixel.segments import Segment


class Sums:
    """What the metrics have counted since this was made."""

    def __init__(self) -> None:
        self._before = self._read()

    def __getitem__(self, name: str) -> int:
        return self._read()[name] - self._before[name]

    def _read(self) -> dict[str, int]:
        reasons = {reason: int(value(telemetry.DISCARDED, reason=reason)) for reason in (*NOT_RECORDED, *NOT_PUBLISHED)}
        return reasons | {
            "hits": telemetry.total(telemetry.HITS),
            "accepted": telemetry.total(telemetry.ACCEPTED),
            "adopted": telemetry.total(telemetry.ADOPTED_VISITS),
            "published": telemetry.total(telemetry.PUBLISHED_VISITS),
            "waiting": int(value(telemetry.WAITING_VISITS)),
        }

    def check(self) -> None:
        assert self["hits"] == self["accepted"] + sum(self[reason] for reason in NOT_RECORDED)
        gone = self["published"] + self["waiting"] + self["refused"] + self["damaged"]
        assert self["accepted"] + self["adopted"] == gone
        assert self["waiting"] >= 0


@pytest.fixture
def sums() -> Iterator[Sums]:
    sums = Sums()
    yield sums
    sums.check()
    telemetry.WAITING_VISITS.dec(sums["waiting"])


def test_every_line_is_found_once_however_it_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line_counter, "COUNTED_BYTES", 2 * len(line(0)) + 7)
    journal = journal_with(tmp_path, *map(line, range(10)), segment_bytes=3 * len(line(0)) + 1)
    reader = JournalReader(journal.path)
    reader.count(limit=1)
    assert 0 < reader.lines_counted < 10
    span = reader.take(4 * len(line(0)), start=2 * len(line(0)))
    assert span is not None
    reader.count_span(span)
    assert reader.lines_counted == span.end // len(line(0))
    for _ in range(2):
        reader.count()
        assert reader.lines_counted == 10
    journal.append(line(10))
    with segment_path(journal.path, 9 * len(line(0))).open("ab") as segment:
        segment.write(line(11)[:-1])
    reader.count()
    assert reader.lines_counted == 11, "a line without its newline may still be cut"
    reader.advance(10 * len(line(0)) + len(line(10)))
    again = JournalReader(journal.path)
    again.count()
    assert again.lines_counted == 0
    journal.close()


@pytest.mark.parametrize("seed", range(20))
def test_a_span_and_a_scan_count_a_line_once_in_whatever_order_they_come(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setattr(line_counter, "COUNTED_BYTES", 100)
    chance = random.Random(seed)
    lines = [b"damaged\n" if chance.random() < 0.2 else line(number) for number in range(30)]
    journal = journal_with(tmp_path, *lines, segment_bytes=7 * len(line(0)))
    reader = JournalReader(journal.path)
    whole, offset = b"".join(lines), 0
    while (span := reader.take(chance.randrange(1, 6) * len(line(10)), start=offset)) is not None:
        if chance.random() < 0.5:
            reader.count(limit=chance.randrange(500))
        counted = reader.lines_counted
        reader.count_span(span)
        assert reader.lines_counted >= max(counted, whole[: span.end].count(b"\n"))
        offset = span.end
    reader.count()
    assert reader.lines_counted == 30
    journal.close()


def test_the_lines_of_a_span_are_counted_without_reading_them_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = journal_with(tmp_path, *map(line, range(10)))
    reader = JournalReader(journal.path)
    span = reader.take(1 << 20)
    assert span is not None

    def read(segment: Segment, offset: int, limit: int) -> bytes:
        raise AssertionError("read again")

    monkeypatch.setattr(Segment, "read", read)
    reader.count_span(span)
    assert reader.lines_counted == 10
    journal.close()


def test_bytes_without_a_newline_hide_no_line_behind_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line_counter, "COUNTED_BYTES", 1_000)
    journal = journal_with(tmp_path, b"\0" * 5_000 + b"\n", line(1))
    reader = JournalReader(journal.path)
    reader.count()
    assert reader.lines_counted == 2
    journal.close()


def test_what_was_there_before_is_adopted_and_what_comes_is_accepted(tmp_path: Path, sums: Sums) -> None:
    earlier = journal_with(tmp_path, line(1), line(2))  # its worker still runs
    outbox, accounting = Outbox(tmp_path), Accounting()
    outbox.open()
    ours = journal_with(tmp_path, line(3))
    ours.close()  # its worker ended before the first scan
    for _ in range(2):
        outbox.scan()
        accounting.count_lines(outbox.known())
    assert (sums["adopted"], sums["accepted"], sums["waiting"]) == (2, 1, 3)
    earlier.append(line(4))
    earlier.close()
    outbox.scan()
    accounting.count_lines(outbox.known())
    assert (sums["adopted"], sums["accepted"], sums["hits"]) == (3, 1, 1)
    outbox.close()


def test_a_worker_counts_in_memory_that_outlives_it(sums: Sums) -> None:
    accounting, before = Accounting(), dict[str, int]()
    unnamed = value(telemetry.HEADERS_MISSING)
    descriptor = Counts.create()
    theirs, ours = Counts(descriptor), Counts(descriptor)
    theirs["privacy"] += 3
    theirs[HEADERS_MISSING] += 5
    theirs[HEADERS_CUT] += 2
    accounting.count_not_recorded(before, now := dict(ours))
    theirs["outbox_io"] += 1
    theirs.close()
    accounting.count_not_recorded(now, ours)
    assert (sums["privacy"], sums["outbox_io"], sums["hits"]) == (3, 1, 4)
    assert value(telemetry.HEADERS_MISSING) == unnamed + 5
    with pytest.raises(KeyError):
        ours["weather"] += 1
    ours.close()


def test_refusals_are_counted_by_status_and_reason_through_the_end_of_a_worker() -> None:
    def counted() -> list[float]:
        requests = [value(telemetry.REQUESTS_REFUSED, status=str(status)) for status in REFUSED_STATUSES]
        return requests + [value(telemetry.CONNECTIONS_REFUSED, reason=each) for each in REFUSED_CONNECTIONS]

    before = counted()
    descriptor = Counts.create()
    theirs, ours = Counts(descriptor), Counts(descriptor)
    names = [*map(refused_request, REFUSED_STATUSES), *map(refused_connection, REFUSED_CONNECTIONS)]
    for number, name in enumerate(names, 1):
        theirs[name] += number
    theirs.close()
    Accounting().count_not_recorded({}, dict(ours))
    assert [now - then for now, then in zip(counted(), before, strict=True)] == list(range(1, len(names) + 1))
    ours.close()


def test_what_waits_in_a_journal_that_vanishes_is_counted_as_damaged(tmp_path: Path, sums: Sums) -> None:
    outbox, accounting = Outbox(tmp_path), Accounting()
    outbox.open()
    journal = journal_with(tmp_path, line(1), line(2))
    outbox.scan()
    accounting.count_lines(outbox.known())
    for entry in journal.path.iterdir():
        entry.unlink()
    journal.path.rmdir()
    outbox.scan()
    accounting.count_removed(outbox.removed)
    assert (sums["accepted"], sums["damaged"], sums["waiting"]) == (2, 2, 0)
    journal.close()
    outbox.close()


@pytest.mark.parametrize("damaged", range(3))
async def test_a_newline_that_damage_puts_into_a_counted_line_breaks_no_sum(
    tmp_path: Path, sums: Sums, damaged: int
) -> None:
    outbox, accounting = Outbox(tmp_path), Accounting()
    outbox.open()
    journal = journal_with(tmp_path, *map(line, range(3)))
    outbox.scan()
    accounting.count_lines(outbox.known())
    with segment_path(journal.path, 0).open("r+b") as segment:
        segment.seek(damaged * len(line(0)))
        segment.write(b"\n")
    journal.close()
    outbox.scan()
    config = SnsConfig(topic_arn="arn:aws:sns:us-east-1:000000000000:t", linger=0.001)
    publishing = Publisher(outbox=outbox, config=lambda: config, open_topic=FakeTopic().open, accounting=accounting)
    publishing.drain()
    async with asyncio.timeout(30):
        await publishing.run()
    sums.check()
    outbox.scan()
    accounting.count_removed(outbox.removed)
    assert (sums["published"], sums["damaged"], sums["waiting"]) == (2, 2, 0)
    outbox.close()


@pytest.mark.parametrize("format", ["packed", "single"])
@pytest.mark.parametrize("seed", range(3))
async def test_the_sums_hold_before_every_publish_whatever_sns_says(
    tmp_path: Path, sums: Sums, monkeypatch: pytest.MonkeyPatch, format: str, seed: int
) -> None:
    monkeypatch.setattr(publisher, "Backoff", lambda: Backoff(first=0.0001, cap=0.0002))
    chance = random.Random(seed)
    journal_with(tmp_path, *map(line, range(40))).close()
    outbox = Outbox(tmp_path)
    outbox.open()
    journal_with(tmp_path, line(40), b"\0\0damage\n", b"{}\n", *map(line, range(41, 80)), segment_bytes=900).close()
    looks = 0

    def answer(message: Message) -> PublishFailed | None:
        nonlocal looks
        looks += 1
        sums.check()
        span = unpack(message.attributes, message.body)
        if isinstance(span, StoredSpan) and line(7) in span.data:
            return PublishRefused("this line, alone or among others")
        return PublishFailed("throttled") if chance.random() < 0.4 else None

    outbox.scan()
    config = SnsConfig(
        topic_arn="arn:aws:sns:us-east-1:000000000000:t",
        linger=0.001,
        format=format,  # type: ignore[arg-type]
    )
    publishing = Publisher(
        outbox=outbox, config=lambda: config, open_topic=FakeTopic(answer).open, accounting=Accounting()
    )
    publishing.drain()
    async with asyncio.timeout(30):
        await publishing.run()
    assert looks > 40 if format == "single" else looks > 4
    assert (sums["adopted"], sums["accepted"]) == (40, 42)
    refused = 1 if format == "single" else 40  # the messages with line 7 in them
    assert (sums["refused"], sums["damaged"], sums["waiting"]) == (refused, 2, 0)
    assert sums["published"] == 80 - refused
    outbox.close()
