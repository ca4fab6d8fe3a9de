"""A log and its ledger that were moved, restored from a backup, or taken from the image of a disk."""

import shutil
from pathlib import Path

from .processes import Service, run
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


def audit(stack: FakeStack, storage: Service) -> tuple[int, str]:
    done = run("tracker.cli", "audit", "--config", str(storage.config), "--grace", "0", home=stack.home)
    assert done.returncode in (0, 1), done.stderr
    return done.returncode, done.stdout


def test_a_log_moved_with_its_directory_goes_on_at_the_new_path(stack: FakeStack) -> None:
    pixel = stack.start_pixel()
    storage = stack.start_storage()
    with Load(pixel.port) as load:
        record(stack, storage, load)
        storage.stop()
        moved = copy(stack, stack.home / "other-disk")  # other inodes, as on another host
        shutil.rmtree(stack.log_path.with_name("visits.log.d"))
        stack.log_path.unlink()
        stack.log_path = moved
        storage = stack.start_storage({"log": {"path": str(moved)}})
        record(stack, storage, load)
    stack.assert_exactly_once(load)
    assert "log_taken_over" not in storage.output


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


def test_a_log_and_a_ledger_of_different_times_are_refused_with_the_way_out(stack: FakeStack) -> None:
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

        def mix(older: str) -> None:
            restore(stack, present)
            restore(stack, backup, log=older == "log", ledger=older == "ledger")

        for older, means in (("log", "the visits that the log lacks"), ("ledger", "may be in the log twice")):
            mix(older)
            refused = stack.start_storage(ready=False)
            assert refused.wait() == 1
            [line] = refused.logged("service_failed")
            assert "are copies of different times; put back the log and that directory from the same copy" in line
            assert "start once with --accept-log" in line
            assert means in line
        # The first way out: what belongs together. The second: --accept-log, once.
        restore(stack, present)
        storage = stack.start_storage()
        record(stack, storage, load)
        storage.stop()
        for older in ("log", "ledger"):
            mix(older)
            storage = stack.start_storage(launcher=ACCEPT)
            assert storage.logged("log_accepted")
            record(stack, storage, load)
            storage.stop()
    stack.start_storage()


def test_a_log_and_a_ledger_of_one_older_backup_go_on_and_audit_says_what_is_missing(stack: FakeStack) -> None:
    pixel = stack.start_pixel()
    storage = stack.start_storage()
    with Load(pixel.port) as load:
        record(stack, storage, load)
        storage.stop()
        backup = copy(stack, stack.home / "backup")
        storage = stack.start_storage()
        record(stack, storage, load)
        storage.stop()
        lost = stack.referrers()
        restore(stack, backup)
        lost.subtract(stack.referrers())
        assert any(lost.values())
        storage = stack.start_storage()
        record(stack, storage, load)
        wait_for(lambda: "MISSING: " in audit(stack, storage)[1], "what the backup lacks is reported")
        assert audit(stack, storage)[0] == 1
    assert max(stack.referrers().values()) == 1


def test_a_log_without_its_directory_is_taken_over_and_a_directory_without_its_log_is_refused(stack: FakeStack) -> None:
    pixel = stack.start_pixel()
    storage = stack.start_storage()
    with Load(pixel.port) as load:
        record(stack, storage, load)
        storage.stop()
        moved = copy(stack, stack.home / "backup")
        stack.log_path.unlink()
        refused = stack.start_storage(ready=False)
        assert refused.wait() == 1
        assert "is missing, the ledger expects" in refused.output
        shutil.rmtree(stack.log_path.with_name("visits.log.d"))
        shutil.copy2(moved, stack.log_path)
        storage = stack.start_storage()
        assert "log_taken_over" in storage.output
        record(stack, storage, load)


def test_the_erase_command_works_on_closed_logs_of_a_running_storage(stack: FakeStack) -> None:
    pixel = stack.start_pixel()
    storage = stack.start_storage({"log": {"rotate": {"max_bytes": "5kB", "compress": "gzip"}}})
    with Load(pixel.port, agent="a person") as load:
        storage.wait_alive(lambda: storage.output.count("log_compressed") >= 2, "closed logs")
        load.wait_answered(10)
    stack.wait_queue()
    storage.stop()
    command = ("tracker.cli", "erase", "--config", str(storage.config), "--agent", "a person")
    done = run(*command, home=stack.home)
    assert done.returncode == 0, done.stderr
    assert "erased" in done.stdout
    again = run(*command, "--dry-run", home=stack.home)
    assert again.returncode == 0, again.stdout
    assert "erased on request: " in audit(stack, storage)[1]
    assert stack.start_storage().is_ready()
