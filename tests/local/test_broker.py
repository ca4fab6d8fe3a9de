"""The local broker loses nothing under concurrent use, holds nothing up, and ends when it should."""

import asyncio
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("moto", reason="the local broker is moto")

from moto.sqs.models import Message, SQSBackend

from tests.system.processes import Broker, run
from tracker.local.broker import ACCOUNT, REGION, serialise_queues
from tracker.local.provision import local_client


@pytest.fixture
def backend() -> SQSBackend:
    serialise_queues()
    made = SQSBackend(REGION, ACCOUNT)
    made.create_queue("visits")
    return made


@pytest.fixture
def hasty() -> Iterator[None]:
    """Threads change places two hundred times as often as usual."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(0.000_025)
    yield
    sys.setswitchinterval(before)


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    with Broker(tmp_path) as running:
        running.wait_ready()
        yield running


@pytest.mark.usefixtures("hasty")
def test_concurrent_sends_receives_and_deletes_lose_nothing(backend: SQSBackend) -> None:
    senders, each = 4, 100
    received: list[str] = []

    def send(sender: int) -> None:
        for number in range(each):
            backend.send_message("visits", f"{sender}-{number}")

    def consume() -> None:
        while messages := backend.receive_message("visits", 10, 1, 60):
            received.extend(message.body for message in messages)
            backend.change_message_visibility("visits", str(messages[0].receipt_handle), 120)
            for message in messages:
                backend.delete_message("visits", str(message.receipt_handle))

    threads = [threading.Thread(target=send, args=(sender,)) for sender in range(senders)]
    threads += [threading.Thread(target=consume) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(received) == sorted(f"{sender}-{number}" for sender in range(senders) for number in range(each))
    queue = backend.queues["visits"]
    assert (queue.approximate_number_of_messages, queue.approximate_number_of_messages_not_visible) == (0, 0)


class SlowToEnd(list[Message]):
    """A list that calls `at_end` when somebody has walked all of it."""

    at_end: Callable[[], None]

    def __iter__(self) -> Iterator[Message]:
        yield from super().__iter__()
        self.at_end()


def test_a_message_added_in_the_middle_of_a_delete_stays(backend: SQSBackend) -> None:
    backend.send_message("visits", "first")
    [first] = backend.receive_message("visits", 1, 0, 60)
    queue = backend.queues["visits"]
    adding = threading.Thread(target=backend.send_message, args=("visits", "second"))

    def add_between_copy_and_replacement() -> None:
        slow.at_end = lambda: None  # only once
        adding.start()
        adding.join(timeout=0.3)

    queue._messages = slow = SlowToEnd(queue._messages)
    slow.at_end = add_between_copy_and_replacement
    backend.delete_message("visits", str(first.receipt_handle))
    adding.join()

    assert [message.body for message in queue.messages] == ["second"]


def test_a_long_poll_holds_nobody_up(backend: SQSBackend) -> None:
    answers: list[list[Any]] = []
    poll = threading.Thread(target=lambda: answers.append(backend.receive_message("visits", 10, 20, 60)))
    poll.start()
    time.sleep(0.2)  # let it fall asleep
    start = time.monotonic()
    backend.get_queue_attributes("visits", ["ApproximateNumberOfMessages"])
    backend.send_message("visits", "one")
    poll.join(timeout=5)

    assert time.monotonic() - start < 0.5
    assert [message.body for message in answers[0]] == ["one"]


def test_it_says_where_things_are_loses_nothing_while_all_is_in_use_and_stops_at_ctrl_c(broker: Broker) -> None:
    assert f"arn:aws:sns:{REGION}:{ACCOUNT}:tracking" in broker.output
    assert f"{broker.endpoint}/{ACCOUNT}/visits" in broker.output
    count = 60

    async def exercise(endpoint: str) -> list[str]:
        async with local_client("sns", endpoint, REGION) as sns, local_client("sqs", endpoint, REGION) as sqs:
            topic = (await sns.create_topic(Name="tracking"))["TopicArn"]
            queue = (await sqs.get_queue_url(QueueName="visits"))["QueueUrl"]
            kind = {"Type": {"DataType": "String", "StringValue": "Visit"}}
            received: list[str] = []

            async def publish(numbers: range) -> None:
                for number in numbers:
                    await sns.publish(TopicArn=topic, Message=str(number), MessageAttributes=kind)

            async def consume() -> None:
                while len(received) < count:
                    answer = await sqs.receive_message(QueueUrl=queue, MaxNumberOfMessages=10, WaitTimeSeconds=1)
                    for message in answer.get("Messages", []):
                        received.append(message["Body"])
                        await sqs.delete_message(QueueUrl=queue, ReceiptHandle=message["ReceiptHandle"])

            async with asyncio.timeout(60), asyncio.TaskGroup() as group:
                for first in range(4):
                    group.create_task(publish(range(first, count, 4)))
                for _ in range(3):
                    group.create_task(consume())
            return received

    received = asyncio.run(exercise(broker.endpoint))
    assert sorted(received, key=int) == [str(number) for number in range(count)]
    broker.signal(signal.SIGINT)
    assert broker.wait(10) == 0


def test_a_port_in_use_is_a_clear_error(free_port: int, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", free_port)):
        second = run("tracker.local", "broker", "--port", str(free_port), home=tmp_path)
    assert second.returncode == 1
    assert f"port {free_port} on 127.0.0.1 is in use; the local broker needs it" in second.stderr


def test_without_moto_it_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "moto").mkdir()
    (tmp_path / "moto" / "__init__.py").write_text("raise ImportError('no moto here')")
    done = run("tracker.local", "broker", home=tmp_path)  # which looks for modules in its own folder first
    assert done.returncode == 1
    assert "moto" in done.stderr
    assert "-m pip install --require-hashes -r " in done.stderr
    assert "requirements/run.txt" in done.stderr
    assert "Traceback" not in done.stderr
