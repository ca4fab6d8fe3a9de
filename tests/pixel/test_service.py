"""What main does when a part of it fails: the answers go on, and the failure can be seen."""

import asyncio
import socket
from pathlib import Path
from typing import cast

import pytest

from tracker import telemetry
from tracker.config import OutboxConfig, PixelConfig, SnsConfig
from tracker.lifecycle import Backoff
from tracker.pixel import service
from tracker.pixel.outbox import Outbox
from tracker.pixel.publisher import Publisher
from tracker.pixel.supervisor import Supervisor
from tracker.pixel.tally import Tally
from tracker.pixel.watch import Watch

pytestmark = pytest.mark.slow

SNS = SnsConfig(topic_arn="arn:aws:sns:us-east-1:000000000000:tracking")


async def test_a_publisher_that_dies_is_started_again_and_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    again = asyncio.Event()

    class Dying:
        trouble: str | None = None
        runs = 0

        async def run(self) -> None:
            self.runs += 1
            if self.runs == 1:
                raise ValueError("Invalid endpoint")
            again.set()

    monkeypatch.setattr(service, "Backoff", lambda first: Backoff(first=0.001))
    publisher = Dying()
    async with asyncio.timeout(5):
        await service._publish(cast(Publisher, publisher))
    assert again.is_set()
    assert publisher.trouble is not None
    assert "Invalid endpoint" in publisher.trouble
    assert telemetry.PUBLISHING._value.get() == 0


async def test_an_outbox_that_another_pixel_took_after_the_start_is_reported_and_tried_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = PixelConfig(sns=SNS, outbox=OutboxConfig(dir=str(tmp_path)))
    supervisor = Supervisor(config=config, listener=socket.create_server(("127.0.0.1", 0)), tally=Tally())
    other, ours = Outbox(tmp_path), Outbox(tmp_path)  # our disk was full at the start, so nothing was locked then
    other.open()
    watch = Watch(outbox=ours, supervisor=supervisor, tally=Tally(), max_bytes=1)
    await watch.look()
    assert "outbox_unusable outbox.dir: " in caplog.text
    other.close()
    await watch.look()
    assert ours.is_open
    ours.close()
    supervisor.drain(0.0)


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
    supervisor = Supervisor(config=config, listener=socket.create_server(("127.0.0.1", 0)), tally=Tally())
    running = asyncio.create_task(supervisor.run())
    async with asyncio.timeout(30):
        while supervisor.answering < 2:
            assert not running.done()
            await asyncio.sleep(0.01)
        supervisor.drain(1.0)
        await running
    assert starts == 3
