"""Standard error that nobody reads, or that cannot be written, costs log lines and nothing else."""

import os
import signal

from tests.pipes import Pipe

from .processes import Service
from .stack import FakeStack
from .wire import Load, wait_for


def exercise(stack: FakeStack, pixel: Service, storage: Service) -> None:
    """Everything that makes both services log, with visitors all the while; then an orderly stop."""
    reloads = pixel.metric("tracker_pixel_reloads", 'result="applied"')
    with Load(pixel.port) as load:
        load.wait_answered(100)
        stack.sns.down()
        pixel.wait_metric("tracker_pixel_publish_failures", 2)
        stack.sns.up()
        first, second = pixel.workers()
        os.kill(first, signal.SIGKILL)
        wait_for(lambda: len(pixel.workers()) == 2 and first not in pixel.workers(), "a worker in its place")
        storage.signal(signal.SIGHUP)
        pixel.signal(signal.SIGHUP)
        pixel.wait_metric("tracker_pixel_reloads", reloads + 1, 'result="applied"')
        assert second not in pixel.workers()
        assert pixel.admin("/healthz").status == storage.admin("/healthz").status == 200
        load.wait_answered(100)
    stack.assert_exactly_once(load)
    for service in (pixel, storage):
        service.stop()


def test_a_log_that_nobody_reads_stops_no_visit_no_signal_and_no_new_worker(stack: FakeStack) -> None:
    with Pipe() as pixels, Pipe() as storages:
        pixels.fill()  # storage's pipe is full only later
        pixel = stack.start_pixel({"workers": 2}, stderr=pixels.writer)
        storage = stack.start_storage(stderr=storages.writer)
        storages.fill()
        exercise(stack, pixel, storage)
