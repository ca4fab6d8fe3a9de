"""Receiving, holding, deleting: the stages around the writer, against the queue in memory."""

import asyncio
import contextlib
import logging
from collections.abc import Iterable, Sequence
from typing import Any

import pytest

from tests.fakes import FakeQueue
from tracker.aws import Delivery
from tracker.storage import acknowledger as acknowledger_module
from tracker.storage.acknowledger import Acknowledger
from tracker.storage.receiver import CALLS_IN_FLIGHT, Handover, Held, Outage, Receiver
from tracker.storage.service import check_redrive


async def until(condition: Any) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.005)


async def test_held_deliveries_stay_hidden_and_dropped_ones_do_not() -> None:
    queue = FakeQueue(visibility_timeout=0.4)
    held = Held(queue=queue, visibility_timeout=10)
    kept, dropped = queue.send("kept"), queue.send("dropped")
    deliveries = await queue.receive(0)
    for delivery in deliveries:
        delivery.received_at -= 6  # past a third of the visibility timeout
    held.add(deliveries)
    held.drop([delivery for delivery in deliveries if delivery.message_id == dropped])
    await held.extend()
    await held.extend()
    assert queue.calls.count("change_visibility") == 1
    await asyncio.sleep(0.5)
    assert queue.visible() == {dropped}
    await held.release()
    assert queue.visible() == {kept, dropped}


class SlowQueue(FakeQueue):
    """Whose calls to change the visibility wait until `answers` is set, and which counts how many wait at a time."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.answers = asyncio.Event()
        self.waiting = self.most = 0

    async def change_visibility(self, deliveries: Sequence[Delivery], seconds: int) -> None:
        self.waiting += 1
        self.most = max(self.most, self.waiting)
        try:
            await self.answers.wait()
        finally:
            self.waiting -= 1
        await super().change_visibility(deliveries, seconds)


def many_due(held: Held, count: int, hidden_seconds: float) -> None:
    """Let `held` hold deliveries that were received so long ago."""
    now = asyncio.get_running_loop().time()
    held.add(Delivery(f"m{n}", f"r{n}", "", {}, 0, 1, now - hidden_seconds) for n in range(count))


async def test_thousands_are_hidden_again_several_calls_at_a_time() -> None:
    queue = SlowQueue()
    held = Held(queue=queue, visibility_timeout=30)
    many_due(held, 2_005, 11)
    extending = asyncio.create_task(held.extend())
    await until(lambda: queue.waiting > 1)
    queue.answers.set()
    await extending
    assert 1 < queue.most <= CALLS_IN_FLIGHT
    assert queue.calls.count("change_visibility") == 201
    await held.extend()
    assert queue.calls.count("change_visibility") == 201, "nothing is due again"


async def test_a_queue_that_does_not_answer_is_asked_again_before_anything_becomes_visible() -> None:
    queue = SlowQueue()
    held = Held(queue=queue, visibility_timeout=10)
    many_due(held, 100, 4)
    loop = asyncio.get_running_loop()
    began = loop.time()
    async with asyncio.timeout(30):
        await held.extend()
    assert loop.time() - began < 6, "there is time for another try"
    assert queue.most <= CALLS_IN_FLIGHT, "an outage is not met with a call for each ten of them"
    queue.answers.set()
    await held.extend()
    assert queue.calls.count("change_visibility") == 10


async def test_in_an_outage_what_was_confirmed_is_not_hidden_again() -> None:
    queue = FakeQueue()
    held = Held(queue=queue, visibility_timeout=30)
    many_due(held, 200, 11)
    queue.fail = lambda call: queue.calls.count(call) == 2
    await held.extend()
    tried = queue.calls.count("change_visibility")
    assert 1 < tried <= 1 + CALLS_IN_FLIGHT, "after a failure no new call is begun"
    await held.extend()
    assert queue.calls.count("change_visibility") - tried == 20 - (tried - 1)


@pytest.mark.parametrize("visibility_timeout", [10, 30, 120])
async def test_two_thirds_of_the_visibility_timeout_are_left_when_it_is_extended(visibility_timeout: int) -> None:
    queue = FakeQueue()
    held = Held(queue=queue, visibility_timeout=visibility_timeout)
    many_due(held, 10, visibility_timeout * 0.3)
    await held.extend()
    assert queue.calls == []
    many_due(held, 10, visibility_timeout * 0.35)
    await held.extend()
    assert queue.calls == ["change_visibility"]


async def test_what_is_held_is_kept_hidden_by_itself() -> None:
    queue = FakeQueue(visibility_timeout=0.3)
    held = Held(queue=queue, visibility_timeout=1)
    queue.send("body")
    deliveries = await queue.receive(0)
    deliveries[0].received_at -= 1
    held.add(deliveries)
    running = asyncio.create_task(held.run())
    await until(lambda: "change_visibility" in queue.calls)
    running.cancel()


async def test_an_outage_is_said_once_and_the_receiver_carries_on(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tracker.storage.receiver.Backoff.next", lambda self: 0.005)
    queue, stop, outage = FakeQueue(), asyncio.Event(), Outage()
    queue.fail = lambda call: queue.calls.count("receive") <= 5
    handover: Handover = asyncio.Queue(20)
    held = Held(queue=queue, visibility_timeout=120)
    receiver = Receiver(queue=queue, handover=handover, held=held, outage=outage, wait_time=1, stop=stop)
    with caplog.at_level(logging.INFO):
        running = asyncio.create_task(receiver.run())
        await until(lambda: outage.reason)
        queue.send("body")
        async with asyncio.timeout(5):
            delivery = await handover.get()
        assert delivery is not None
        assert delivery.body == "body"
        assert len(held) == 1
        assert outage.reason is None
        stop.set()
        await running
    said = [record.getMessage().split()[0] for record in caplog.records if record.name == "tracker.receiver"]
    assert said == ["queue_unreachable", "queue_reachable"]


async def test_deletes_go_by_tens_or_after_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acknowledger_module, "LINGER_SECONDS", 0.05)
    queue, done, sizes = FakeQueue(), list[Delivery](), list[int]()
    queue.on_delete = lambda batch: sizes.append(len(batch))
    acknowledger = Acknowledger(queue=queue, done=done.extend)
    for number in range(23):
        queue.send(f"{number}")
    received = [*await queue.receive(1), *await queue.receive(1), *await queue.receive(1)]
    running = asyncio.create_task(acknowledger.run())
    await acknowledger.acknowledge(received)
    await until(lambda: not queue.ids())
    assert sorted(sizes, reverse=True) == [10, 10, 3]
    await acknowledger.close()
    await running
    assert len(done) == 23


async def test_a_delete_that_fails_is_tried_again_and_then_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tracker.storage.acknowledger.Backoff.next", lambda self: 0.0)
    queue, done = FakeQueue(), list[Delivery]()
    queue.fail = lambda call: call == "delete"

    def settle(deliveries: Iterable[Delivery]) -> None:
        done.extend(deliveries)

    acknowledger = Acknowledger(queue=queue, done=settle)
    queue.send("body")
    await acknowledger.acknowledge(await queue.receive(1))
    await acknowledger.close()
    await acknowledger.run()
    assert queue.calls.count("delete") == acknowledger_module.TRIES
    assert len(done) == len(queue.ids()) == 1


@pytest.mark.parametrize(
    ("attributes", "word"),
    [
        ({}, "queue_without_dead_letters"),
        ({"RedrivePolicy": '{"maxReceiveCount": "3"}'}, "queue_gives_up_early"),
        ({"RedrivePolicy": '{"maxReceiveCount": 10}'}, None),
    ],
)
async def test_a_queue_that_loses_messages_is_warned_of(
    caplog: pytest.LogCaptureFixture, attributes: dict[str, str], word: str | None
) -> None:
    queue = FakeQueue(queue_attributes=attributes)
    queue.fail = lambda call: len(queue.calls) == 1  # at start SQS may not be there yet
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(check_redrive(queue, asyncio.Event()), 3)
    warned = [record.getMessage().split()[0] for record in caplog.records if record.levelno >= logging.WARNING]
    assert warned == ([word] if word else [])
