"""What the services leave on a disk is nobody else's to read, and links do not lead them astray."""

import os
import stat
from pathlib import Path

import pytest

from tests.local.conftest import Broker
from tests.ports import free_port
from tests.system.processes import Process, Service, write_config
from tests.system.wire import get, wait_for

ARN = "arn:aws:sns:us-east-1:000000000000:tracking"


def modes(folder: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Permissions of the directories and of the files under `folder`."""
    directories: dict[str, str] = {}
    files: dict[str, str] = {}
    for path in folder.rglob("*"):
        kind = directories if path.is_dir() else files
        kind[str(path.relative_to(folder))] = f"{stat.S_IMODE(path.stat().st_mode):04o}"
    return directories, files


def test_files_are_0640_and_directories_0750_whatever_the_umask(tmp_path: Path) -> None:
    pytest.importorskip("moto", reason="the local broker is moto")
    before = os.umask(0)
    try:
        with Broker(free_port()) as broker:
            endpoint = broker.endpoint
            ports = [free_port() for _ in range(3)]
            http, pixel_admin, storage_admin = ports
            pixel_config = write_config(
                tmp_path / "pixel.yaml",
                {
                    "http": {"host": "127.0.0.1", "port": http},
                    "admin": {"port": pixel_admin},
                    "outbox": {"dir": "made/outbox"},
                    "sns": {"topic_arn": ARN, "endpoint_url": endpoint},
                },
            )
            storage_config = write_config(
                tmp_path / "storage.yaml",
                {
                    "sqs": {"queue": "visits", "region": "us-east-1", "endpoint_url": endpoint, "wait_time": 1},
                    "log": {"path": "made/log/visits.log"},
                    "admin": {"port": storage_admin},
                },
            )
            pixel = Service("tracker.pixel", pixel_config, tmp_path, None, http, pixel_admin)
            storage = Service("tracker.storage", storage_config, tmp_path, None, 0, storage_admin)
            try:
                pixel.wait_ready()
                storage.wait_ready()
                get(http, "/track")
                log = tmp_path / "made/log/visits.log"
                wait_for(lambda: log.exists() and log.stat().st_size > 0, lambda: "the visit is a line")
            finally:
                pixel.destroy()
                storage.destroy()
            directories, files = modes(tmp_path / "made")
    finally:
        os.umask(before)
    assert {"log/visits.log", "log/visits.log.d/ledger.sqlite", "log/visits.log.d/lock", "outbox/publisher.lock"} <= (
        files.keys()
    )
    assert set(directories.values()) == {"0750"}, directories
    assert set(files.values()) == {"0640"}, files


def ended(module: str, config: Path, folder: Path) -> tuple[int, str]:
    process = Process(module, "--config", str(config), home=folder, name=module)
    try:
        return process.wait(), process.output
    finally:
        process.destroy()


def test_a_visit_log_that_is_a_link_is_refused(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere.log"
    elsewhere.touch()
    (tmp_path / "visits.log").symlink_to(elsewhere)
    config = write_config(
        tmp_path / "storage.yaml", {"sqs": {"queue": "visits", "region": "us-east-1"}, "log": {"path": "visits.log"}}
    )
    status, said = ended("tracker.storage", config, tmp_path)
    assert status == 78
    assert "log.path" in said
    assert str(elsewhere) in said
    assert elsewhere.stat().st_size == 0


@pytest.mark.parametrize("victim", ["outbox/publisher.lock", "visits.log.d/lock"])
def test_a_link_in_the_place_of_a_lock_is_refused_and_its_target_untouched(tmp_path: Path, victim: str) -> None:
    target = tmp_path / "target"
    target.write_text("precious")
    link = tmp_path / victim
    link.parent.mkdir()
    link.symlink_to(target)
    if victim.startswith("outbox"):
        module, document = "tracker.pixel", {"sns": {"topic_arn": ARN}, "outbox": {"dir": "outbox"}}
    else:
        module = "tracker.storage"
        document = {"sqs": {"queue": "visits", "region": "us-east-1"}, "log": {"path": "visits.log"}}
    status, said = ended(module, write_config(tmp_path / "config.yaml", document), tmp_path)
    assert status == 78, said
    assert target.read_text() == "precious"
