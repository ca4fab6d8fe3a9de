"""Many journals are published together: none holds up another, and none costs more requests or memory for it."""

import asyncio
import os
import random
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import pytest

from tests.fake_aws import FakeAws
from tests.fake_aws.in_memory import FakeTopic
from tests.pixel.journals import journal_with, line
from tests.pixel.test_publisher import drain, end_markers, impatient, outbox, publisher_of, running, spans_of
from tests.waiting import until
from tracker.aws import open_topic
from tracker.config import SnsConfig
from tracker.core.message import STEP_BYTES, Message, StoredSpan, unpack
from tracker.core.visit import split_lines
from tracker.errors import PublishFailed, PublishRefused
from tracker.local.provision import provision_at
from tracker.pixel.journal import Journal
from tracker.pixel.journal_reader import JournalReader
from tracker.pixel.outbox import Outbox
from tracker.pixel.outbox_files import committed_offset, publisher_lock, refused_lines
from tracker.pixel.publisher import ORPHAN_MESSAGES, Publisher

__all__ = ["impatient", "outbox"]


class SlowTopic(FakeTopic):
    """Holds the reply to each call with a message of the journal `slow`, until `released` is set."""

    def __init__(self, slow: str, outcome: Callable[[Message], PublishFailed | None] = lambda message: None) -> None:
        super().__init__(outcome)
        self.slow = slow
        self.released = asyncio.Event()

    async def publish(self, messages: Sequence[Message]) -> list[PublishFailed | None]:
        outcomes = await super().publish(messages)
        if any(message.journal == self.slow for message in messages):
            await self.released.wait()
        return outcomes


def journals_with_one_line_each(outbox: Outbox, count: int) -> list[Journal]:
    return [journal_with(outbox.directory, line(number)) for number in range(count)]


def lines_in(messages: list[Message], journal: str) -> list[bytes]:
    return [each for span in spans_of(messages) if span.journal == journal for each in split_lines(span.data)]


def in_order(messages: list[Message]) -> bool:
    """Whether SNS has accepted the messages of each journal in their order."""
    starts: dict[str, list[int]] = {}
    for message in messages:
        starts.setdefault(message.journal, []).append(message.start)
    return all(each == sorted(each) for each in starts.values())


def all_have(topic: FakeTopic, journals: list[Journal], text: bytes) -> bool:
    return all(text in lines_in(topic.accepted, journal.path.name) for journal in journals)


async def goes_on(journals: list[Journal], topic: FakeTopic) -> None:
    """Each of the journals gets three more visits, one after the other, and all of them are published."""
    for number in (1_000, 2_000, 3_000):
        for journal in journals:
            journal.append(line(number))
        await until(partial(all_have, topic, journals, line(number)))


async def test_a_journal_whose_messages_are_slow_holds_up_no_other(outbox: Outbox) -> None:
    slow, *others = journals = journals_with_one_line_each(outbox, 10)
    outbox.scan()
    topic = SlowTopic(slow.path.name)
    async with running(publisher_of(outbox, topic)):
        await until(lambda: len(topic.accepted) == 10)
        slow.append(line(50))
        await goes_on(others, topic)
        assert lines_in(topic.accepted, slow.path.name) == [line(0)]  # its next message waits for the outcome of this
        assert committed_offset(slow.path) == 0
        topic.released.set()
        await until(lambda: lines_in(topic.accepted, slow.path.name) == [line(0), line(50)])
    assert in_order(topic.accepted)
    for journal in journals:
        journal.close()


@pytest.mark.parametrize("failure", [PublishFailed("throttled"), PublishRefused("bad line")], ids=["failed", "refused"])
async def test_a_journal_whose_messages_are_not_accepted_holds_up_no_other(
    outbox: Outbox, failure: PublishFailed, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level("INFO")
    advance = JournalReader.advance

    def advance_slowly(reader: JournalReader, to: int) -> None:
        time.sleep(0.02)  # a slow disk: others are accepted before the failed journal knows when it may try again
        advance(reader, to)

    monkeypatch.setattr(JournalReader, "advance", advance_slowly)
    bad, *others = journals = journals_with_one_line_each(outbox, 10)
    outbox.scan()
    topic = FakeTopic(lambda message: failure if message.journal == bad.path.name and message.start == 0 else None)
    publisher = publisher_of(outbox, topic)
    async with running(publisher):
        await goes_on(others, topic)
        if isinstance(failure, PublishRefused):
            await until(refused_lines(outbox.directory).exists)
            await goes_on(journals, topic)
            assert refused_lines(outbox.directory).read_bytes() == line(0)
        else:
            assert committed_offset(bad.path) == 0
            assert publisher.error == "throttled"
            assert "publish_recovered" not in caplog.text  # the others' successes do not hide the failures
            topic.outcome = lambda message: None
            await goes_on(journals, topic)
            await until(lambda: publisher.error is None)
    for journal in journals:
        journal.close()


async def test_a_live_journal_with_a_backlog_that_fails_holds_up_no_orphan(outbox: Outbox) -> None:
    live = journal_with(outbox.directory, *[line(number) for number in range(100)])  # more than a window of singles
    journal_with(outbox.directory, line(500)).close()
    outbox.scan()
    topic = FakeTopic(lambda message: PublishFailed("down") if message.journal == live.path.name else None)
    async with running(publisher_of(outbox, topic, "single")):
        await until(lambda: len(outbox.journals) == 1)
    assert [span.data for span in spans_of(topic.accepted)] == [line(500)]
    live.close()


async def test_an_acceptance_whose_call_began_before_a_refusal_is_no_evidence(outbox: Outbox) -> None:
    """The topic may have lost its permissions between the two."""
    journals = sorted(journals_with_one_line_each(outbox, 2), key=lambda journal: journal.path)
    early, refused = journals  # published in this order
    outbox.scan()
    accepted = {early.path.name}
    topic = SlowTopic(
        early.path.name, lambda message: None if message.journal in accepted else PublishRefused("no permission")
    )
    async with running(publisher_of(outbox, topic)):
        await until(lambda: len(topic.tried) >= 2)  # `early` is accepted, its reply is late; `refused` is refused
        accepted.clear()  # and so is everything from now on
        topic.released.set()
        tried = len(topic.tried)
        await until(lambda: len(topic.tried) > tried + 20)
        assert not refused_lines(outbox.directory).exists()
        topic.outcome = lambda message: None
        await until(lambda: lines_in(topic.accepted, refused.path.name))
    for journal in journals:
        journal.close()


@pytest.mark.slow
@pytest.mark.parametrize("format", ["packed", "plain", "single"])
async def test_of_many_journals_every_line_is_accepted_in_order_whatever_fails_now_and_then(
    outbox: Outbox, format: str
) -> None:
    chance = random.Random(11)
    contents = [[line(1_000 * journal + number) for number in range(60)] for journal in range(25)]
    names = {}
    for lines in contents:
        journal = journal_with(outbox.directory, *lines)
        journal.close()
        names[journal.path.name] = lines
    topic = FakeTopic(lambda message: PublishFailed("throttled") if chance.random() < 0.4 else None)
    await drain(outbox, topic, format)
    for name, lines in names.items():
        assert sorted(lines_in(topic.accepted, name)) == sorted(lines)
    assert format == "single" or in_order(topic.accepted)
    assert len(end_markers(topic.accepted)) == (0 if format == "single" else len(names))
    assert list(outbox.directory.iterdir()) == [publisher_lock(outbox.directory)]


@pytest.mark.slow
async def test_of_a_thousand_orphans_few_are_held_and_no_files_stay_open(outbox: Outbox) -> None:
    count = 1_000  # more than a process may usually open files
    for number in range(count):
        journal_with(outbox.directory, line(number)).close()
    before = len(os.listdir("/dev/fd"))
    assert outbox.scan() == count
    assert len(os.listdir("/dev/fd")) == before
    topic = FakeTopic(lambda message: PublishFailed("down"))
    publisher = publisher_of(outbox, topic)
    async with running(publisher):
        await until(lambda: len(topic.tried) > 10 * ORPHAN_MESSAGES)
        assert len({message.journal for tried in topic.tried for message in tried}) == ORPHAN_MESSAGES
        topic.outcome = lambda message: None
        await until(lambda: not outbox.journals, 60)
    assert len(end_markers(topic.accepted)) == len({span.data for span in spans_of(topic.accepted)}) == count


async def test_a_refused_orphan_keeps_no_other_from_being_published(outbox: Outbox) -> None:
    """More orphans are refused than are held at a time, and SNS has accepted nothing yet."""
    journals = [journal_with(outbox.directory, line(n), line(900)) for n in range(ORPHAN_MESSAGES + 20)]
    bad = {journal.path.name for journal in sorted(journals, key=lambda journal: journal.path)[:-10]}
    for journal in journals:
        journal.close()
    live = journal_with(outbox.directory, line(1))
    outbox.scan()
    topic = FakeTopic(lambda message: PublishRefused("bad") if message.journal in bad and message.visits else None)
    async with running(publisher_of(outbox, topic)):
        await until(lambda: outbox.journals == [journal for journal in outbox.journals if not journal.orphaned], 30)
    good = {span.journal for span in spans_of(topic.accepted)} - {live.path.name}
    assert good == {journal.path.name for journal in journals} - bad
    assert refused_lines(outbox.directory).read_bytes().count(b"\n") == 2 * len(bad)
    live.close()


@pytest.mark.parametrize(("format", "steps"), [("packed", 1), ("plain", 3)])
async def test_while_more_lines_wait_a_message_wastes_no_step_of_its_price(
    outbox: Outbox, format: str, steps: int
) -> None:
    """Only the last message of the journal may: it takes what is left."""
    chance = random.Random(3)
    agents = [f"Mozilla/5.0 ({chance.randrange(10**9)}) Chrome/{chance.randrange(140)}" for _ in range(500)]
    lines = [line(chance.randrange(10**6), agents[n % 500]) for n in range(30_000 if format == "packed" else 8_000)]
    journal_with(outbox.directory, *[b"".join(lines)]).close()
    topic = FakeTopic()
    await drain(outbox, topic, format)
    *sizes, _ = [message.size for message in topic.accepted if message.visits]
    assert len(sizes) > 3
    assert max(sizes) > 0.9 * steps * STEP_BYTES
    assert max(-size % STEP_BYTES for size in sizes) < 0.1 * STEP_BYTES
    assert [each for span in spans_of(topic.accepted) for each in split_lines(span.data)] == lines
    assert in_order(topic.accepted)


async def test_a_scan_does_not_read_the_orphans_again_whose_messages_wait(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    orphan = journal_with(outbox.directory, line(1), line(2))
    orphan.close()
    live = journal_with(outbox.directory, line(3))
    for _ in range(2):
        outbox.scan()
    figures = outbox.size, outbox.waiting, outbox.oldest
    listed: list[str] = []
    listdir = os.listdir

    def note(path: str) -> list[str]:
        listed.append(str(path))
        return listdir(path)

    with monkeypatch.context() as patch:
        patch.setattr(os, "listdir", note)
        outbox.scan()
    assert (outbox.size, outbox.waiting, outbox.oldest) == figures
    assert str(live.path) in listed
    assert str(orphan.path) not in listed
    next(reader for reader in outbox.journals if reader.orphaned).advance(len(line(1)))
    outbox.scan()
    assert outbox.waiting == len(line(2)) + len(line(3))
    live.close()


# -- With the client of SNS -----------------------------------------------------------------------------------


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeAws]:
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with FakeAws(seed=5) as fake:
        yield fake


async def publisher_at(aws: FakeAws, outbox: Outbox) -> Publisher:
    made = await provision_at(aws.door.url, "us-east-1")
    config = SnsConfig(topic_arn=made.topic_arn, endpoint_url=aws.sns.url, linger=0.1)
    return Publisher(outbox=outbox, config=lambda: config, open_topic=open_topic)


def received(aws: FakeAws) -> list[StoredSpan]:
    """What the queue holds, in the order in which it came; repeats too."""
    sent = aws.queue("visits", lambda queue: queue.sent())
    contents = [unpack({name: a.value for name, a in each.attributes.items()}, each.body) for each in sent]
    return [content for content in contents if isinstance(content, StoredSpan)]


def has_received(aws: FakeAws, spans: int) -> bool:
    return len({(span.journal, span.start) for span in received(aws)}) == spans


async def test_the_messages_of_eight_workers_share_a_request(aws: FakeAws, outbox: Outbox) -> None:
    journals = journals_with_one_line_each(outbox, 8)
    outbox.scan()
    rounds = 5
    async with running(await publisher_at(aws, outbox)):
        for number in range(1, rounds + 1):
            await until(partial(has_received, aws, 8 * number))
            for journal in journals:
                journal.append(line(number))
    assert aws.sns.calls.count("PublishBatch") <= 2 * rounds  # a round's lines may be read before all are there
    assert aws.sns.calls.count("Publish") <= 2 * rounds
    for journal in journals:
        journal.close()


def all_committed(journals: list[Journal], ends: list[int]) -> bool:
    return [committed_offset(journal.path) for journal in journals] == ends


@pytest.mark.slow
@pytest.mark.parametrize(
    "fault", ["partial", "unlisted_done", "unlisted_undone", "lost_reply", "throttle", "error_after", "double", "slow"]
)
async def test_nothing_is_lost_when_a_shared_request_fails_in_part_or_as_a_whole(
    aws: FakeAws, outbox: Outbox, fault: str
) -> None:
    journals = journals_with_one_line_each(outbox, 12)
    outbox.scan()
    aws.sns.faults.inject(fault, "Publish", "PublishBatch", times=7)
    publisher = await publisher_at(aws, outbox)
    ends = [len(line(number)) for number in range(12)]
    async with running(publisher):
        for number in range(1, 4):
            for journal in journals:
                journal.append(line(number))
            ends = [end + len(line(number)) for end in ends]
            await until(partial(all_committed, journals, ends), 60)
    assert aws.sns.faults.injected[fault]
    for n, journal in enumerate(journals):
        stored: dict[int, bytes] = {}
        for span in (span for span in received(aws) if span.journal == journal.path.name):
            offset = span.start
            for text in split_lines(span.data):
                assert stored.setdefault(offset, text) == text
                offset += len(text)
        assert [stored[at] for at in sorted(stored)] == [line(n), *map(line, range(1, 4))]
        journal.close()
