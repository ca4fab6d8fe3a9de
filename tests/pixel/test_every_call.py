"""The pixel under the SQLite method: whichever call fails, or is the last one of the process, each visit is sent once.

Accepting, accepting and publishing, and adopting are scenarios of `tests.seam.method`. Sent twice would be the same
visit at two places of journals: a span that is published again is what storage cuts.
"""

import asyncio
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.fake_aws.in_memory import FakeTopic
from tests.seam import faults
from tests.seam.faults import Fault
from tests.seam.method import LONG, SEED, Inline, Scenario, World, stumble, sweep
from tests.waiting import until
from tracker.config import OutboxConfig, SnsConfig
from tracker.core import spans
from tracker.core.message import EndMarker, Message, StoredSpan, pack, unpack
from tracker.core.visit import encode_line, split_lines
from tracker.errors import PublishFailed
from tracker.lifecycle import Backoff
from tracker.pixel import journal_reader, outbox, publisher
from tracker.pixel import recorder as recorder_module
from tracker.pixel.journal import Journal
from tracker.pixel.journal_reader import JournalReader
from tracker.pixel.outbox import Outbox
from tracker.pixel.publisher import Publisher
from tracker.pixel.recorder import Recorder
from tracker.pixel.span import Span

pytestmark = [pytest.mark.slow, pytest.mark.unmeasured]

SEGMENT_BYTES = 300  # two visits


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publisher, "Backoff", lambda: Backoff(first=0.001, cap=0.002))
    monkeypatch.setattr(recorder_module, "ThreadPoolExecutor", Inline)
    # The next start removes unfinished journals at once.
    monkeypatch.setattr(outbox, "UNFINISHED_SECONDS", -1.0)
    monkeypatch.setattr(journal_reader, "ABANDONED_SECONDS", -1.0)


def line(number: int) -> bytes:
    return encode_line("2026-11-23T07:09:24.932706+00:00", f"https://example.org/{number}", None, "192.0.2.1")


def record(recorder: Recorder, world: World, count: int) -> None:
    """Record so many more visits. Each is answered, recorded or not."""
    for _ in range(count):
        number = len(world.all("answered"))
        before = recorder.accepted
        recorder.record(line(number))
        world.note("answered", [number, recorder.accepted > before])


async def sync(recorder: Recorder, world: World) -> None:
    """Sync as the recorder does regularly, and note how many visits are durable, unless an fsync failed."""
    failed = len(world.all("sync failed"))
    await recorder.sync()
    if len(world.all("sync failed")) == failed:
        world.note("synced", len(world.all("answered")))
    else:
        world.note("given up", len(world.all("answered")))


async def opened(directory: Path) -> Outbox:
    """The outbox as main opens it: if the disk fails, it tries again."""
    found = Outbox(directory)
    while not found.is_open:
        try:
            found.open()
        except OSError:
            await asyncio.sleep(0)
    return found


def recorder_of(directory: Path) -> Recorder:
    return Recorder(config=OutboxConfig(dir=str(directory), segment_bytes=SEGMENT_BYTES), quota=1 << 20)


def publisher_of(outbox: Outbox, world: World) -> Publisher:
    def accept(message: Message) -> PublishFailed | None:
        world.note("accepted", [message.attributes, message.body])
        return None

    arn = "arn:aws:sns:us-east-1:000000000000:tracking"
    config = SnsConfig(topic_arn=arn, linger=0.002)
    return Publisher(outbox=outbox, config=lambda: config, open_topic=FakeTopic(accept).open)


async def drain(directory: Path, world: World) -> None:
    """Run main without workers: it publishes and removes all journals."""
    found = await opened(directory)
    try:
        found.scan()
        while any(not journal.orphaned for journal in found.journals):
            found.scan()
        main = publisher_of(found, world)
        main.drain()
        async with asyncio.timeout(60):
            await main.run()
    finally:
        found.close()


def stored(world: World) -> dict[str, dict[int, bytes]]:
    """What storage has stored of each journal: its lines by offset, without repeats."""
    journals: dict[str, dict[int, bytes]] = {}
    for attributes, body in world.all("accepted"):
        content = unpack(attributes, body)
        if isinstance(content, StoredSpan):
            offset = content.start
            for each in split_lines(content.data):
                assert journals.setdefault(content.journal, {}).setdefault(offset, each) == each
                offset += len(each)
    return journals


def assert_closed_without_a_gap(world: World) -> None:
    """Every journal with an end marker is complete: `tracker audit` would report nothing."""
    journals = stored(world)
    for content in (unpack(attributes, body) for attributes, body in world.all("accepted")):
        if isinstance(content, EndMarker):
            whole = spans.merge((at, at + len(each)) for at, each in journals[content.journal].items())
            assert whole == [(0, content.end)]


class Pixel:
    """What all scenarios share: foreign files stay, and in the end all visits are sent and the outbox is empty."""

    foreign: Sequence[str] = (
        *("outbox/README", "outbox/notes.new/precious", "outbox/lost+found/inode", "elsewhere/00000000000000000000"),
        *(f"outbox/{'a' * 32}.bad/00000000000000000000", f"outbox/{'A' * 32}/lock", f"outbox/{'b' * 31}/published"),
    )

    def setup(self, root: Path, world: World) -> None:
        """Nothing is there yet."""

    async def check(self, root: Path, world: World) -> None:
        await drain(root / "outbox", world)
        sent = Counter(each for lines in stored(world).values() for each in lines.values())
        assert not [each for each, count in sent.items() if count > 1], "sent twice"
        answered = dict(world.all("answered"))
        recorded = {line(number) for number, was_recorded in answered.items() if was_recorded}
        discarded = {line(number) for number, was_recorded in answered.items() if not was_recorded}
        assert recorded <= sent.keys(), "answered, and neither sent nor discarded"
        assert not discarded & sent.keys(), "discarded, and sent all the same"
        assert len(sent.keys() - recorded) <= len(world.all("died")) + 1, "nobody asked for these"
        assert_closed_without_a_gap(world)
        left = {path.name for path in (root / "outbox").iterdir()} - {Path(each).parts[1] for each in self.foreign}
        assert left == {"publisher.lock"}


class Accepting(Pixel):
    """A worker alone: two journals' worth of visits, synced in between, and a stop."""

    def setup(self, root: Path, world: World) -> None:
        (root / "outbox").mkdir()

    async def run(self, root: Path, world: World) -> None:
        recorder = recorder_of(root / "outbox")
        await recorder.open()
        for count in (1, 4, 3):
            record(recorder, world, count)
            await sync(recorder, world)
            await recorder.check()
        for _ in range(10):  # checks, one a second: after the disk has failed, recording continues
            await recorder.check()
            before = recorder.accepted
            record(recorder, world, 3)
            if recorder.accepted == before + 3:
                break
        else:
            raise AssertionError("recording did not resume")
        await recorder.close()


class Publishing(Pixel):
    """Worker and main in one process: spans are published while more visits come, and the journal is removed."""

    async def run(self, root: Path, world: World) -> None:
        found = await opened(root / "outbox")
        recorder = recorder_of(root / "outbox")
        await recorder.open()
        main = publisher_of(found, world)
        running = asyncio.create_task(main.run())
        for count in (1, 4, 3):
            record(recorder, world, count)
            await sync(recorder, world)
            await recorder.check()
            found.scan()
            await until(lambda: running.done() or self._all_sent(world))
        await recorder.close()
        found.scan()
        while any(not journal.orphaned for journal in found.journals):  # the scan failed: there is another in a second
            found.scan()
        main.drain()
        async with asyncio.timeout(60):
            await running
        found.close()

    def _all_sent(self, world: World) -> bool:
        recorded = {line(number) for number, was_recorded in world.all("answered") if was_recorded}
        return recorded <= {each for lines in stored(world).values() for each in lines.values()}


class Adopting(Pixel):
    """What killed workers left: a journal of several segments, a torn, an empty and an unfinished one."""

    def setup(self, root: Path, world: World) -> None:
        directory = root / "outbox"
        directory.mkdir()
        journals = [Journal.create(directory, SEGMENT_BYTES) for _ in range(3)]
        for number in range(10):
            journals[number // 7].append(line(number))
            world.note("answered", [number, True])
        last = max(path for path in journals[1].path.iterdir() if path.name.isdigit())
        with last.open("ab") as segment:
            segment.write(line(10)[:-9])  # it was never answered
        reader = JournalReader(journals[0].path)
        span = reader.take(SEGMENT_BYTES)
        assert span is not None
        self._publish(reader, span, world)
        for journal in journals:
            journal.close()
        (directory / f"{'c' * 32}.new").mkdir()

    def _publish(self, reader: JournalReader, span: Span, world: World) -> None:
        message = pack(reader.name, span.start, span.data, compress=True)
        world.note("accepted", [message.attributes, message.body])
        reader.advance(span.end)

    async def run(self, root: Path, world: World) -> None:
        await drain(root / "outbox", world)


SCENARIOS: dict[str, Scenario] = {"accepting": Accepting(), "publishing": Publishing(), "adopting": Adopting()}
ILLS = [faults.EIO, faults.EIO_TOO_LATE, faults.FULL_FOR_A_WHILE, faults.SHORT, faults.TORN]
RUNS = [
    *(("accepting", fault) for fault in ILLS),
    *(("publishing", fault) for fault in (faults.KILL, faults.TEAR, faults.EIO)),
    *(("adopting", fault) for fault in (faults.KILL, faults.EIO)),
]
if LONG:
    RUNS = [(name, fault) for name in SCENARIOS for fault in faults.EVERY]


@pytest.mark.parametrize(("name", "fault"), RUNS, ids=str)
def test_whichever_call_fails_or_is_the_last_every_visit_is_sent_once(name: str, fault: Fault) -> None:
    assert sweep(SCENARIOS[name], fault) > 1


@pytest.mark.parametrize("seed", range(SEED, SEED + (300 if LONG else 3)))
@pytest.mark.parametrize("name", SCENARIOS)
def test_one_fault_after_another_loses_nothing(name: str, seed: int) -> None:
    stumble(SCENARIOS[name], faults.EVERY, seed)
