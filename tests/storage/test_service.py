"""The service as a whole in this process, and its command line."""

import asyncio
import contextlib
import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.fake_aws import FakeAws
from tests.fake_aws.in_memory import FakeQueue
from tests.fake_aws.queues import Sent
from tests.storage.rig import A, delivery, logged, pages, span
from tests.waiting import until
from tracker import telemetry
from tracker.aws import clients, credential_helper
from tracker.config import LogConfig, SqsConfig, StorageAdmin, StorageConfig, StorageShutdown
from tracker.core.delivery import Delivery
from tracker.core.log_line import parse_line
from tracker.errors import AppendFailed, LogChanged, QueueFailed
from tracker.lifecycle import Budget
from tracker.local.provision import provision_at
from tracker.storage import acknowledger, log_file, service
from tracker.storage.__main__ import main
from tracker.storage.batch import Batch
from tracker.storage.in_flight import InFlight
from tracker.storage.ledger import Ledger
from tracker.storage.pending import Append
from tracker.storage.shutdown import FAILURE_SHARES, STOP_SHARES

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("shares", [STOP_SHARES, FAILURE_SHARES], ids=["a stop", "a failure"])
def test_the_shares_of_the_time_to_end_add_up(shares: dict[str, float]) -> None:
    budget = Budget(shares, 100.0)  # raises ValueError when they do not
    assert 99.0 < budget.remaining("give back") <= 100.0, "giving back is the last step"


def put(queue: FakeQueue, name: str, first: int, last: int) -> str:
    message = span(name, first, last)
    return queue.send(message.body, message.attributes)


@pytest.fixture
def queue(monkeypatch: pytest.MonkeyPatch) -> FakeQueue:
    made = FakeQueue()

    @contextlib.asynccontextmanager
    async def fake(config: SqsConfig) -> AsyncIterator[FakeQueue]:
        yield made

    monkeypatch.setattr(service, "open_queue", fake)
    monkeypatch.setattr(acknowledger, "LINGER_SECONDS", 0.05)
    return made


@pytest.fixture
def config(tmp_path: Path, free_port: int) -> StorageConfig:
    return StorageConfig(
        sqs=SqsConfig(queue="visits", wait_time=1, visibility_timeout=3_600),
        log=LogConfig(path=str(tmp_path / "visits.log")),
        admin=StorageAdmin(port=free_port),
        shutdown=StorageShutdown(timeout=5),
    )


def stored(config: StorageConfig) -> int:
    path = Path(config.log.path)
    return path.read_bytes().count(b"\n") if path.exists() else 0


async def test_a_stop_stores_what_was_received_and_gives_the_rest_back(queue: FakeQueue, config: StorageConfig) -> None:
    put(queue, A, 0, 4)
    bad = queue.send(delivery("no visit", {}).body)
    async with asyncio.timeout(20):
        running = asyncio.create_task(service.serve(config, accept_log=False))
        await until(lambda: stored(config) == 4)
        put(queue, A, 2, 7)
        await until(lambda: stored(config) == 7)
        os.kill(os.getpid(), signal.SIGTERM)
        await running
    assert logged(Path(config.log.path)) == pages(A, 0, 7)
    assert queue.model.ids() == {bad}  # left to its visibility timeout and the dead-letter queue
    assert queue.model.visible() == set()


def _fail_fdatasync(patch: pytest.MonkeyPatch, config: StorageConfig, queue: FakeQueue) -> None:
    def broken(descriptor: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    patch.setattr(log_file, "fdatasync", broken)


def _grow_log(patch: pytest.MonkeyPatch, config: StorageConfig, queue: FakeQueue) -> None:
    with Path(config.log.path).open("ab") as file:
        file.write(b"foreign\n")


def _corrupt_ledger(patch: pytest.MonkeyPatch, config: StorageConfig, queue: FakeQueue) -> None:
    def corrupt(self: Ledger, append: Append) -> None:
        raise AppendFailed("the ledger cannot be used: database disk image is malformed")

    patch.setattr(Ledger, "begin", corrupt)


def _break_writer(patch: pytest.MonkeyPatch, config: StorageConfig, queue: FakeQueue) -> None:
    patch.setattr(Batch, "add", lambda self, delivery: 1 / 0)


def _break_extension(patch: pytest.MonkeyPatch, config: StorageConfig, queue: FakeQueue) -> None:
    async def broken(self: InFlight) -> None:
        raise KeyError("a bug")

    patch.setattr(InFlight, "extend", broken)
    patch.setattr(Batch, "add", lambda self, delivery: time.sleep(1.5))  # so that something is in flight meanwhile


DEATHS: list[Any] = [
    pytest.param(_fail_fdatasync, AppendFailed, id="failed fdatasync"),
    pytest.param(_grow_log, LogChanged, id="changed log"),
    pytest.param(_corrupt_ledger, AppendFailed, id="corrupt ledger"),
    pytest.param(_break_writer, ZeroDivisionError, id="bug in the writer"),
    pytest.param(_break_extension, KeyError, id="bug beside the stages"),
]
Death = Callable[[pytest.MonkeyPatch, StorageConfig, FakeQueue], None]


async def _die(config: StorageConfig, queue: FakeQueue, death: Death, error: type[Exception]) -> None:
    """Store four visits, then let `death` happen while five messages are received; the service ends with `error`."""
    put(queue, A, 0, 4)
    before = telemetry.total(telemetry.APPENDED)
    with pytest.MonkeyPatch.context() as patch:
        async with asyncio.timeout(30):
            running = asyncio.create_task(service.serve(config, accept_log=False))
            await until(lambda: telemetry.total(telemetry.APPENDED) == before + 4)
            death(patch, config, queue)
            for number in range(4, 9):
                put(queue, A, number, number + 1)
            with pytest.raises(ExceptionGroup) as caught:
                await running
    assert caught.group_contains(error)
    assert len(caught.value.exceptions) == 1, "the error is the only one"


@pytest.mark.parametrize(("death", "error"), DEATHS)
async def test_however_storage_ends_what_is_durable_is_deleted_and_the_rest_given_back(
    queue: FakeQueue, config: StorageConfig, death: Death, error: type[Exception]
) -> None:
    await _die(config, queue, death, error)
    assert len(queue.model.ids()) == 5, "the message of the first four was durable"
    assert queue.model.visible() == queue.model.ids()
    async with asyncio.timeout(20):
        running = asyncio.create_task(service.serve(config, accept_log=True))
        await until(lambda: not queue.model.ids())
        os.kill(os.getpid(), signal.SIGTERM)
        await running
    lines = Path(config.log.path).read_bytes().splitlines()
    assert [parse_line(line).referrer for line in lines if line != b"foreign"] == pages(A, 0, 9)


@pytest.mark.parametrize("how", ["refuses", "hangs", "breaks"])
async def test_a_queue_that_takes_nothing_back_hides_no_error_and_holds_no_end_up(
    queue: FakeQueue, config: StorageConfig, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    async def change_visibility(deliveries: Sequence[Delivery], seconds: int) -> None:
        if how == "refuses":
            raise QueueFailed("no")
        if how == "breaks":
            raise TypeError("a bug")
        await asyncio.Event().wait()

    monkeypatch.setattr(queue, "change_visibility", change_visibility)
    await _die(config, queue, _fail_fdatasync, AppendFailed)
    assert queue.model.visible() < queue.model.ids()


async def test_a_stop_while_the_log_is_moved_gives_everything_back(queue: FakeQueue, config: StorageConfig) -> None:
    path = Path(config.log.path)
    put(queue, A, 0, 4)
    async with asyncio.timeout(20):
        running = asyncio.create_task(service.serve(config, accept_log=False))
        await until(lambda: not queue.model.ids())
        path.rename(path.with_suffix(".1"))
        put(queue, A, 4, 5)
        put(queue, A, 5, 6)
        await until(lambda: queue.model.ids() and not queue.model.visible())
        os.kill(os.getpid(), signal.SIGTERM)
        await running
    assert len(queue.model.ids()) == 2
    assert queue.model.visible() == queue.model.ids()


@pytest.fixture
def helper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A `credential_process` that does not end while the file `hang` is there."""
    path = tmp_path / "helper"
    keys = '{"Version": 1, "AccessKeyId": "a", "SecretAccessKey": "b"}'
    path.write_text(
        f"#!/bin/sh\necho >>{tmp_path}/starts\nwhile [ -e {tmp_path}/hang ]; do sleep 0.1; done\necho '{keys}'\n"
    )
    path.chmod(0o755)
    (tmp_path / "config").write_text(f"[default]\ncredential_process = {path}\n")
    for name in os.environ:
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    (tmp_path / "hang").touch()
    return tmp_path / "hang"


async def readiness(port: int) -> tuple[int, dict[str, Any]]:
    """`/readyz` of the service that is running here; 0 and nothing while it does not listen."""
    try:
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"http://127.0.0.1:{port}/readyz") as response,
        ):
            return response.status, await response.json()
    except aiohttp.ClientError:
        return 0, {}


async def test_a_credential_helper_that_hangs_is_seen_and_delays_neither_start_nor_stop_nor_recovery(
    tmp_path: Path, free_port: int, helper: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(credential_helper, "HELPER_SECONDS", 1.0)
    with FakeAws() as fake:
        with monkeypatch.context() as patch:
            patch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
            await provision_at(fake.door.url, "us-east-1")
        message = span(A, 0, 4)
        fake.queue("visits", lambda queue: queue.send(Sent.of(message.body, message.attributes)))
        config = StorageConfig(
            sqs=SqsConfig(queue="visits", region="us-east-1", endpoint_url=fake.sqs.url, wait_time=1),
            log=LogConfig(path=str(tmp_path / "visits.log")),
            admin=StorageAdmin(port=free_port),
            shutdown=StorageShutdown(timeout=20),
        )

        async def reason() -> str:
            status, detail = await readiness(free_port)
            return str(detail["queue"]) if status == 200 else ""

        async def helper_is_named() -> bool:
            return "credential_process" in await reason()

        async with asyncio.timeout(60):
            running = asyncio.create_task(service.serve(config, accept_log=False))
            await until(helper_is_named, 60)
            assert telemetry.STORAGE.get_sample_value("tracker_storage_receiving") == 0
            monkeypatch.setattr(credential_helper, "HELPER_SECONDS", 60.0)
            monkeypatch.setattr(clients, "CREDENTIAL_SECONDS", 60.0)
            starts = (tmp_path / "starts").stat().st_size
            await until(lambda: (tmp_path / "starts").stat().st_size > starts, 60)
            os.kill(os.getpid(), signal.SIGTERM)
            async with asyncio.timeout(5):
                await running

            monkeypatch.setattr(credential_helper, "HELPER_SECONDS", 1.0)
            running = asyncio.create_task(service.serve(config, accept_log=False))
            await until(helper_is_named, 60)
            helper.unlink()
            await until(lambda: logged(tmp_path / "visits.log") == pages(A, 0, 4), 60)
            assert await reason() == "ok"
            assert telemetry.STORAGE.get_sample_value("tracker_storage_receiving") == 1
            os.kill(os.getpid(), signal.SIGTERM)
            await running


@pytest.fixture
def config_file(tmp_path: Path, free_port: int) -> Path:
    path = tmp_path / "storage.yaml"
    path.write_text(
        "sqs: {queue: visits, region: us-east-1, endpoint_url: 'http://127.0.0.1:9'}\n"
        f"log: {{path: {tmp_path / 'visits.log'}}}\nadmin: {{port: {free_port}}}\n"
    )
    return path


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tracker.storage", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


def test_check_validates_and_says_so(config_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--config", str(config_file), "--check"]) == 0
    assert capsys.readouterr().out == f"{config_file}: OK\n"


def test_a_configuration_error_is_78_and_usage_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bad.yaml").write_text("sqs: {queue: visits, receivers: many}\n")
    assert main(["--config", str(tmp_path / "bad.yaml")]) == 78
    assert f"{tmp_path / 'bad.yaml'}: sqs.receivers: " in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        main([])


def test_a_refused_start_ends_with_one_clear_line(config_file: Path, tmp_path: Path) -> None:
    main_dir = tmp_path / "visits.log.d"
    main_dir.mkdir()
    ledger = Ledger(main_dir / "ledger.sqlite")
    ledger.record_log(100, 1)
    ledger.close()
    (tmp_path / "visits.log").write_bytes(b"short\n")
    refused = run("--config", str(config_file))
    assert refused.returncode == 1
    assert "--accept-log" in refused.stderr
    assert refused.stderr.count("\n") == 1
