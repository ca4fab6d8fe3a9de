"""What main does when a part of it fails: the answers go on and the failure is reported, or the start is undone."""

import asyncio
import socket
import sys
from pathlib import Path
from typing import cast

import pytest

from tests.ports import free_port
from tests.waiting import until
from tracker import telemetry
from tracker.config import Admin, Http, OutboxConfig, PixelConfig, SnsConfig
from tracker.errors import ConfigurationError
from tracker.lifecycle import Backoff, Budget
from tracker.pixel import service
from tracker.pixel.accounting import Accounting
from tracker.pixel.outbox import Outbox
from tracker.pixel.outbox_monitor import OutboxMonitor
from tracker.pixel.publisher import Publisher
from tracker.pixel.worker_pool import WorkerPool

pytestmark = pytest.mark.slow

SNS = SnsConfig(topic_arn="arn:aws:sns:us-east-1:000000000000:tracking")


def children() -> list[int]:
    """The process numbers of this process's children, those that have ended and were not waited for included."""
    return [int(pid) for task in Path("/proc/self/task").iterdir() for pid in (task / "children").read_text().split()]


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is read")
@pytest.mark.parametrize("failing", ["http", "admin"])
async def test_a_start_that_fails_undoes_the_steps_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    """The listening socket fails behind the lock, the admin listener behind the workers."""
    monkeypatch.setattr(service, "run_behind", lambda workers: None)  # the tests keep their priority
    before, port = children(), free_port()
    hosts = {"http": "127.0.0.1", "admin": "127.0.0.1", failing: "192.0.2.1"}  # the last is an address that no host has
    config = PixelConfig(
        sns=SNS,
        outbox=OutboxConfig(dir=str(tmp_path)),
        http=Http(host=hosts["http"], port=port),
        admin=Admin(host=hosts["admin"], port=free_port()),
    )
    with pytest.raises(ConfigurationError, match=f"{failing}.host"):
        await service.run(config, lambda: config)
    assert children() == before
    socket.create_server(("127.0.0.1", port)).close()
    outbox = Outbox(tmp_path)
    outbox.open()  # nobody holds the lock
    outbox.close()


def test_the_steps_of_a_stop_share_the_whole_timeout() -> None:
    budget = Budget(service.SHUTDOWN, 25.0)
    assert 24.0 < budget.remaining(list(service.SHUTDOWN)[-1]) <= 25.0


async def test_the_monitor_follows_the_configuration_in_force(tmp_path: Path) -> None:
    config = PixelConfig(sns=SNS, outbox=OutboxConfig(dir=str(tmp_path), max_bytes=1000))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        workers = WorkerPool(config=config, listener=listener, accounting=Accounting())
    outbox = Outbox(tmp_path)
    monitor = OutboxMonitor(outbox=outbox, workers=workers, accounting=Accounting())
    (tmp_path / "some file").write_bytes(bytes(900))
    await monitor.update()
    assert monitor.readiness()["nearly_full"]
    workers.config = PixelConfig(sns=SNS, outbox=OutboxConfig(dir=str(tmp_path), max_bytes=2000))
    await monitor.update()
    assert not monitor.readiness()["nearly_full"]
    assert monitor.readiness()["disk_free_bytes"]
    assert telemetry.PIXEL.get_sample_value("tracker_pixel_outbox_max_bytes") == 2000
    outbox.close()


async def test_a_publisher_that_dies_is_started_again_and_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    again = asyncio.Event()

    class Dying:
        error: str | None = None
        runs = 0

        async def run(self) -> None:
            self.runs += 1
            if self.runs == 1:
                raise ValueError("Invalid endpoint")
            again.set()

    monkeypatch.setattr(service, "Backoff", lambda first: Backoff(first=0.001))
    publisher = Dying()
    async with asyncio.timeout(5):
        await service.keep_publishing(cast(Publisher, publisher))
    assert again.is_set()
    assert publisher.error is not None
    assert "Invalid endpoint" in publisher.error
    assert telemetry.PIXEL.get_sample_value("tracker_pixel_publishing") == 0


async def test_an_outbox_that_another_pixel_took_after_the_start_is_reported_and_tried_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = PixelConfig(sns=SNS, outbox=OutboxConfig(dir=str(tmp_path)))
    workers = WorkerPool(config=config, listener=socket.create_server(("127.0.0.1", 0)), accounting=Accounting())
    other, ours = Outbox(tmp_path), Outbox(tmp_path)  # our disk was full at the start, so nothing was locked then
    other.open()
    monitor = OutboxMonitor(outbox=ours, workers=workers, accounting=Accounting())
    await monitor.update()
    assert "outbox_failed error=outbox.dir: " in caplog.text
    other.close()
    await monitor.update()
    assert ours.is_open
    ours.close()
    workers.drain(0.0)


async def test_a_worker_that_cannot_be_started_costs_no_other_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, starts = asyncio.create_subprocess_exec, 0

    async def scarce(*arguments: str, **options: object) -> asyncio.subprocess.Process:
        nonlocal starts
        starts += 1
        if starts == 2:
            raise BlockingIOError(11, "Resource temporarily unavailable")
        return await start(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(asyncio, "create_subprocess_exec", scarce)
    config = PixelConfig(sns=SNS, workers=2, outbox=OutboxConfig(dir=str(tmp_path)))
    workers = WorkerPool(config=config, listener=socket.create_server(("127.0.0.1", 0)), accounting=Accounting())
    running = asyncio.create_task(workers.run())
    async with asyncio.timeout(30):
        await until(lambda: workers.answering == 2 or running.done(), 30)
        assert not running.done()
        workers.drain(1.0)
        await running
    assert starts == 3
