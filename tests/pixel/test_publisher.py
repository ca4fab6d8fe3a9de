"""The outbox is published completely and in order, whatever SNS answers. Only a proven refusal discards visits."""

import asyncio
import contextlib
import random
import string
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.fake_aws.in_memory import FakeTopic
from tests.metrics import value
from tests.pixel.journals import journal_with, line
from tests.waiting import until
from tracker import telemetry
from tracker.config import SnsConfig
from tracker.core.message import MAX_SENT_BYTES, MAX_SPAN_BYTES, Message, StoredSpan, unpack
from tracker.errors import PublishFailed, PublishRefused
from tracker.lifecycle import Backoff
from tracker.pixel import publisher as module
from tracker.pixel.journal_reader import JournalReader
from tracker.pixel.outbox import Outbox
from tracker.pixel.outbox_files import bad_path, publisher_lock, refused_lines, segment_path
from tracker.pixel.publisher import Publisher
from tracker.pixel.span import Span
from tracker.telemetry import total

ARN = "arn:aws:sns:us-east-1:000000000000:tracking"
FORMATS = ["packed", "plain", "single"]


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "Backoff", lambda: Backoff(first=0.001, cap=0.002))


@pytest.fixture
def outbox(tmp_path: Path) -> Outbox:
    outbox = Outbox(tmp_path)
    outbox.open()
    return outbox


def publisher_of(outbox: Outbox, topic: FakeTopic, format: str = "packed") -> Publisher:
    config = SnsConfig(topic_arn=ARN, linger=0.01, format=format)  # type: ignore[arg-type]
    return Publisher(outbox=outbox, config=lambda: config, open_topic=topic.open)


async def drain(outbox: Outbox, topic: FakeTopic, format: str = "packed") -> None:
    """Publish all orphans, to the end."""
    outbox.scan()
    publisher = publisher_of(outbox, topic, format)
    publisher.drain()
    async with asyncio.timeout(60):
        await publisher.run()


@asynccontextmanager
async def running(publisher: Publisher) -> AsyncIterator[None]:
    task = asyncio.create_task(publisher.run())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def refusing(line: bytes) -> Callable[[Message], PublishFailed | None]:
    """SNS's answers when it refuses every message with this line in it."""

    def answer(message: Message) -> PublishFailed | None:
        span = unpack(message.attributes, message.body)
        return PublishRefused("bad line") if isinstance(span, StoredSpan) and line in span.data else None

    return answer


def spans_of(messages: list[Message]) -> list[StoredSpan]:
    unpacked = [unpack(message.attributes, message.body) for message in messages]
    return [span for span in unpacked if isinstance(span, StoredSpan)]


def stored(messages: list[Message]) -> bytes:
    """The bytes that storage would have of the one journal, without repeats."""
    content: dict[int, int] = {}
    for span in spans_of(messages):
        content.update(zip(range(span.start, span.end), span.data, strict=True))
    return bytes(content[offset] for offset in sorted(content))


def end_markers(messages: list[Message]) -> list[Message]:
    return [message for message in messages if "Closed" in message.attributes]


@pytest.mark.parametrize("format", FORMATS)
async def test_an_orphan_is_published_once_closed_and_removed(outbox: Outbox, format: str) -> None:
    lines = [line(n) for n in range(200)]
    journal_with(outbox.directory, *lines).close()
    topic = FakeTopic()
    await drain(outbox, topic, format)
    assert b"".join(span.data for span in spans_of(topic.accepted)) == b"".join(lines)
    ends = [(message.start, message.visits) for message in end_markers(topic.accepted)]
    assert ends == ([] if format == "single" else [(len(b"".join(lines)), 0)])
    assert list(outbox.directory.iterdir()) == [publisher_lock(outbox.directory)]


async def test_the_end_marker_is_published_while_the_last_segment_is_there(outbox: Outbox) -> None:
    journal = journal_with(outbox.directory, line(1))
    journal.close()
    there: list[bool] = []

    def answer(message: Message) -> PublishFailed | None:
        if "Closed" in message.attributes:
            there.append(segment_path(journal.path, 0).exists())
            return PublishFailed("not now") if len(there) == 1 else None
        return None

    await drain(outbox, FakeTopic(answer), "packed")
    assert there == [True, True]


async def test_an_empty_journal_leaves_no_trace(outbox: Outbox) -> None:
    journal_with(outbox.directory).close()
    topic = FakeTopic()
    await drain(outbox, topic)
    assert topic.accepted == []
    assert list(outbox.directory.iterdir()) == [publisher_lock(outbox.directory)]


async def test_a_live_journal_is_followed_as_it_grows_and_one_visit_stays_readable(outbox: Outbox) -> None:
    journal = journal_with(outbox.directory, line(1))
    outbox.scan()
    topic = FakeTopic()
    async with running(publisher_of(outbox, topic)):
        await until(lambda: len(topic.accepted) == 1)
        assert topic.accepted[0].body == line(1).decode()
        journal.append(line(2))
        await until(lambda: len(topic.accepted) == 2)
    assert [message.start for message in topic.accepted] == [0, len(line(1))]
    journal.close()


@pytest.mark.slow
@pytest.mark.unmeasured
@pytest.mark.parametrize("format", FORMATS)
async def test_an_outage_of_any_length_loses_and_repeats_nothing(outbox: Outbox, format: str) -> None:
    lines = [line(n) for n in range(50)]
    journal_with(outbox.directory, *lines).close()
    calls = 0

    def answer(message: Message) -> PublishFailed | None:
        nonlocal calls
        calls += 1
        return PublishFailed("down") if calls < 200 else None

    topic = FakeTopic(answer)
    await drain(outbox, topic, format)
    in_order = sorted(spans_of(topic.accepted), key=lambda span: span.start)
    assert b"".join(span.data for span in in_order) == b"".join(lines)


async def test_a_new_configuration_is_taken_between_two_passes_and_nothing_is_lost_or_repeated(outbox: Outbox) -> None:
    journal = journal_with(outbox.directory, line(1))
    outbox.scan()
    topics = {"packed": FakeTopic(), "single": FakeTopic()}
    in_force = [SnsConfig(topic_arn=ARN, linger=0.01)]
    publisher = Publisher(
        outbox=outbox,
        config=lambda: in_force[-1],
        open_topic=lambda config: topics[config.format].open(config),
    )
    async with running(publisher):
        await until(lambda: topics["packed"].accepted)
        in_force.append(SnsConfig(topic_arn=ARN, linger=0.01, format="single"))
        journal.append(line(2) + line(3))
        await until(lambda: len([*topics["packed"].accepted, *topics["single"].accepted]) >= 2)
        journal.append(line(4))
        await until(lambda: topics["single"].accepted and topics["single"].accepted[-1].body == line(4).decode())
    assert stored([*topics["packed"].accepted, *topics["single"].accepted]) == b"".join(map(line, range(1, 5)))
    journal.close()


async def test_a_failure_is_logged_once_an_outage(outbox: Outbox, caplog: pytest.LogCaptureFixture) -> None:
    journal_with(outbox.directory, line(1)).close()
    calls = 0

    def answer(message: Message) -> PublishFailed | None:
        nonlocal calls
        calls += 1
        return PublishFailed("down") if calls < 20 else None

    with caplog.at_level("INFO"):
        await drain(outbox, FakeTopic(answer))
    events = [record.getMessage().split(" ")[0] for record in caplog.records]
    assert events.count("publish_failed") == 1
    assert events.count("publish_recovered") == 1


@pytest.mark.slow
@pytest.mark.unmeasured
@pytest.mark.parametrize("format", FORMATS)
async def test_a_topic_that_refuses_everything_costs_no_visit(outbox: Outbox, format: str) -> None:
    lines = [line(n) for n in range(20)]
    journal_with(outbox.directory, *lines).close()
    calls = 0

    def answer(message: Message) -> PublishFailed | None:
        nonlocal calls
        calls += 1
        return PublishRefused("no such topic") if calls < 100 else None

    topic = FakeTopic(answer)
    await drain(outbox, topic, format)
    assert stored(topic.accepted) == b"".join(lines)
    assert not refused_lines(outbox.directory).exists()


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("bad", [0, 7, 19])
async def test_a_message_that_sns_refuses_for_good_is_set_aside_whole_and_nothing_else(
    outbox: Outbox, format: str, bad: int
) -> None:
    lines = [line(n) for n in range(20)]
    journal_with(outbox.directory, *lines).close()
    journal_with(outbox.directory, line(99)).close()
    refused, published = total(telemetry.DISCARDED), total(telemetry.PUBLISHED_VISITS)
    topic = FakeTopic(refusing(lines[bad]))
    await drain(outbox, topic, format)
    aside = [lines[bad]] if format == "single" else lines
    assert refused_lines(outbox.directory).read_bytes() == b"".join(aside)
    seen = {each for span in spans_of(topic.accepted) for each in span.data.splitlines(keepends=True)}
    assert seen == {*lines, line(99)} - set(aside)
    assert total(telemetry.DISCARDED) - refused == len(aside)
    assert total(telemetry.PUBLISHED_VISITS) - published == len(seen)


async def test_a_live_journal_goes_on_behind_a_message_that_was_set_aside(outbox: Outbox) -> None:
    journal = journal_with(outbox.directory, line(0), line(1))
    outbox.scan()
    topic = FakeTopic(refusing(line(0)))
    async with running(publisher_of(outbox, topic)):
        await until(lambda: topic.tried)
        assert not refused_lines(outbox.directory).exists()
        journal.append(line(2))  # SNS accepts it as a probe: not the topic is at fault, but the first message
        await until(refused_lines(outbox.directory).exists)
        journal.append(line(3))
        await until(lambda: stored(topic.accepted) == line(2) + line(3))
    assert refused_lines(outbox.directory).read_bytes() == line(0) + line(1)
    journal.close()


async def test_what_sns_accepted_last_is_the_probe_when_nothing_follows(outbox: Outbox) -> None:
    journal = journal_with(outbox.directory, line(0))
    outbox.scan()
    topic = FakeTopic(refusing(line(1)))
    async with running(publisher_of(outbox, topic)):
        await until(lambda: topic.accepted)
        journal.append(line(1))
        await until(refused_lines(outbox.directory).exists)
    assert refused_lines(outbox.directory).read_bytes() == line(1)
    assert {message.body for message in topic.accepted} == {line(0).decode()}
    journal.close()


async def test_a_refused_message_is_kept_while_nothing_else_is_accepted(outbox: Outbox) -> None:
    journal_with(outbox.directory, line(0)).close()
    outbox.scan()
    topic = FakeTopic(refusing(line(0)))
    async with running(publisher_of(outbox, topic)):
        await until(lambda: len(topic.tried) > 20)
    assert not refused_lines(outbox.directory).exists()
    assert len(outbox.journals) == 1


async def test_what_is_accepted_in_the_same_call_is_no_evidence_against_a_refused_visit(outbox: Outbox) -> None:
    """The topic's permissions may have been corrected while the call was under way."""
    lines = [line(n) for n in range(40)]
    journal_with(outbox.directory, *lines).close()
    asked = 0

    def answer(message: Message) -> PublishFailed | None:
        nonlocal asked
        asked += 1
        if asked <= len(lines):
            return PublishRefused("no permission") if message.start < len(lines[0]) * 20 else None
        return PublishRefused("no permission for anything") if asked < 200 else None

    topic = FakeTopic(answer)
    await drain(outbox, topic, "single")
    assert stored(topic.accepted) == b"".join(lines)
    assert not refused_lines(outbox.directory).exists()


async def test_partial_failures_of_a_batch_repeat_only_what_failed(outbox: Outbox) -> None:
    lines = [line(n) for n in range(200)]
    journal_with(outbox.directory, *lines).close()
    chance = random.Random(7)
    topic = FakeTopic(lambda message: PublishFailed("throttled") if chance.random() < 0.5 else None)
    await drain(outbox, topic, "single")
    starts = [message.start for message in topic.accepted]
    assert len(starts) == len(set(starts)) == len(lines)
    assert stored(topic.accepted) == b"".join(lines)


@pytest.mark.parametrize("format", ["packed", "plain"])
async def test_messages_keep_to_the_limits_whatever_visitors_send(outbox: Outbox, format: str) -> None:
    chance = random.Random(1)
    agents = ["".join(chance.choices(string.printable[:94], k=2_048)) for _ in range(600)]
    lines = [line(n, agent) for n, agent in enumerate(agents)] + [line(n) for n in range(20_000)]
    lines.append(line(0, "\U0001f600" * 2_048))
    journal_with(outbox.directory, *lines).close()
    topic = FakeTopic()
    await drain(outbox, topic, format)
    assert max(message.size for message in topic.accepted) <= MAX_SENT_BYTES
    assert max(message.end - message.start for message in topic.accepted) <= MAX_SPAN_BYTES
    assert b"".join(span.data for span in spans_of(topic.accepted)) == b"".join(lines)


async def test_a_crash_repeats_at_most_what_was_under_way(outbox: Outbox) -> None:
    lines = [line(n) for n in range(100)]
    journal_with(outbox.directory, *lines[:50]).close()
    first = FakeTopic()
    outbox.scan()
    async with running(publisher_of(outbox, first)):
        await until(lambda: bool(first.accepted))
    outbox.close()
    second = FakeTopic()
    after = Outbox(outbox.directory)
    after.open()
    await drain(after, second)
    assert stored([*first.accepted, *second.accepted]) == b"".join(lines[:50])
    after.close()


async def test_live_journals_go_before_orphans(outbox: Outbox) -> None:
    for number in range(3):
        journal_with(outbox.directory, line(number)).close()
    live = journal_with(outbox.directory, line(9))
    outbox.scan()
    topic = FakeTopic()
    async with running(publisher_of(outbox, topic)):
        await until(lambda: len(spans_of(topic.accepted)) == 4)
    assert topic.accepted[0].journal == live.path.name
    live.close()


async def test_an_unreadable_journal_is_set_aside_and_stops_nobody(outbox: Outbox) -> None:
    broken = journal_with(outbox.directory, line(1))
    segment_path(broken.path, 3).write_bytes(line(2))  # a segment that begins within another
    broken.close()
    journal_with(outbox.directory, line(3)).close()
    topic = FakeTopic()
    await drain(outbox, topic)
    assert [span.data for span in spans_of(topic.accepted)] == [line(3)]
    assert bad_path(broken.path).is_dir()


async def test_an_unreadable_journal_that_cannot_be_renamed_delays_no_other_and_is_reported(outbox: Outbox) -> None:
    broken = journal_with(outbox.directory, line(1))
    segment_path(broken.path, 3).write_bytes(line(2))
    broken.close()
    bad_path(broken.path).mkdir()
    (bad_path(broken.path) / "kept").touch()  # so the name is taken
    journal_with(outbox.directory, line(3)).close()
    outbox.scan()
    topic = FakeTopic()
    publisher = publisher_of(outbox, topic)
    async with running(publisher):
        await until(lambda: topic.accepted)
        await until(lambda: publisher.error)
    assert [span.data for span in spans_of(topic.accepted)] == [line(3)]
    assert broken.path.name in str(publisher.error)


async def test_a_full_disk_keeps_the_refused_lines_in_the_journal(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal_with(outbox.directory, line(1), line(2)).close()
    journal_with(outbox.directory, line(3)).close()
    keep, tries = outbox.keep_refused, 0

    def full_at_first(data: bytes) -> None:
        nonlocal tries
        tries += 1
        if tries < 3:
            raise OSError(28, "full")
        keep(data)

    monkeypatch.setattr(outbox, "keep_refused", full_at_first)

    topic = FakeTopic(refusing(line(1)))
    await drain(outbox, topic, "plain")
    assert refused_lines(outbox.directory).read_bytes() == line(1) + line(2)
    assert {span.data for span in spans_of(topic.accepted)} == {line(3)}


async def test_a_crash_between_setting_aside_and_moving_on_loses_nothing_and_repeats_the_lines_in_the_file(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal_with(outbox.directory, line(1)).close()
    journal_with(outbox.directory, line(2)).close()
    keep, crashed = outbox.keep_refused, asyncio.Event()

    def crash_behind(data: bytes) -> None:
        keep(data)
        crashed.set()
        raise OSError(5, "the process ends here")

    monkeypatch.setattr(outbox, "keep_refused", crash_behind)
    outbox.scan()
    async with running(publisher_of(outbox, FakeTopic(refusing(line(1))))):
        await crashed.wait()
    outbox.close()
    after = Outbox(outbox.directory)
    after.open()
    journal_with(after.directory, line(3)).close()
    await drain(after, FakeTopic(refusing(line(1))))
    kept = refused_lines(after.directory).read_bytes()
    assert kept.replace(line(1), b"") == b""
    assert len(kept) >= 2 * len(line(1))
    after.close()


async def test_lines_written_while_the_publisher_was_reading_are_published_before_the_journal_goes(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = journal_with(outbox.directory, line(1))
    outbox.scan()
    real_take, fired = JournalReader.take, False

    def take(self: JournalReader, limit: int, start: int | None = None) -> Span | None:
        nonlocal fired
        span = real_take(self, limit, start)
        if span is None and not fired:  # all was read; before the publisher continues: a visit, the worker ends, a scan
            fired = True
            journal.append(line(2))
            journal.close()
            outbox.scan()
        return span

    monkeypatch.setattr(JournalReader, "take", take)
    topic = FakeTopic()
    publisher = publisher_of(outbox, topic)
    publisher.drain()
    async with asyncio.timeout(10):
        await publisher.run()
    assert stored(topic.accepted) == line(1) + line(2)
    assert [message.start for message in end_markers(topic.accepted)] == [len(line(1) + line(2))]


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("damage", [b"\x00" * 4096 + b"\n", b'{"Referer":"\xff"}\n', b"no visit\n"])
async def test_damage_in_a_live_journal_costs_its_line_alone_and_is_counted(
    outbox: Outbox, format: str, damage: bytes
) -> None:
    journals = [journal_with(outbox.directory, line(1), damage, line(2), damage), journal_with(outbox.directory)]
    outbox.scan()
    discarded = total(telemetry.DISCARDED)
    topic = FakeTopic()
    async with running(publisher_of(outbox, topic, format)):
        await until(lambda: line(2) in b"".join(span.data for span in spans_of(topic.accepted)))
        journals[0].append(line(3))
        journals[1].append(line(4))
        await until(lambda: sum(message.visits for message in topic.accepted) == 4)
    found = {each for span in spans_of(topic.accepted) for each in span.data.splitlines(keepends=True)}
    assert found == {line(n) for n in (1, 2, 3, 4)}
    assert total(telemetry.DISCARDED) - discarded == 2
    for journal in journals:
        journal.close()


async def test_a_foreign_file_in_a_journal_is_kept_and_delays_nobody(outbox: Outbox) -> None:
    journals = sorted((journal_with(outbox.directory, line(n)) for n in range(2)), key=lambda journal: journal.path)
    (journals[0].path / "notes.swp").write_text("an operator's")
    for journal in journals:
        journal.close()
    topic = FakeTopic()
    await drain(outbox, topic)
    assert len(spans_of(topic.accepted)) == len(end_markers(topic.accepted)) == 2
    assert (bad_path(journals[0].path) / "notes.swp").exists()


async def test_a_journal_that_cannot_be_read_for_now_holds_up_no_other(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    journals = sorted((journal_with(outbox.directory, line(n)) for n in range(2)), key=lambda journal: journal.path)
    for journal in journals:
        journal.close()
    real_take, readable = JournalReader.take, False

    def take(self: JournalReader, limit: int, start: int | None = None) -> Span | None:
        if self.path == journals[0].path and not readable:
            raise PermissionError(13, "Permission denied")
        return real_take(self, limit, start)

    monkeypatch.setattr(JournalReader, "take", take)
    topic = FakeTopic()
    outbox.scan()
    async with running(publisher_of(outbox, topic)):
        await until(lambda: len(end_markers(topic.accepted)) == 1)
        readable = True
        await until(lambda: len(end_markers(topic.accepted)) == 2)


class Unready(FakeTopic):
    """A topic without credentials: `ready` raises `error`, or never returns."""

    def __init__(self, error: PublishFailed | None) -> None:
        super().__init__()
        self.error = error
        self.asked = 0
        self.is_ready = asyncio.Event()

    async def ready(self) -> None:
        self.asked += 1
        if self.error is not None and not self.is_ready.is_set():
            raise self.error
        await self.is_ready.wait()


async def test_a_topic_that_is_not_ready_is_reported_without_any_visit_until_it_is_ready(outbox: Outbox) -> None:
    topic = Unready(PublishFailed("credentials from credential_process: no answer in time"))
    publisher = publisher_of(outbox, topic)
    async with running(publisher):
        await until(lambda: topic.asked > 3)
        assert publisher.error == str(topic.error)
        assert value(telemetry.PUBLISHING) == 0
        topic.is_ready.set()
        await until(lambda: publisher.error is None)
        assert value(telemetry.PUBLISHING) == 1


@pytest.mark.parametrize("error", [None, PublishFailed("no credentials")], ids=["no answer", "failure"])
async def test_a_topic_that_is_not_ready_delays_no_stop_when_nothing_waits(
    outbox: Outbox, error: PublishFailed | None
) -> None:
    journal_with(outbox.directory).close()  # its worker recorded no visit
    outbox.scan()
    topic = Unready(error)
    publisher = publisher_of(outbox, topic)
    publishing = asyncio.create_task(publisher.run())
    await until(lambda: topic.asked)
    publisher.drain()
    async with asyncio.timeout(5):
        await publishing


async def test_visits_that_wait_at_a_stop_are_published_if_the_topic_is_ready_in_time(outbox: Outbox) -> None:
    journal_with(outbox.directory, line(1)).close()
    outbox.scan()
    topic = Unready(None)
    publisher = publisher_of(outbox, topic)
    publishing = asyncio.create_task(publisher.run())
    await until(lambda: topic.asked)
    publisher.drain()
    await until(lambda: topic.asked > 1)
    topic.is_ready.set()
    async with asyncio.timeout(5):
        await publishing
    assert stored(topic.accepted) == line(1)


async def test_a_new_configuration_is_taken_while_the_topic_is_not_ready(outbox: Outbox) -> None:
    journal = journal_with(outbox.directory, line(1))
    outbox.scan()
    topics = {"packed": Unready(PublishFailed("no credentials")), "plain": FakeTopic()}
    in_force = [SnsConfig(topic_arn=ARN, linger=0.01)]
    publisher = Publisher(
        outbox=outbox,
        config=lambda: in_force[-1],
        open_topic=lambda config: topics[config.format].open(config),
    )
    async with running(publisher):
        await until(lambda: publisher.error)
        in_force.append(SnsConfig(topic_arn=ARN, linger=0.01, format="plain"))
        await until(lambda: stored(topics["plain"].accepted) == line(1))
    journal.close()
