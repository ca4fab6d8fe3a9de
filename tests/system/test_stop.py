"""Time and stops: what sleeps too long, what ends in time and in which order, and what a second signal does."""

import os
import signal

import pytest
import yaml

from tests.fake_aws.queues import Queue
from tests.launched import ROOT
from tests.ports import free_port

from .stack import FakeStack
from .wire import Connection, Load, get, wait_for

GRACE_SECONDS = 30  # Kubernetes' terminationGracePeriodSeconds, unless somebody sets it
SLACK_SECONDS = 3  # beyond `shutdown.timeout`: the last call's and the process's own end


def test_a_storage_that_sleeps_for_longer_than_its_messages_are_hidden_stores_nothing_twice(stack: FakeStack) -> None:
    pixel = stack.start_pixel()
    storage = stack.start_storage()
    stack.sqs.hold("DeleteMessageBatch")
    with Load(pixel.port) as load:
        load.wait_answered(200)
        wait_for(lambda: stack.sqs.held, "deliveries that are stored and not deleted")
        os.kill(storage.pid, signal.SIGSTOP)
        stack.redeliver()
        load.wait_answered(200)
        os.kill(storage.pid, signal.SIGCONT)
        storage.wait_alive(lambda: stack.in_queue(lambda queue: queue.most_receives) > 1, "what it has, once more")
        stack.sqs.up()
    stack.assert_exactly_once(load)
    storage.stop()


def test_storage_stops_in_the_order_the_data_flows(stack: FakeStack) -> None:
    pixel = stack.start_pixel()
    storage = stack.start_storage({"sqs": {"receivers": 2}})
    with Load(pixel.port) as load:
        load.wait_answered(300)
        stack.wait_lines(100)
        before = len(stack.sqs.calls)
        storage.stop()
        calls = stack.sqs.calls[before:]
        assert calls.count("ReceiveMessage") <= 2, "a new poll was started during the stop"
        assert stack.in_queue(Queue.counts)[1] == 0, "something was kept: neither deleted nor given back"
    stack.start_storage()
    stack.assert_exactly_once(load)


def test_storage_stops_in_time_whatever_sqs_does(stack: FakeStack) -> None:
    pixel = stack.start_pixel()
    with Load(pixel.port) as load:
        for held in (("DeleteMessageBatch",), ()):  # no delete, no reply at all
            storage = stack.start_storage({"shutdown": {"timeout": 3}})
            load.wait_answered(100)
            stack.sqs.held.clear()
            stack.sqs.hold(*held)
            wait_for(lambda: stack.sqs.held, "a call without reply")
            load.wait_answered(100)
            storage.terminate()
            assert storage.wait(3 + SLACK_SECONDS) == 0
            if held:
                assert stack.in_queue(Queue.counts)[1] == 0, "what could not be deleted was not given back"
            stack.sqs.up()
    stack.start_storage()
    stack.assert_exactly_once(load)


def test_the_pixel_stops_in_time_whatever_holds_it_up(stack: FakeStack) -> None:
    """SNS hangs, a worker hangs, a visitor sends half a request and another one never reads."""
    pixel = stack.start_pixel({"workers": 2, "shutdown": {"timeout": 5}})
    stack.sns.hold()
    with Load(pixel.port) as load, Connection(pixel.port) as slow:
        slow.send(b"GET /track HTTP/1.1\r\nHo")
        load.wait_answered(200)
        os.kill(pixel.workers()[0], signal.SIGSTOP)
        pixel.terminate()
        assert pixel.wait(5 + SLACK_SECONDS) == 0
    assert pixel.family() == {}
    assert load.answered <= {str(visit["Referer"]) for visit in stack.recorded()}
    stack.sns.up()
    stack.start_pixel()
    stack.start_storage()
    stack.assert_exactly_once(load)


def test_a_clean_stop_drains_the_outbox(stack: FakeStack) -> None:
    pixel = stack.start_pixel({"workers": 2})
    storage = stack.start_storage()
    with Load(pixel.port) as load:
        load.wait_answered(300)
        stack.sns.hold()
        load.wait_answered(200)
        pixel.terminate()
        pixel.wait_alive(lambda: pixel.children() == [], "workers that have ended")
    stack.sns.up()  # only now, when nobody answers any more, can the rest be published
    assert pixel.wait() == 0
    assert stack.segments() == []
    assert [path for path in stack.outbox.iterdir() if path.is_dir()] == []
    published = stack.published()
    closed = [message["Journal"] for message in published if "Closed" in message]
    assert sorted(closed) == sorted({message["Journal"] for message in published}), "each journal says its end once"
    stack.assert_exactly_once(load)
    storage.stop()


def test_a_rolling_restart_of_both_in_mid_load_loses_nothing(stack: FakeStack) -> None:
    ports = {"http": {"port": free_port()}, "workers": 2}
    pixel, storage = stack.start_pixel(ports), stack.start_storage()
    with Load(pixel.port) as load:
        load.wait_answered(100)
        storage.stop()
        load.wait_answered(100)
        stack.start_storage()
        pixel.stop()
        stack.start_pixel(ports)
        load.wait_answered(100)
    wait_for(lambda: load.answered <= stack.referrers().keys(), "all answered visits in the log")
    stack.wait_queue()
    assert stack.in_queue(lambda queue: queue.most_receives) == 1, "a clean stop left something to come again"
    stack.assert_exactly_once(load)


def test_a_draining_pixel_answers_but_is_not_ready(stack: FakeStack) -> None:
    pixel = stack.start_pixel({"shutdown": {"drain_delay": 3}})
    pixel.terminate()
    pixel.wait_alive(lambda: pixel.admin("/readyz").status == 503, "not ready")
    assert get(pixel.port, headers=[("Referer", "https://late.example/")]).is_gif
    assert pixel.wait() == 0
    stack.start_storage()
    stack.wait_lines(1)
    assert stack.segments() == []


def test_a_worker_that_hangs_at_the_stop_is_killed_and_its_journal_published(stack: FakeStack) -> None:
    pixel = stack.start_pixel({"workers": 2, "shutdown": {"timeout": 12}})
    stack.start_storage()
    with Load(pixel.port) as load:
        load.wait_answered(300)
    hanging = pixel.workers()[0]
    os.kill(hanging, signal.SIGSTOP)
    pixel.stop()
    assert stack.segments() == []
    assert hanging not in pixel.family()
    stack.assert_exactly_once(load)


def test_a_second_signal_ends_the_pixel_at_once_and_loses_nothing(stack: FakeStack) -> None:
    ports = {"http": {"port": free_port()}}
    pixel = stack.start_pixel({**ports, "workers": 2, "shutdown": {"drain_delay": 600, "timeout": 1200}})
    with Load(pixel.port) as load:
        load.wait_answered(200)
        pixel.terminate()
        pixel.wait_alive(lambda: pixel.admin("/readyz").status == 503, "draining")
        load.wait_answered(50)
        pixel.terminate()
        assert pixel.wait() != 0
        wait_for(lambda: pixel.family() == {}, "the end of the workers")
    stack.start_pixel(ports)
    stack.start_storage()
    stack.assert_exactly_once(load)


def test_a_second_signal_ends_storage_at_once_and_loses_nothing(stack: FakeStack) -> None:
    pixel = stack.start_pixel()
    storage = stack.start_storage({"shutdown": {"timeout": 1200}})
    stack.sqs.hold("DeleteMessageBatch")
    with Load(pixel.port) as load:
        load.wait_answered(200)
        wait_for(lambda: stack.sqs.held, "a delete without reply")
        storage.terminate()
        wait_for(lambda: "stop_requested" in storage.output, "the stop")
        storage.terminate()
        assert storage.wait() != 0
    stack.sqs.up()
    stack.start_storage()
    stack.assert_exactly_once(load)


@pytest.mark.parametrize("service", ["pixel", "storage"])
def test_kubernetes_grace_holds_by_default(service: str) -> None:
    """The tests above show that a stop takes `shutdown.timeout` and no more than the slack."""
    defaults = yaml.safe_load((ROOT / f"config/{service}.reference.yaml").read_text())
    assert defaults["shutdown"]["timeout"] + SLACK_SECONDS < GRACE_SECONDS
    assert defaults["shutdown"].get("drain_delay", 0) < defaults["shutdown"]["timeout"]
