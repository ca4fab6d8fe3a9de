"""Workers are replaced one by one, and only by workers that answer."""

import asyncio
import contextlib
import os
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from tests.waiting import until
from tracker.config import Admin, Http, OutboxConfig, PixelConfig, SnsConfig
from tracker.errors import ConfigurationError, ReloadFailed
from tracker.pixel import supervisor as module
from tracker.pixel.reload import FIXED, check_reload
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
        await supervisor.reload(msgspec.structs.replace(config, workers=1))
        assert supervisor.answering == 1
        assert not set(supervisor.pids()) & set(before)


async def test_a_worker_that_hangs_is_killed_when_it_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ROLL_SECONDS", 0.1)
    async with supervising(tmp_path, 1) as (supervisor, config):
        (hanging,) = supervisor.pids()
        os.kill(hanging, 19)  # SIGSTOP
        await supervisor.reload(config)
        assert hanging not in supervisor.pids()
        with pytest.raises(ProcessLookupError):
            os.kill(hanging, 0)


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
