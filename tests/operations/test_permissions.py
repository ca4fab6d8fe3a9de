"""What the services leave on a disk is nobody else's to read."""

import json
import os
import stat
from pathlib import Path

from tests.system.processes import Service
from tests.system.wire import get, wait_for

from .conftest import Bench


def modes(folder: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Permissions of the directories and of the files under `folder`."""
    directories: dict[str, str] = {}
    files: dict[str, str] = {}
    for path in folder.rglob("*"):
        kind = directories if path.is_dir() else files
        kind[str(path.relative_to(folder))] = f"{stat.S_IMODE(path.stat().st_mode):04o}"
    return directories, files


async def test_files_are_0640_and_directories_0750_whatever_the_umask(bench: Bench) -> None:
    made = bench.folder / "made"
    pixel_file = bench.pixel_config({"outbox": {"dir": str(made / "outbox")}})
    storage_file = bench.storage_config({"log": {"path": str(made / "log/visits.log")}})
    http, admin = (json.loads(pixel_file.read_text())[section]["port"] for section in ("http", "admin"))
    before = os.umask(0)
    try:
        pixel = Service("tracker.pixel", pixel_file, bench.folder, None, http, admin)
        admin = json.loads(storage_file.read_text())["admin"]["port"]
        storage = Service("tracker.storage", storage_file, bench.folder, None, 0, admin)
    finally:
        os.umask(before)
    try:
        pixel.wait_ready()
        storage.wait_ready()
        get(http, "/track")
        log = made / "log/visits.log"
        wait_for(lambda: log.exists() and log.stat().st_size > 0, lambda: "the visit is a line")
    finally:
        pixel.destroy()
        storage.destroy()
    directories, files = modes(made)
    assert {"log/visits.log", "log/visits.log.d/ledger.sqlite", "log/visits.log.d/lock", "outbox/publisher.lock"} <= (
        files.keys()
    )
    assert set(directories.values()) == {"0750"}, directories
    assert set(files.values()) == {"0640"}, files
