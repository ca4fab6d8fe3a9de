"""A worker that hangs is killed and replaced; it holds up nobody else, not even the next main process."""

import os
import signal
import sys

import pytest

from tests.ports import free_port

from .stack import FakeStack
from .wire import Load, wait_for


def test_a_worker_that_hangs_is_replaced_and_the_rest_is_untouched(stack: FakeStack) -> None:
    stack.start_storage()
    pixel = stack.start_pixel({"workers": 2})
    wait_for(lambda: len(pixel.workers()) == 2, "two workers")
    with Load(pixel.port, connections=2, pause=0.1) as load:  # few visitors: main waits about ten seconds
        load.wait_answered(10)
        hanging, other = pixel.workers()
        os.kill(hanging, signal.SIGSTOP)
        pixel.wait_alive(lambda: pixel.metric("tracker_pixel_workers") == 1, "one worker that answers")
        assert hanging in pixel.family(), "the figure is true before it is killed, too"
        assert '"workers": 1' in pixel.readiness()
        wait_for(lambda: len(pixel.workers()) == 2 and hanging not in pixel.workers(), "a worker in its place")
        pixel.wait_alive(lambda: pixel.metric("tracker_pixel_workers") == 2, "two workers that answer")
        load.wait_answered(10)
    assert other in pixel.workers()
    assert pixel.metric("tracker_pixel_worker_restarts") == 1
    assert pixel.logged("worker_killed", str(hanging))
    stack.assert_exactly_once(load)
    pixel.stop()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux kills a process at its parent's death")
def test_the_next_main_serves_though_the_last_one_died_while_its_worker_hung(stack: FakeStack) -> None:
    stack.start_storage()
    ports = {"http": {"port": free_port()}, "admin": {"port": free_port()}}
    pixel = stack.start_pixel(ports)
    with Load(pixel.port) as load:
        load.wait_answered(100)
        (hanging,) = pixel.workers()
        os.kill(hanging, signal.SIGSTOP)
        pixel.kill()  # and waits until the worker is gone, too
        pixel = stack.start_pixel(ports)
        load.wait_answered(100)
    stack.assert_exactly_once(load)
