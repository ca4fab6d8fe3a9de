"""The notifications that both services send to systemd, read from a real socket."""

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.ports import free_port
from tests.system.processes import Process, write_config
from tests.waiting import until
from tracker.systemd import Manager


class Notify:
    """The service manager's end of the socket."""

    def __init__(self, path: Path) -> None:
        self.environ = {"NOTIFY_SOCKET": str(path), "WATCHDOG_USEC": "600000"}
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.setblocking(False)
        self.received: list[str] = []

    def listen(self) -> list[str]:
        while True:
            try:
                self.received.append(self._socket.recv(4096).decode())
            except BlockingIOError:
                return self.received

    def heartbeats(self) -> int:
        return self.listen().count("WATCHDOG=1")

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def notify(tmp_path: Path) -> Iterator[Notify]:
    manager = Notify(tmp_path / "notify")
    yield manager
    manager.close()


async def always() -> None:
    """What is always alive."""


async def test_where_nobody_listens_nothing_happens() -> None:
    manager = Manager({})
    manager.ready()
    manager.stopping()
    await manager.heartbeat(always)  # returns: there is no watchdog to feed
    Manager({"NOTIFY_SOCKET": "/nowhere/at/all"}).ready()


async def test_it_says_ready_and_stopping(notify: Notify) -> None:
    manager = Manager(notify.environ)
    manager.ready()
    manager.stopping()
    assert notify.listen() == ["READY=1", "STOPPING=1"]


async def test_a_manager_that_is_slow_to_listen_still_hears_that_it_stops(notify: Notify) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as others, contextlib.suppress(BlockingIOError):
        others.setblocking(False)
        while True:
            others.sendto(b"STATUS=busy", notify.environ["NOTIFY_SOCKET"])
    stopping = asyncio.create_task(asyncio.to_thread(Manager(notify.environ).stopping))
    await until(lambda: "STOPPING=1" in notify.listen())
    await stopping


async def test_abstract_sockets_are_spoken_to_as_well() -> None:
    name = f"@tracker-test-{os.getpid()}-{time.monotonic_ns()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind("\0" + name[1:])
        listening.settimeout(5)
        Manager({"NOTIFY_SOCKET": name}).ready()
        assert listening.recv(100) == b"READY=1"


async def test_the_watchdog_hears_of_what_is_alive_and_of_nothing_else(notify: Notify) -> None:
    beating = asyncio.create_task(Manager(notify.environ).heartbeat(always))
    await until(lambda: notify.heartbeats() >= 2)
    beating.cancel()
    await asyncio.wait([beating])

    notify.listen().clear()
    asked, freed = asyncio.Event(), asyncio.Event()

    async def hanging() -> None:
        asked.set()
        await freed.wait()

    beating = asyncio.create_task(Manager(notify.environ).heartbeat(hanging))
    await asked.wait()
    await asyncio.sleep(0.5)  # the time of more than two heartbeats
    assert notify.heartbeats() == 0
    freed.set()
    await until(lambda: notify.heartbeats() >= 1)
    beating.cancel()
    await asyncio.wait([beating])


async def test_a_watchdog_of_another_process_is_not_ours_to_feed(notify: Notify) -> None:
    await Manager({**notify.environ, "WATCHDOG_PID": "1"}).heartbeat(always)
    assert notify.listen() == []


@pytest.fixture
def start(tmp_path: Path, notify: Notify) -> Iterator[Callable[[str], Process]]:
    """Both services, with an AWS that is away: nobody listens at the endpoint."""
    nobody = f"http://127.0.0.1:{free_port()}"
    configs = {
        "tracker.pixel": {
            "http": {"host": "127.0.0.1", "port": free_port()},
            "admin": {"port": free_port()},
            "sns": {"topic_arn": "arn:aws:sns:us-east-1:000000000000:tracking", "endpoint_url": nobody},
        },
        "tracker.storage": {
            "sqs": {"queue": "visits", "region": "us-east-1", "endpoint_url": nobody},
            "admin": {"port": free_port()},
        },
    }
    running: list[Process] = []

    def begin(module: str) -> Process:
        config = write_config(tmp_path / f"{module}.yaml", configs[module])
        running.append(Process(module, "--config", str(config), home=tmp_path, name=module, env=notify.environ))
        return running[-1]

    yield begin
    for process in running:
        process.destroy()


@pytest.mark.parametrize("module", ["tracker.pixel", "tracker.storage"])
async def test_a_service_is_ready_and_sends_heartbeats_though_aws_is_away_and_says_when_it_stops(
    module: str, start: Callable[[str], Process], notify: Notify
) -> None:
    service = start(module)
    await until(lambda: "READY=1" in notify.listen() and notify.heartbeats() >= 3, seconds=60)
    service.stop()
    assert notify.listen().index("READY=1") < notify.received.index("STOPPING=1")
