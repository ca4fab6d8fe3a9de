"""Rotation under load, by the service and by the real logrotate: every answered visit is in one of the files, once."""

import gzip
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections import Counter
from functools import partial
from pathlib import Path

import pytest

from .processes import Service
from .stack import Stack
from .wire import Load, get, wait_for

LOGROTATE = shutil.which("logrotate", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


def files(stack: Stack) -> list[Path]:
    """The log and all that was put aside of it, in the order of their names."""
    return sorted(path for path in stack.home.glob("visits.log*") if path.is_file() and path.suffix != ".part")


def referrers(stack: Stack) -> Counter[str]:
    found: Counter[str] = Counter()
    for path in files(stack):
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return referrers(stack)  # renamed while we looked
        data = gzip.decompress(data) if path.suffix == ".gz" else data
        lines = data.decode("ascii").split("\n")
        assert lines.pop() == "" or path.name == "visits.log", f"{path.name} ends within a line"
        assert all(line.count("|") == 3 for line in lines)
        found.update(line.split("|")[1] for line in lines)
    return found


def assert_exactly_once(stack: Stack, load: Load) -> None:
    wait_for(
        lambda: load.answered <= referrers(stack).keys(),
        lambda: f"{len(load.answered - referrers(stack).keys())} of {len(load.answered)} visits are missing",
        timeout=60,
    )
    stack.wait_queue()
    assert max(referrers(stack).values()) == 1


def _more_files(stack: Stack, than: int) -> bool:
    return len(files(stack)) > than


def test_rotation_by_size_with_compression_under_load_and_kills(stack: Stack) -> None:
    rotate = {"log": {"rotate": {"max_bytes": 20_000, "compress": "gzip"}}}
    pixel = stack.start_pixel()
    storage = stack.start_storage(rotate)
    with Load(pixel.port) as load:
        for _ in range(2):
            before = len(files(stack))
            load.wait_answered(150)
            wait_for(partial(_more_files, stack, before), "one more rotation")
            storage.kill()
            storage = stack.start_storage(rotate)
    assert_exactly_once(stack, load)
    wait_for(
        lambda: all(path.suffix == ".gz" for path in files(stack)[1:]),
        lambda: f"everything put aside is compressed: {files(stack)}",
    )
    storage.stop()
    assert not list(stack.home.glob("*.part"))


def test_closed_logs_that_are_not_to_be_kept_are_removed_by_the_running_service(stack: Stack) -> None:
    pixel = stack.start_pixel()
    storage = stack.start_storage({"log": {"rotate": {"max_bytes": "2kB", "keep": 2}}})
    with Load(pixel.port):
        storage.wait_metric("tracker_storage_closed_logs_removed", 3)
    storage.stop()
    assert storage.output.count("closed_log_removed") >= 3
    assert len(files(stack)) in (3, 4)  # the log, two closed logs, and perhaps one from just before the stop


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lets one process set the limits of another")
def test_storage_without_descriptors_goes_on_in_the_old_log_and_rotates_later(stack: Stack) -> None:
    due = 20_000
    pixel = stack.start_pixel()
    storage = stack.start_storage({"log": {"rotate": {"max_bytes": due}}})
    limits = resource.prlimit(storage.pid, resource.RLIMIT_NOFILE)
    assert get(pixel.port, headers=[("Referer", "https://first.example/")]).is_gif
    storage.wait_metric("tracker_storage_messages_acknowledged", 1)  # its connections are there
    resource.prlimit(storage.pid, resource.RLIMIT_NOFILE, (3, limits[1]))
    with Load(pixel.port, agent="u" * 500) as load:
        storage.wait_alive(lambda: storage.logged("rotation_put_off"), "a rotation that is due")
        put_off = stack.log_path.stat().st_size
        wait_for(lambda: stack.log_path.stat().st_size > put_off, "appends to a log that is due", timeout=60)
        assert files(stack) == [stack.log_path]
        resource.prlimit(storage.pid, resource.RLIMIT_NOFILE, limits)
        wait_for(partial(_more_files, stack, 1), "a rotation after all", timeout=60)
    assert_exactly_once(stack, load)
    assert len(storage.logged("rotation_put_off")) == 1
    storage.stop()


def logrotate(stack: Stack, storage: Service | None, *directives: str) -> None:
    """The real logrotate, forced, as its timer would call it."""
    assert LOGROTATE
    config = stack.home / "logrotate.conf"
    reload_command = f"kill -HUP {storage.pid}" if storage else "true"
    body = "\n    ".join(["rotate 50", *directives, "postrotate", f"    {reload_command}", "endscript"])
    config.write_text(f"{stack.log_path} {{\n    {body}\n}}\n")
    os.chmod(config, 0o644)
    state = stack.home / "logrotate.state"
    done = subprocess.run(
        [LOGROTATE, "--force", "--state", state, config], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 0, done.stderr


needs_logrotate = pytest.mark.skipif(LOGROTATE is None, reason="logrotate is not installed")


@needs_logrotate
def test_logrotate_with_a_sighup_loses_and_repeats_nothing(stack: Stack) -> None:
    pixel = stack.start_pixel()
    storage = stack.start_storage()
    with Load(pixel.port) as load:
        for create in ("create 0640", "nocreate"):
            load.wait_answered(150)
            wait_for(lambda: stack.log_path.exists() and stack.log_path.stat().st_size, "lines in the live log")
            logrotate(stack, storage, create)
        load.wait_answered(150)
    assert_exactly_once(stack, load)
    assert len(files(stack)) == 3
    storage.stop()


@needs_logrotate
def test_a_log_rotated_while_storage_is_down_is_followed(stack: Stack) -> None:
    pixel = stack.start_pixel()
    storage = stack.start_storage()
    with Load(pixel.port) as load:
        load.wait_answered(150)
        wait_for(lambda: referrers(stack), "lines in the log")
        storage.kill()
        logrotate(stack, None, "create 0640")
        stack.start_storage()
        load.wait_answered(150)
    assert_exactly_once(stack, load)
    assert len(files(stack)) == 2


def test_a_moved_log_pauses_storage_until_the_sighup(stack: Stack) -> None:
    pixel = stack.start_pixel()
    storage = stack.start_storage()
    with Load(pixel.port) as load:
        load.wait_answered(100)
        wait_for(lambda: referrers(stack), "lines in the log")
        stack.log_path.rename(stack.home / "visits.log.old")
        storage.wait_alive(lambda: storage.admin("/readyz").status == 503, "not ready")
        assert "SIGHUP" in storage.readiness()
        assert not stack.log_path.exists()
        os.kill(storage.pid, signal.SIGHUP)
        storage.wait_ready()
    assert_exactly_once(stack, load)


@needs_logrotate
def test_copytruncate_is_detected_and_refused_with_the_reason(stack: Stack) -> None:
    pixel = stack.start_pixel()
    storage = stack.start_storage()
    with Load(pixel.port) as load:
        load.wait_answered(100)
        wait_for(lambda: referrers(stack), "lines in the log")
        logrotate(stack, None, "copytruncate")
        load.wait_answered(100)
    assert storage.wait() == 1
    assert "never `copytruncate`" in storage.output
    behind_the_cut = stack.log_path.read_bytes()  # of the append that was running, if one was
    again = stack.start_storage(ready=False)
    assert again.wait() == 1
    assert "never `copytruncate`" in again.output
    assert stack.log_path.read_bytes() == behind_the_cut
    assert max(referrers(stack).values()) == 1
