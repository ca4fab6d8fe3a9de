"""A log and its ledger that were moved, restored from a backup, or taken from the image of a disk."""

import shutil
from pathlib import Path

import pytest

from tracker import cli

from .processes import Service
from .stack import FakeStack
from .wire import Load, wait_for

ACCEPT = ("sh", "-c", 'exec "$@" --accept-log', "sh")


def copy(stack: FakeStack, target: Path) -> Path:
    """The log and its directory, copied as a backup program does, to `target`; returns the log's path there."""
    target.mkdir()
    shutil.copytree(stack.log_path.with_name("visits.log.d"), target / "visits.log.d")
    shutil.copy2(stack.log_path, target / "visits.log")
    return target / "visits.log"


def restore(stack: FakeStack, backup: Path, *, log: bool = True, ledger: bool = True) -> None:
    directory = stack.log_path.with_name("visits.log.d")
    if log:
        shutil.copy2(backup, stack.log_path)
    if ledger:
        shutil.rmtree(directory)
        shutil.copytree(backup.with_name("visits.log.d"), directory)


def record(stack: FakeStack, storage: Service, load: Load, visits: int = 50) -> None:
    """Let so many more visits be answered, and wait until storage has stored some of them."""
    before = stack.log_path.stat().st_size if stack.log_path.exists() else 0
    load.wait_answered(visits)
    storage.wait_alive(lambda: stack.log_path.exists() and stack.log_path.stat().st_size > before, "more lines")


def audit(storage: Service, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    status = cli.main(["audit", "--config", str(storage.config), "--grace", "0"])
    said = capsys.readouterr()
    assert status in (0, 1), said.err
    return status, said.out


def test_a_log_goes_on_at_a_new_path_with_its_directory_is_taken_over_without_it_and_refused_if_it_is_missing(
    stack: FakeStack,
) -> None:
    pixel = stack.start_pixel()
    storage = stack.start_storage()
    with Load(pixel.port) as load:
        record(stack, storage, load)
        storage.stop()
        moved = copy(stack, stack.home / "other-disk")  # other inodes, as on another host
        shutil.rmtree(stack.log_path.with_name("visits.log.d"))
        stack.log_path.unlink()
        stack.log_path = moved
        config = {"log": {"path": str(moved)}}
        storage = stack.start_storage(config)
        record(stack, storage, load)
    stack.assert_exactly_once(load)
    assert "log_taken_over" not in storage.output

    storage.stop()
    kept = shutil.copy2(moved, stack.home / "kept.log")
    moved.unlink()
    refused = stack.start_storage(config, ready=False)
    assert refused.wait() == 1
    assert "is missing, the ledger expects" in refused.output
    shutil.rmtree(moved.with_name("visits.log.d"))
    shutil.copy2(kept, moved)
    storage = stack.start_storage(config)
    assert "log_taken_over" in storage.output
    with Load(pixel.port) as load:
        record(stack, storage, load)


def test_a_disk_image_taken_while_storage_runs_goes_on_as_after_a_crash(stack: FakeStack) -> None:
    pixel = stack.start_pixel()
    storage = stack.start_storage()
    with Load(pixel.port) as load:
        record(stack, storage, load)
        storage.kill()  # the image is what the disk holds at one moment, as a kill leaves it
        stack.log_path = copy(stack, stack.home / "image")
        stack.start_storage({"log": {"path": str(stack.log_path)}})
        stack.redeliver()
        load.wait_answered(50)
    stack.assert_exactly_once(load)


def mix(stack: FakeStack, present: Path, backup: Path, older: str) -> None:
    """Take `older`, the log or the ledger, from the older copy, and the other from the newer one."""
    restore(stack, present)
    restore(stack, backup, log=older == "log", ledger=older == "ledger")


def assert_refused(stack: FakeStack, means: str) -> None:
    refused = stack.start_storage(ready=False)
    assert refused.wait() == 1
    [line] = refused.logged("service_failed")
    assert "are copies of different times; put back the log and that directory from the same copy" in line
    assert "start once with --accept-log" in line
    assert means in line


def test_after_a_restore_audit_says_what_is_missing_and_copies_of_different_times_are_refused_with_the_way_out(
    stack: FakeStack, capsys: pytest.CaptureFixture[str]
) -> None:
    pixel = stack.start_pixel()
    storage = stack.start_storage()
    with Load(pixel.port) as load:
        record(stack, storage, load)
        storage.stop()
        backup = copy(stack, stack.home / "backup")
        storage = stack.start_storage()
        record(stack, storage, load)
        storage.stop()
        present = copy(stack, stack.home / "present")

        for older, means in (("log", "the visits that the log lacks"), ("ledger", "may be in the log twice")):
            mix(stack, present, backup, older)
            assert_refused(stack, means)

        # The first way out: what belongs together.
        lost = stack.referrers()
        restore(stack, backup)
        lost.subtract(stack.referrers())
        assert any(lost.values())
        storage = stack.start_storage()
        record(stack, storage, load)
        wait_for(lambda: "MISSING: " in audit(storage, capsys)[1], "what the backup lacks is reported")
        assert audit(storage, capsys)[0] == 1
        assert max(stack.referrers().values()) == 1
        storage.stop()

        # The second: --accept-log, once.
        for older in ("log", "ledger"):
            mix(stack, present, backup, older)
            storage = stack.start_storage(launcher=ACCEPT)
            assert storage.logged("log_accepted")
            record(stack, storage, load)
            storage.stop()
    stack.start_storage()


def test_the_erase_command_works_on_closed_logs_of_a_running_storage(
    stack: FakeStack, capsys: pytest.CaptureFixture[str]
) -> None:
    pixel = stack.start_pixel()
    storage = stack.start_storage({"log": {"rotate": {"max_bytes": "5kB", "compress": "gzip"}}})
    with Load(pixel.port, agent="a person") as load:
        storage.wait_alive(lambda: storage.output.count("log_compressed") >= 2, "closed logs")
        load.wait_answered(10)
    stack.wait_queue()
    storage.stop()
    command = ["erase", "--config", str(storage.config), "--agent", "a person"]
    assert cli.main(command) == 0
    assert "erased" in capsys.readouterr().out
    assert cli.main([*command, "--dry-run"]) == 0
    assert "erased on request: " in audit(storage, capsys)[1]
    assert stack.start_storage().is_ready()
