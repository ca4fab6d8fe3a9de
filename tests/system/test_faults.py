"""Killed processes and lost connections, one at a time: every answered visit is in the log exactly once, and no answer
ever waits. All of it at once is in test_siege.py."""

import os
import signal

from tests.ports import free_port

from .stack import FakeStack
from .wire import LOOPBACK, Load, get, wait_for

LARGE_UA = "u" * 2048


def test_sigkill_of_the_pixel_in_mid_load_loses_nothing_with_sns_or_without(stack: FakeStack) -> None:
    stack.start_storage()
    ports = {"http": {"port": free_port()}, "workers": 2}
    pixel = stack.start_pixel(ports)
    with Load(pixel.port) as load:
        load.wait_answered(300)
        pixel.kill()
        stack.sns.down()
        pixel = stack.start_pixel(ports)
        load.wait_answered(300)
        pixel.kill()
    stack.sns.up()
    pixel = stack.start_pixel(ports)
    stack.assert_exactly_once(load)
    pixel.stop()
    assert stack.segments() == []


def test_sigkill_of_a_worker_loses_nothing_and_it_is_restarted(stack: FakeStack) -> None:
    stack.start_storage()
    pixel = stack.start_pixel({"workers": 2})
    wait_for(lambda: len(pixel.workers()) == 2, lambda: f"two workers among {pixel.family()}")
    with Load(pixel.port) as load:
        load.wait_answered(200)
        first, second = pixel.workers()
        os.kill(first, signal.SIGKILL)
        load.wait_answered(200)
        wait_for(
            lambda: len(pixel.workers()) == 2, lambda: f"the worker is restarted: {pixel.family()}\n{pixel.output}"
        )
        assert second in pixel.workers(), "the other worker was touched"
        assert first not in pixel.workers()
        load.wait_answered(200)
    assert pixel.is_ready()
    pixel.wait_metric("tracker_pixel_worker_restarts", 1)
    stack.assert_exactly_once(load)
    pixel.stop()
    assert stack.segments() == []


def test_sigkill_of_storage_in_mid_load_loses_nothing_and_before_a_delete_stores_nothing_twice(
    stack: FakeStack,
) -> None:
    pixel = stack.start_pixel()
    storage = stack.start_storage()
    with Load(pixel.port) as load:
        load.wait_answered(200)
        stack.wait_lines(50)
        storage.kill()
        stack.sqs.hold("DeleteMessageBatch", "DeleteMessage")
        stack.redeliver()
        storage = stack.start_storage()
        load.wait_answered(200)
    wait_for(lambda: load.answered <= stack.referrers().keys(), "all answered visits in the log")
    wait_for(lambda: stack.sqs.held, "a delete that is held")
    assert stack.aws.depth(stack.queue_url) > 0
    storage.kill()
    stack.sqs.up()
    before = stack.log_text()
    stack.start_storage()
    stack.assert_exactly_once(load)
    assert stack.log_text() == before


def test_sns_down_for_a_while_delays_lines_and_nothing_else(stack: FakeStack) -> None:
    """It first refuses connections, then it does not answer."""
    pixel = stack.start_pixel()
    stack.start_storage()
    with Load(pixel.port) as load:
        load.wait_answered(200)
        stack.sns.down()
        pixel.wait_metric("tracker_pixel_publish_failures", 3)
        load.wait_answered(300)
        assert pixel.is_ready()
        stack.sns.up()
        load.wait_answered(100)
        stack.sns.hold()
        wait_for(lambda: stack.sns.held, "a publish that hangs")
        load.wait_answered(300)
        assert pixel.is_ready()
        stack.sns.up()
        load.wait_answered(200)
    stack.assert_exactly_once(load)
    assert load.failures == 0
    assert load.slowest < 1.0


def test_sqs_down_at_the_start_or_for_a_while_delays_lines_and_nothing_else(stack: FakeStack) -> None:
    pixel = stack.start_pixel()
    stack.sqs.down()
    storage = stack.start_storage(ready=False)
    with Load(pixel.port) as load:
        load.wait_answered(100)
        wait_for(lambda: storage.logged("receive_failed"), "the outage in storage's log")
        stack.sqs.up()
        stack.wait_lines(100)
        storage.wait_ready()
        stack.sqs.down()
        wait_for(lambda: len(storage.logged("receive_failed")) > 1, "the next outage in storage's log")
        load.wait_answered(200)
        stack.sqs.up()
        load.wait_answered(200)
    stack.assert_exactly_once(load)
    storage.stop()


def test_a_lost_publish_reply_stores_nothing_twice(stack: FakeStack) -> None:
    """SNS has the message, the pixel does not know it: it publishes the same bytes again, and so does the next one."""
    ports = {"http": {"port": free_port()}}
    pixel = stack.start_pixel(ports)
    stack.start_storage()
    stack.sns.faults.inject("lost_reply", "Publish")
    with Load(pixel.port) as load:
        load.wait_answered(200)
        wait_for(lambda: stack.sns.faults.injected["lost_reply"] >= 3, "publishes whose replies are lost")
        pixel.kill()
    stack.sns.faults.clear()
    pixel = stack.start_pixel(ports)
    stack.assert_exactly_once(load)


def test_without_credentials_it_answers_and_says_so_once(stack: FakeStack) -> None:
    pixel = stack.start_pixel({"sns": {"endpoint_url": None}, "shutdown": {"timeout": 3}})
    assert get(pixel.port, headers=[("Referer", "https://a.example/")]).is_gif
    pixel.wait_metric("tracker_pixel_publish_failures", 3)
    assert get(pixel.port).is_gif
    assert pixel.admin("/readyz").status == 200
    assert "credentials" in pixel.readiness()
    assert len(pixel.logged("credentials")) == 1, pixel.output
    assert pixel.metric("tracker_pixel_publishing") == 0
    assert len(stack.recorded()) == 2


def test_with_an_unreachable_endpoint_it_answers_and_says_so_once(stack: FakeStack) -> None:
    nobody = f"http://{LOOPBACK}:{free_port()}"
    pixel = stack.start_pixel({"sns": {"endpoint_url": nobody}})
    assert get(pixel.port).is_gif
    pixel.wait_metric("tracker_pixel_publish_failures", 3)
    assert get(pixel.port).is_gif
    assert pixel.admin("/readyz").status == 200
    assert nobody in pixel.readiness()
    assert len(pixel.logged(nobody)) == 1, pixel.output


def test_a_topic_that_does_not_exist_is_said_once_and_loses_nothing(stack: FakeStack) -> None:
    missing = f"{stack.topic_arn}-missing"
    ports = {"http": {"port": free_port()}}
    pixel = stack.start_pixel({**ports, "sns": {"topic_arn": missing}, "shutdown": {"timeout": 3}})
    with Load(pixel.port) as load:
        load.wait_answered(50)
        pixel.wait_metric("tracker_pixel_publish_failures", 3)
    assert pixel.admin("/readyz").status == 200
    assert len(pixel.logged("NotFound")) == 1, pixel.output
    assert not (stack.outbox / "refused.ndjson").exists()
    pixel.terminate()
    pixel.wait()
    stack.start_pixel(ports)
    stack.start_storage()
    stack.assert_exactly_once(load)


def test_a_full_outbox_answers_and_counts_what_it_gives_up(stack: FakeStack) -> None:
    stack.sns.down()
    pixel = stack.start_pixel({"outbox": {"max_bytes": 200_000, "segment_bytes": 50_000}})
    stack.start_storage()
    with Load(pixel.port, agent=LARGE_UA) as load:
        pixel.wait_metric("tracker_pixel_visits_discarded", 50, 'reason="outbox_full"')
    assert pixel.admin("/readyz").status == 200
    assert "full" in pixel.readiness() or "outbox" in pixel.readiness()
    assert load.failures == 0
    stack.sns.up()
    pixel.wait_alive(lambda: pixel.metric("tracker_pixel_outbox_waiting_bytes") == 0, "an outbox without waiting bytes")

    def accounted() -> bool:
        discarded = pixel.metric("tracker_pixel_visits_discarded")
        return len(stack.lines()) + discarded == len(load.answered)

    wait_for(
        accounted, lambda: f"{len(load.answered)} answers, {len(stack.lines())} lines, and the discards between them"
    )
    stack.wait_queue()
    assert accounted()
    assert max(stack.referrers().values()) == 1
    began = len(stack.lines())
    assert get(pixel.port).is_gif
    stack.wait_lines(began + 1)  # recording has resumed
