"""Workers are replaced one by one, and only by workers that answer."""

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
import uvloop

from tests.waiting import until
from tracker import telemetry
from tracker.config import Admin, Http, OutboxConfig, PixelConfig, Privacy, SnsConfig
from tracker.errors import ConfigurationError, ReloadFailed
from tracker.pixel import supervisor as module
from tracker.pixel.reload import FIXED, check_reload
from tracker.pixel.slot import Slot
from tracker.pixel.supervisor import Supervisor
from tracker.pixel.tally import Tally

SNS = SnsConfig(topic_arn="arn:aws:sns:us-east-1:000000000000:tracking")


@asynccontextmanager
async def supervising(directory: Path, workers: int) -> AsyncIterator[tuple[Supervisor, PixelConfig]]:
    config = PixelConfig(sns=SNS, workers=workers, outbox=OutboxConfig(dir=str(directory)))
    listener = socket.create_server(("127.0.0.1", 0))
    supervisor = Supervisor(config=config, listener=listener, tally=Tally())
    running = asyncio.create_task(supervisor.run())
    try:
        async with asyncio.timeout(60):
            await until(lambda: supervisor.answering == workers, 30)
            yield supervisor, config
            supervisor.drain(1.0)
            await running
    finally:
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running


async def test_if_the_new_worker_does_not_answer_the_old_ones_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with supervising(tmp_path, 2) as (supervisor, config):
        before = sorted(supervisor.pids())
        start = asyncio.create_subprocess_exec

        async def mute(*arguments: str, **options: object) -> asyncio.subprocess.Process:
            return await start(sys.executable, "-c", "import time; time.sleep(60)", **options)  # type: ignore[arg-type]

        with monkeypatch.context() as patch:
            patch.setattr(asyncio, "create_subprocess_exec", mute)
            patch.setattr(module, "TRIAL_SECONDS", 0.2)
            with pytest.raises(ReloadFailed, match="no worker answered"):
                await supervisor.reload(config)
        assert sorted(supervisor.pids()) == before
        assert supervisor.answering == 2
        reloading = asyncio.create_task(supervisor.reload(msgspec.structs.replace(config, workers=1)))
        while not reloading.done():
            assert supervisor.answering >= 1
            await asyncio.sleep(0.001)
        await reloading
        assert supervisor.answering == 1
        assert not set(supervisor.pids()) & set(before)


async def test_a_worker_that_hangs_is_killed_when_it_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ROLL_SECONDS", 0.1)
    async with supervising(tmp_path, 1) as (supervisor, config):
        (hanging,) = supervisor.pids()
        os.kill(hanging, signal.SIGSTOP)
        await supervisor.reload(config)
        assert hanging not in supervisor.pids()
        with pytest.raises(ProcessLookupError):
            os.kill(hanging, 0)


async def test_what_a_killed_worker_had_discarded_is_counted(tmp_path: Path) -> None:
    before = telemetry.total(telemetry.HITS)
    async with supervising(tmp_path, 1) as (supervisor, config):
        await supervisor.reload(msgspec.structs.replace(config, privacy=Privacy(honor=["dnt"])))
        (doomed,) = supervisor.pids()
        reader, writer = await asyncio.open_connection(*supervisor._listener.getsockname())
        for _ in range(5):
            writer.write(b"GET /track HTTP/1.1\r\nHost: a.example\r\nDNT: 1\r\n\r\n")
            await reader.readuntil(b"\r\n\r\n")
        assert telemetry.total(telemetry.HITS) == before
        os.kill(doomed, signal.SIGKILL)
        await until(lambda: telemetry.total(telemetry.HITS) == before + 5)
        writer.close()


def test_a_worker_that_hears_nothing_any_more_is_told_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def deaf(*arguments: str, **options: Any) -> asyncio.subprocess.Process:
        control = arguments[arguments.index("--control") + 1]
        code = f"import os, time; os.close({control}); time.sleep(60)"
        return await start(sys.executable, "-c", code, **options)

    async def scenario() -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            slot = Slot(number=0, config=PixelConfig(sns=SNS), listener=listener, tally=Tally(), room=0)
            running = asyncio.create_task(slot.run())
            await until(lambda: slot._writer is not None and slot._writer.is_closing())
            slot.allow(1)  # uvloop, unlike asyncio, raises on a closed transport
            running.cancel()
            await asyncio.wait([running])

    start = asyncio.create_subprocess_exec
    monkeypatch.setattr(asyncio, "create_subprocess_exec", deaf)
    uvloop.run(scenario())


def test_what_only_a_restart_can_change_is_named_and_all_else_may_change() -> None:
    old = PixelConfig(sns=SNS)
    check_reload(
        old,
        PixelConfig(
            sns=msgspec.structs.replace(SNS, format="single"),
            http=Http(path="/p"),
            workers=9,
            outbox=OutboxConfig(max_bytes=1),
        ),
    )
    new = PixelConfig(
        sns=SNS,
        http=Http(host="::1", port=1),
        admin=Admin(host="::1", port=2),
        outbox=OutboxConfig(dir="/elsewhere"),
    )
    with pytest.raises(ConfigurationError) as told:
        check_reload(old, new)
    for key in FIXED:
        assert f"{key}: expected " in str(told.value)
