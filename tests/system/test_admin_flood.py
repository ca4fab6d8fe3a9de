"""Strangers at the admin listeners: the services keep the descriptors and the memory that they need for their work."""

import json
import os
import resource
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tracker.files import raise_open_files

from .processes import Service
from .stack import FakeStack
from .wire import LOOPBACK, get, wait_for

FEW_FILES = 256
STRANGERS = 2_000
HALF = b"GET /healthz HTTP/1.1\r\nHost: a.example\r\n"
VISIT = {"UserAgent": None, "IpAddress": "192.0.2.1", "VisitedAt": "2026-11-24T10:00:00.000000+00:00"}

pytestmark = pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="the system cannot limit another process")


def limit_files(service: Service) -> Service:
    """Let a service that has just been started open few files, which it logs."""
    resource.prlimit(service.pid, resource.RLIMIT_NOFILE, (FEW_FILES, FEW_FILES))
    service.wait_ready()
    assert service.logged("open_files_limited", f"limit={FEW_FILES}", "admin listener")
    return service


@contextmanager
def strangers(service: Service, count: int = STRANGERS, request: bytes = HALF) -> Iterator[None]:
    """Connections to the service's admin listener that begin a request and do not finish it."""
    raise_open_files()
    with ExitStack() as stack:
        for _ in range(count):
            stranger = stack.enter_context(socket.socket())
            stranger.settimeout(5)
            stranger.connect((LOOPBACK, service.admin_port))
            try:
                stranger.sendall(request)
            except OSError:
                continue  # it was cut already
        yield


def open_files(service: Service) -> int:
    return len(os.listdir(f"/proc/{service.pid}/fd"))


def resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()


def test_long_requests_take_no_memory_and_storage_rotates_and_compresses_its_log_during_a_flood_of_half_ones(
    stack: FakeStack,
) -> None:
    rotate = {"log": {"rotate": {"max_bytes": 500, "compress": "gzip"}}}
    storage = limit_files(stack.start_storage(rotate, ready=False))
    before = resident_bytes(storage.pid)
    with strangers(storage, 200, HALF + b"X: " + b"x" * 1_000_000):
        assert storage.is_ready()
        assert resident_bytes(storage.pid) - before < 16_000_000
    with strangers(storage):
        assert open_files(storage) < FEW_FILES / 2
        for number in range(60):
            stack.aws.send(stack.queue_url, json.dumps({"Referer": f"https://a.example/{number}", **VISIT}))
        wait_for(lambda: len(list(stack.home.glob("visits.log.*.gz"))) >= 1, lambda: storage.output)
        stack.wait_queue()
        assert storage.metric("tracker_storage_visits_appended") == 60
        assert storage.metric("tracker_admin_connections_cut") > STRANGERS / 2
        assert storage.is_ready()
    storage.stop()


def test_the_pixel_replaces_a_killed_worker_during_a_flood_of_half_requests(stack: FakeStack) -> None:
    pixel = limit_files(stack.start_pixel(ready=False))
    with strangers(pixel):
        assert open_files(pixel) < FEW_FILES / 2
        [worker] = pixel.workers()
        os.kill(worker, signal.SIGKILL)
        wait_for(lambda: pixel.workers() not in ([], [worker]), lambda: pixel.output)
        wait_for(pixel.is_ready, lambda: pixel.output)
        assert get(pixel.port).is_gif
    pixel.stop()
