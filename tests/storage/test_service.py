"""The service as a whole in this process, and its command line."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.fakes import FakeQueue
from tests.storage.rig import A, delivery, logged, pages, span
from tracker.config import LogConfig, SqsConfig, StorageAdmin, StorageConfig, StorageShutdown
from tracker.storage import service
from tracker.storage.__main__ import main
from tracker.storage.ledger import Ledger


def put(queue: FakeQueue, name: str, first: int, last: int) -> str:
    message = span(name, first, last)
    return queue.send(message.body, message.attributes)


async def test_a_stop_stores_what_was_received_and_gives_the_rest_back(
    tmp_path: Path, free_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue, path = FakeQueue(), tmp_path / "visits.log"

    @contextlib.asynccontextmanager
    async def fake(config: SqsConfig) -> AsyncIterator[FakeQueue]:
        yield queue

    monkeypatch.setattr(service, "open_queue", fake)
    config = StorageConfig(
        sqs=SqsConfig(queue="visits", wait_time=1),
        log=LogConfig(path=str(path)),
        admin=StorageAdmin(port=free_port),
        shutdown=StorageShutdown(timeout=5),
    )
    put(queue, A, 0, 4)
    bad = queue.send(delivery("no visit", {}).body)
    async with asyncio.timeout(20):
        running = asyncio.create_task(service.serve(config, accept_log=False))
        while not path.exists() or path.read_bytes().count(b"\n") < 4:
            await asyncio.sleep(0.01)
        put(queue, A, 2, 7)
        while path.read_bytes().count(b"\n") < 7:
            await asyncio.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)
        await running
    assert logged(path) == pages(A, 0, 7)
    assert queue.ids() == {bad}  # left to its visibility timeout and the dead-letter queue
    assert queue.visible() == set()


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
    ledger.adopt(100, 1)
    ledger.close()
    (tmp_path / "visits.log").write_bytes(b"short\n")
    refused = run("--config", str(config_file))
    assert refused.returncode == 1
    assert "--accept-log" in refused.stderr
    assert refused.stderr.count("\n") == 1
