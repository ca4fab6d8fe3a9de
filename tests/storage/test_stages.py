"""The stages around the writer, which receive and delete, against the queue in memory."""

import asyncio
import contextlib
import logging
from collections.abc import Sequence

import pytest

from tests.fake_aws.in_memory import FakeQueue
from tests.waiting import until
from tracker.core.delivery import Delivery
from tracker.storage import acknowledger as acknowledger_module
from tracker.storage.acknowledger import Acknowledger
from tracker.storage.dead_letters import check_redrive
from tracker.storage.in_flight import CALLS_AT_ONCE, InFlight
from tracker.storage.receiver import Outage, Receiver


async def test_deliveries_in_flight_stay_hidden_and_removed_ones_do_not() -> None:
    queue = FakeQueue(visibility_timeout=0.4)
    in_flight = InFlight(queue=queue, visibility_timeout=10)
    kept, removed = queue.send("kept"), queue.send("removed")
    deliveries = await queue.receive(0)
    for delivery in deliveries:
        delivery.received_at -= 6  # past a third of the visibility timeout
    in_flight.add(deliveries)
    in_flight.remove([delivery for delivery in deliveries if delivery.message_id == removed])
    await in_flight.extend()
    await in_flight.extend()
    assert queue.calls.count("change_visibility") == 1
    await until(queue.model.visible)  # both were received at one time
    assert queue.model.visible() == {removed}
    await in_flight.give_back()
    assert queue.model.visible() == {kept, removed}


class SlowQueue(FakeQueue):
    """Whose calls to change the visibility wait until `answers` is set, and which counts how many wait at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.answers = asyncio.Event()
        self.waiting = self.most = 0

    async def change_visibility(self, deliveries: Sequence[Delivery], seconds: int) -> list[Delivery]:
        self.waiting += 1
        self.most = max(self.most, self.waiting)
        try:
            await self.answers.wait()
        finally:
            self.waiting -= 1
        return await super().change_visibility(deliveries, seconds)


async def many_due(queue: FakeQueue, in_flight: InFlight, count: int, hidden_seconds: float) -> None:
    """Put deliveries in flight that were received so long ago."""
    for number in range(count):
        queue.send(f"{number}")
    while deliveries := await queue.receive(0):
        for delivery in deliveries:
            delivery.received_at -= hidden_seconds
        in_flight.add(deliveries)
    queue.calls.clear()


async def test_thousands_are_hidden_again_several_calls_at_a_time() -> None:
    queue = SlowQueue()
    in_flight = InFlight(queue=queue, visibility_timeout=30)
    await many_due(queue, in_flight, 2_005, 11)
    extending = asyncio.create_task(in_flight.extend())
    await until(lambda: queue.waiting > 1)
    queue.answers.set()
    await extending
    assert 1 < queue.most <= CALLS_AT_ONCE
    assert queue.calls.count("change_visibility") == 201
    await in_flight.extend()
    assert queue.calls.count("change_visibility") == 201, "nothing is due again"


async def test_a_queue_that_does_not_answer_is_asked_again_before_anything_becomes_visible() -> None:
    queue = SlowQueue()
    in_flight = InFlight(queue=queue, visibility_timeout=10)
    await many_due(queue, in_flight, 100, 4)
    loop = asyncio.get_running_loop()
    began = loop.time()
    async with asyncio.timeout(30):
        await in_flight.extend()
    assert loop.time() - began < 6, "there is time for another try"
    assert queue.most <= CALLS_AT_ONCE, "an outage is not met with a call for each ten of them"
    queue.answers.set()
    await in_flight.extend()
    assert queue.calls.count("change_visibility") == 10


async def test_a_delivery_that_sqs_refuses_to_hide_is_not_counted_as_hidden_and_is_given_up_when_it_is_visible(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, "tracker.storage.in_flight")
    queue = FakeQueue(visibility_timeout=0)
    in_flight = InFlight(queue=queue, visibility_timeout=30)
    queue.send("visible again")
    [visible] = await queue.receive(0)
    visible.received_at -= 11
    in_flight.add([visible])
    queue.model.delete(visible.receipt)
    queue.visibility_timeout = 30
    await many_due(queue, in_flight, 2, 11)
    for _ in range(2):
        await in_flight.extend()
    assert queue.calls == ["change_visibility"] * 2, "the second call is for the refused delivery alone"
    said = [record.getMessage().partition(" error=")[0] for record in caplog.records]
    assert said == ["extension_failed deliveries=1"] * 2
    in_flight.remove([visible])
    visible.received_at -= 20
    in_flight.add([visible])
    await in_flight.extend()
    assert len(queue.calls) == 2, "its visibility timeout has passed"


async def test_in_an_outage_what_was_confirmed_is_not_hidden_again() -> None:
    queue = FakeQueue()
    in_flight = InFlight(queue=queue, visibility_timeout=30)
    await many_due(queue, in_flight, 200, 11)
    queue.fail = lambda call: queue.calls.count(call) == 2
    await in_flight.extend()
    tried = queue.calls.count("change_visibility")
    assert 1 < tried <= 1 + CALLS_AT_ONCE, "after a failure no new call is begun"
    await in_flight.extend()
    assert queue.calls.count("change_visibility") - tried == 20 - (tried - 1)


@pytest.mark.parametrize("visibility_timeout", [10, 30, 120])
async def test_two_thirds_of_the_visibility_timeout_are_left_when_it_is_extended(visibility_timeout: int) -> None:
    queue = FakeQueue()
    in_flight = InFlight(queue=queue, visibility_timeout=visibility_timeout)
    await many_due(queue, in_flight, 10, visibility_timeout * 0.3)
    await in_flight.extend()
    assert queue.calls == []
    await many_due(queue, in_flight, 10, visibility_timeout * 0.35)
    await in_flight.extend()
    assert queue.calls == ["change_visibility"]


async def test_what_is_in_flight_is_kept_hidden_without_a_call() -> None:
    queue = FakeQueue(visibility_timeout=0.3)
    in_flight = InFlight(queue=queue, visibility_timeout=1)
    queue.send("body")
    deliveries = await queue.receive(0)
    deliveries[0].received_at -= 0.5
    in_flight.add(deliveries)
    running = asyncio.create_task(in_flight.run())
    await until(lambda: "change_visibility" in queue.calls)
    running.cancel()


async def test_an_outage_is_logged_once_and_the_receiver_carries_on(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tracker.storage.receiver.Backoff.next", lambda self: 0.005)
    queue, stop, outage = FakeQueue(), asyncio.Event(), Outage()
    queue.fail = lambda call: queue.calls.count("receive") <= 5
    received: asyncio.Queue[Delivery | None] = asyncio.Queue(20)
    in_flight = InFlight(queue=queue, visibility_timeout=120)
    receiver = Receiver(queue=queue, received=received, in_flight=in_flight, outage=outage, wait_time=1, stop=stop)
    with caplog.at_level(logging.INFO):
        running = asyncio.create_task(receiver.run())
        await until(lambda: outage.reason)
        queue.send("body")
        async with asyncio.timeout(5):
            delivery = await received.get()
        assert delivery is not None
        assert delivery.body == "body"
        assert len(in_flight) == 1
        assert outage.reason is None
        stop.set()
        await running
    said = [
        record.getMessage().partition(";")[0].split()[0]
        for record in caplog.records
        if record.name == "tracker.storage.receiver"
    ]
    assert said == ["receive_failed", "receive_resumed"]


async def test_deletes_go_by_tens_or_after_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acknowledger_module, "LINGER_SECONDS", 0.05)
    queue, sizes = FakeQueue(), list[int]()
    queue.on_delete = lambda batch: sizes.append(len(batch))
    in_flight = InFlight(queue=queue, visibility_timeout=30)
    acknowledger = Acknowledger(queue=queue, in_flight=in_flight)
    for number in range(23):
        queue.send(f"{number}")
    received = [*await queue.receive(1), *await queue.receive(1), *await queue.receive(1)]
    in_flight.add(received)
    running = asyncio.create_task(acknowledger.run())
    await acknowledger.acknowledge(received)
    await until(lambda: not queue.model.ids())
    assert sorted(sizes, reverse=True) == [10, 10, 3]
    await acknowledger.close()
    await running
    assert len(in_flight) == 0


async def test_a_delete_that_fails_is_tried_again_and_then_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tracker.storage.acknowledger.Backoff.next", lambda self: 0.0)
    queue = FakeQueue()
    queue.fail = lambda call: call == "delete"
    in_flight = InFlight(queue=queue, visibility_timeout=30)
    acknowledger = Acknowledger(queue=queue, in_flight=in_flight)
    queue.send("body")
    received = await queue.receive(1)
    in_flight.add(received)
    await acknowledger.acknowledge(received)
    await acknowledger.close()
    await acknowledger.run()
    assert queue.calls.count("delete") == acknowledger_module.TRIES
    assert len(queue.model.ids()) == 1
    assert len(in_flight) == 0


@pytest.mark.parametrize(
    ("attributes", "word"),
    [
        ({}, "dead_letter_queue_not_found"),
        ({"RedrivePolicy": '{"maxReceiveCount": "3"}'}, "receives_limited"),
        ({"RedrivePolicy": '{"maxReceiveCount": 10}'}, None),
    ],
)
async def test_a_queue_that_loses_messages_is_warned_of(
    caplog: pytest.LogCaptureFixture, attributes: dict[str, str], word: str | None
) -> None:
    queue = FakeQueue()
    queue.model.attributes.update(attributes)
    queue.fail = lambda call: len(queue.calls) == 1  # at start SQS may not be there yet
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(check_redrive(queue, asyncio.Event()), 3)
    warned = [
        record.getMessage().partition(";")[0].split()[0]
        for record in caplog.records
        if record.levelno >= logging.WARNING
    ]
    assert warned == ([word] if word else [])
