"""The doctor compares what SNS has accepted of each journal with what storage has stored of it."""

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from tests.fake_aws import FakeAws
from tests.fake_aws.queues import Sent
from tests.pixel.journals import journal_with, line
from tests.ports import free_port
from tests.storage.rig import Rig, delivery, open_rig
from tracker.config import load_pixel, load_storage
from tracker.core.message import pack
from tracker.operations.arrival_checks import check_arrival
from tracker.operations.findings import Finding, Level
from tracker.operations.remedies import Setup
from tracker.pixel import outbox_files
from tracker.storage import ledger_reader
from tracker.visit_log_files import ledger_path

LINES = [line(each) for each in range(10)]


@dataclass
class Place:
    """An outbox with one journal that SNS has accepted to its end, and an open log."""

    folder: Path
    fake: FakeAws
    rig: Rig
    journal: Path

    async def store(self, first: int, end: int) -> None:
        message = pack(self.journal.name, len(b"".join(LINES[:first])), b"".join(LINES[first:end]), compress=True)
        await self.rig.write(delivery(message.body, message.attributes))

    async def check(self, setup: Setup | None = None, *, admin: int = 0) -> list[Finding]:
        """What is found. `admin` is the port of storage's admin listener; by default nothing listens there."""
        setup = setup or Setup(outbox="the outbox", expects=lambda journal: True)
        pixel = {"outbox": {"dir": str(self.folder)}, "sns": {"topic_arn": "arn:aws:sns:eu-west-1:000000000000:t"}}
        sqs = {"queue": "visits", "region": "eu-west-1", "endpoint_url": self.fake.sqs.url}
        log = {"path": str(self.folder / "visits.log")}
        storage = {"sqs": sqs, "log": log, "admin": {"port": admin or free_port()}}
        (self.folder / "pixel.yaml").write_text(json.dumps(pixel))
        (self.folder / "storage.yaml").write_text(json.dumps(storage))
        configs = load_pixel(self.folder / "pixel.yaml", {}), load_storage(self.folder / "storage.yaml", {})
        return [finding async for finding in check_arrival(*configs, setup, 0.0)]


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    fake = FakeAws()
    fake.world.create_queue("visits")
    journal = journal_with(tmp_path, *LINES)
    outbox_files.write_committed_offset(journal.path, len(b"".join(LINES)))
    async with open_rig(tmp_path / "visits.log") as rig:
        yield Place(tmp_path, fake, rig, journal.path)
    journal.close()
    fake.close()


async def test_a_journal_that_lost_its_latest_messages_is_named_with_the_bytes(place: Place) -> None:
    await place.store(0, 4)
    [finding] = await place.check()
    first, end = len(b"".join(LINES[:4])), len(b"".join(LINES))
    assert finding.level is Level.FAULT
    assert f"{end - first} bytes of 1 journals" in finding.what
    assert f"{place.journal.name} [{first}, {end})" in finding.what
    assert finding.fix.startswith("first copy the outbox")


async def test_a_journal_of_which_nothing_arrived_is_named(place: Place) -> None:
    [finding] = await place.check()
    assert f"{place.journal.name} [0, {len(b''.join(LINES))})" in finding.what


async def test_what_is_stored_is_well_also_in_an_append_that_is_still_pending(place: Place) -> None:
    await place.store(0, 4)
    await place.rig.call(place.rig.ledger.checkpoint)
    await place.store(4, 10)
    [finding] = await place.check()
    assert (finding.level, finding.what) == (Level.OK, "storage has what SNS had accepted of 1 journals")


async def test_what_may_wait_in_the_queue_is_no_fault(place: Place) -> None:
    await place.store(0, 4)
    place.fake.queue("visits", lambda queue: queue.send(Sent("a message", {})))
    [finding] = await place.check()
    assert finding.level is Level.OK
    assert "about 1 messages wait in the queue" in finding.what


@pytest.mark.parametrize(("status", "level"), [(503, Level.OK), (200, Level.FAULT)])
async def test_what_a_storage_holds_that_cannot_write_is_no_fault(place: Place, status: int, level: Level) -> None:
    async def ready(_: web.Request) -> web.Response:
        return web.Response(status=status)

    app = web.Application()
    app.router.add_get("/readyz", ready)
    place.fake.queue("visits", lambda queue: queue.send(Sent("a message", {})))
    place.fake.queue("visits", lambda queue: queue.receive(1, 60))
    async with TestServer(app, host="127.0.0.1") as server:
        assert server.port
        [finding] = await place.check(admin=server.port)
    assert finding.level is level


async def test_a_journal_of_another_storage_is_not_expected(place: Place) -> None:
    assert await place.check(Setup(expects=lambda journal: False)) == []


async def test_nothing_is_said_while_it_is_not_known_what_the_queue_should_receive(place: Place) -> None:
    assert await place.check(Setup()) == []


async def test_a_journal_that_was_given_up_is_left_out(place: Place) -> None:
    await place.store(0, 4)
    await place.rig.call(place.rig.ledger.checkpoint)
    ledger_reader.give_up(ledger_path(place.folder / "visits.log"), place.journal.name)
    [finding] = await place.check()
    assert finding.level is Level.OK
