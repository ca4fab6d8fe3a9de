"""Workers are replaced one by one, and only by workers that answer."""

import asyncio
import contextlib
import os
import signal
import socket
import sys
import time
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
from tracker.pixel import worker_process
from tracker.pixel.accounting import Accounting
from tracker.pixel.reload import FIXED, check_reload
from tracker.pixel.worker_pool import WorkerPool
from tracker.pixel.worker_process import PATIENCE, Patience, WorkerProcess
from tracker.pixel.worker_starter import WorkerStarter

pytestmark = pytest.mark.slow

SNS = SnsConfig(topic_arn="arn:aws:sns:us-east-1:000000000000:tracking")


@asynccontextmanager
async def running_pool(
    directory: Path, workers: int, patience: Patience = PATIENCE
) -> AsyncIterator[tuple[WorkerPool, PixelConfig]]:
    """A pool whose workers answer, and its configuration."""
    listener = socket.create_server(("127.0.0.1", 0))
    http = Http(host="127.0.0.1", port=listener.getsockname()[1])
    config = PixelConfig(sns=SNS, workers=workers, outbox=OutboxConfig(dir=str(directory)), http=http)
    pool = WorkerPool(config=config, listener=listener, accounting=Accounting(), patience=patience)
    running = asyncio.create_task(pool.run())
    try:
        async with asyncio.timeout(60):
            await until(lambda: pool.answering == workers, 30)
            yield pool, config
            pool.drain(1.0)
            await running
    finally:
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running


async def test_if_the_new_worker_does_not_answer_the_old_ones_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running_pool(tmp_path, 2, Patience(trial_seconds=0.2)) as (pool, config):
        before = sorted(pool.pids())
        start = asyncio.create_subprocess_exec

        async def mute(*arguments: str, **options: object) -> asyncio.subprocess.Process:
            return await start(sys.executable, "-c", "import time; time.sleep(60)", **options)  # type: ignore[arg-type]

        monkeypatch.setattr(asyncio, "create_subprocess_exec", mute)
        with pytest.raises(ReloadFailed, match="no worker with this configuration answered"):
            await pool.reload(config)
        assert sorted(pool.pids()) == before
        assert pool.answering == 2
        assert pool.config is config


async def test_while_a_reload_replaces_the_workers_one_answers_at_any_time(tmp_path: Path) -> None:
    async with running_pool(tmp_path, 2) as (pool, config):
        before = pool.pids()
        reloading = asyncio.create_task(pool.reload(msgspec.structs.replace(config, workers=1)))
        while not reloading.done():
            assert pool.answering >= 1
            await asyncio.sleep(0.001)
        await reloading
        assert pool.answering == 1
        assert pool.config.workers == 1
        assert not set(pool.pids()) & set(before)


async def test_a_reload_tries_another_process_when_the_first_one_ends_before_it_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, programs = asyncio.create_subprocess_exec, [("-c", "import sys; sys.exit(3)")]

    async def ending_at_first(*arguments: str, **options: Any) -> asyncio.subprocess.Process:
        program = programs.pop() if programs else arguments[1:]
        return await start(sys.executable, *program, **options)

    async with running_pool(tmp_path, 1) as (pool, config):
        before = pool.pids()
        monkeypatch.setattr(asyncio, "create_subprocess_exec", ending_at_first)
        await pool.reload(config)
        assert not programs
        assert pool.answering == 1
        assert not set(pool.pids()) & set(before)


async def test_a_worker_that_hangs_is_killed_when_it_is_replaced(tmp_path: Path) -> None:
    async with running_pool(tmp_path, 1, Patience(requests_seconds=0.1)) as (pool, config):
        (hanging,) = pool.pids()
        os.kill(hanging, signal.SIGSTOP)
        await pool.reload(config)
        assert hanging not in pool.pids()
        with pytest.raises(ProcessLookupError):
            os.kill(hanging, 0)


ANSWERS_THEN_LOOPS = "import os, sys\nos.write(int(sys.argv[1]), b'answering\\n')\nwhile True: pass"
NEVER_ANSWERS = "import time; time.sleep(600)"


@pytest.mark.parametrize("program", [ANSWERS_THEN_LOOPS, NEVER_ANSWERS], ids=["busy loop", "hangs at the start"])
async def test_a_worker_whose_loop_does_not_turn_is_killed_and_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str
) -> None:
    start, first = asyncio.create_subprocess_exec, True

    async def hanging_at_first(*arguments: str, **options: Any) -> asyncio.subprocess.Process:
        nonlocal first
        if first:
            first = False
            arguments = (sys.executable, "-c", program, arguments[arguments.index("--control") + 1])
        return await start(*arguments, **options)

    monkeypatch.setattr(asyncio, "create_subprocess_exec", hanging_at_first)
    config = PixelConfig(sns=SNS, outbox=OutboxConfig(dir=str(tmp_path)))
    pool = WorkerPool(
        config=config,
        listener=socket.create_server(("127.0.0.1", 0)),
        accounting=Accounting(),
        patience=Patience(check_seconds=0.25, start_checks=16),
    )
    running = asyncio.create_task(pool.run())
    await until(pool.pids)
    (hanging,) = pool.pids()
    await until(lambda: pool.pids() not in ([], [hanging]), 30)
    await until(lambda: pool.answering == 1, 30)
    with pytest.raises(ProcessLookupError):
        os.kill(hanging, 0)
    pool.drain(1.0)
    await running


async def test_a_silent_worker_does_not_count_as_answering_and_is_not_killed_while_it_waits_for_a_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = 0

    def waits_for_disk(pid: int) -> bool:
        nonlocal asked
        asked += 1
        return asked < 8

    monkeypatch.setattr(worker_process, "waits_for_disk", waits_for_disk)
    async with running_pool(tmp_path, 1, Patience(check_seconds=0.25)) as (pool, _):
        (silent,) = pool.pids()
        os.kill(silent, signal.SIGSTOP)
        await until(lambda: pool.answering == 0, 30)
        await until(lambda: asked >= 4, 30)
        os.kill(silent, signal.SIGCONT)
        await until(lambda: pool.answering == 1, 30)
        assert pool.pids() == [silent]
        os.kill(silent, signal.SIGSTOP)
        await until(lambda: pool.pids() not in ([], [silent]), 30)
        await until(lambda: pool.answering == 1, 30)


@pytest.mark.parametrize("worker_stopped_too", [False, True], ids=["main alone was stopped", "the host was suspended"])
async def test_time_in_which_main_itself_stood_still_makes_no_worker_hang(
    tmp_path: Path, worker_stopped_too: bool
) -> None:
    patience = Patience(check_seconds=0.5, hung_checks=5)  # the worker beats once a second
    async with running_pool(tmp_path, 1, patience) as (pool, _):
        (worker,) = pool.pids()
        if worker_stopped_too:
            os.kill(worker, signal.SIGSTOP)
        await asyncio.sleep(0.8)  # a check has seen its last heartbeat
        time.sleep(1.5 * patience.hung_checks * patience.check_seconds)  # this loop is main's
        await asyncio.sleep(0.8)  # a check or two before the worker has had its turn
        os.kill(worker, signal.SIGCONT)
        for _ in range(patience.hung_checks):
            await asyncio.sleep(patience.check_seconds)
            assert pool.pids() == [worker]
        await until(lambda: pool.answering == 1, 30)


def test_a_worker_gets_no_environment_but_what_its_interpreter_needs() -> None:
    needed = {"PATH": "/bin", "PYTHONUTF8": "1", "LC_ALL": "C", "LD_PRELOAD": "x.so", "TZ": "UTC", "HOME": "/root"}
    secret = dict.fromkeys(("AWS_PROFILE", "TRACKER_WORKERS", "NOTIFY_SOCKET", "PATHS", "LANG_KEY", "X"), "secret")
    similar = dict.fromkeys(("UV_PUBLISH_TOKEN", "LD_SDK_KEY", "PYTHONANYWHERE_API_TOKEN", "PYTHON_KEY"), "secret")
    given = {**needed, **secret, **similar, "PYTHONPATH": "src"}
    environment = worker_process.worker_environment(given, ["/lib", "/app"])
    assert environment == {**needed, "PYTHONPATH": "/lib:/app", "PYTHONSAFEPATH": "1"}


async def test_what_a_killed_worker_had_discarded_is_counted(tmp_path: Path) -> None:
    before = telemetry.total(telemetry.HITS)
    async with running_pool(tmp_path, 1) as (pool, config):
        await pool.reload(msgspec.structs.replace(config, privacy=Privacy(honor=["dnt"])))
        (doomed,) = pool.pids()
        reader, writer = await asyncio.open_connection("127.0.0.1", config.http.port)
        for _ in range(5):
            writer.write(b"GET /track HTTP/1.1\r\nHost: a.example\r\nDNT: 1\r\n\r\n")
            await reader.readuntil(b"\r\n\r\n")
        assert telemetry.total(telemetry.HITS) == before
        os.kill(doomed, signal.SIGKILL)
        await until(lambda: telemetry.total(telemetry.HITS) == before + 5)
        writer.close()


def test_nothing_is_sent_to_a_worker_that_has_closed_its_end_of_the_socket_pair(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def closing(*arguments: str, **options: Any) -> asyncio.subprocess.Process:
        control = arguments[arguments.index("--control") + 1]
        code = f"import os, time; os.close({control}); time.sleep(60)"
        return await start(sys.executable, "-c", code, **options)

    async def scenario() -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            starter = WorkerStarter()
            worker = WorkerProcess(
                number=0,
                config=PixelConfig(sns=SNS),
                listener=listener,
                accounting=Accounting(),
                quota=0,
                starter=starter,
            )
            running = asyncio.create_task(worker.run())
            await until(lambda: worker.connected)
            await until(lambda: not worker.connected)
            worker.set_quota(1)  # uvloop, unlike asyncio, raises on a closed transport
            running.cancel()
            await asyncio.wait([running])
            starter.stop()

    start = asyncio.create_subprocess_exec
    monkeypatch.setattr(asyncio, "create_subprocess_exec", closing)
    uvloop.run(scenario())


def test_a_reload_is_refused_with_the_names_of_all_keys_that_only_a_restart_can_change() -> None:
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
    with pytest.raises(ConfigurationError) as raised:
        check_reload(old, new)
    for key in FIXED:
        assert f"{key}: expected " in str(raised.value)
