"""A disk that is really full: storage waits and stays alive, the doctor names it, and room is all it needs."""

import contextlib
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.processes import Service
from tests.test_systemd import Notify
from tests.waiting import until
from tracker.operations.findings import Level

from .conftest import Bench
from .test_doctor import found

VISIT = '{"Referer":null,"UserAgent":null,"IpAddress":"192.0.2.1","VisitedAt":"2026-11-24T10:00:00.000000+00:00"}'


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of two MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m,mode=0750", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("a small disk of its own needs root and mount(8)")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(disk: Path) -> Path:
    """Take all the room there is."""
    filler = disk / "filler"
    with filler.open("ab", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"\0" * 4096)
    return filler


async def test_storage_waits_for_room_sends_heartbeats_and_the_doctor_names_it(
    bench: Bench, disk: Path, tmp_path: Path
) -> None:
    notify = Notify(tmp_path / "notify")
    config = bench.storage_config({"log": {"path": str(disk / "visits.log")}})
    port = json.loads(config.read_text())["admin"]["port"]
    storage = Service("tracker.storage", config, bench.folder, notify.environ, 0, port)
    try:
        storage.wait_ready()
        filler = fill(disk)
        attributes = {"Type": {"DataType": "String", "StringValue": "Visit"}}
        for _ in range(200):  # more than the log's last block has room for
            await bench.sqs.send_message_batch(
                QueueUrl=bench.made.queue_url,
                Entries=[
                    {"Id": str(number), "MessageBody": VISIT, "MessageAttributes": attributes} for number in range(10)
                ],
            )
            if not storage.is_ready():
                break
        await until(lambda: not storage.is_ready(), seconds=30)

        findings = await bench.doctor(storage=config)
        found(findings, Level.FAULT, "visit log", "0 bytes of 2.0 MiB are free")
        found(findings, Level.FAULT, "storage", "it cannot write")

        notify.listen().clear()
        await until(lambda: notify.heartbeats() >= 3, seconds=30)
        filler.unlink()
        await until(storage.is_ready, seconds=30)
        assert (disk / "visits.log").read_text().endswith("|null|null|192.0.2.1\n")
    finally:
        storage.destroy()
        notify.close()
