"""The archive of `make run`: closed logs become objects of a bucket that ends with the run."""

import itertools
import os
import signal
import subprocess
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.system.processes import left_behind, run
from tests.system.wire import wait_for
from tracker.local import local_archive
from tracker.local.plan import Options, Plan
from tracker.visit_log_files import archived_directory, archived_marker, closed_logs

from .running import System

pytest.importorskip("moto", reason="the local broker is moto")


def visit_until_closed(system: System, closed: int) -> None:
    """Visit one page after the other, until there are so many closed logs."""
    visits = itertools.count()

    def closed_one_more() -> bool:
        system.hit(f"https://example.com/{next(visits)}/{'x' * 200}")
        return len(closed_logs(system.log)) >= closed

    wait_for(closed_one_more, f"{closed} closed logs")


def lines_of_logs(system: System) -> list[tuple[str, int]]:
    """The names of the closed logs with the numbers of their lines."""
    lines = [(file.name, len(file.read_text().splitlines())) for file in closed_logs(system.log)]
    return [(name, number) for name, count in lines for number in range(1, count + 1)]


def lines_of_bucket(system: System, name: str, *, reported: bool) -> list[tuple[str, int]]:
    """The same of the bucket `name`, by a command that the run has printed; with `reported` the next one works, too."""
    copy, report = (line.strip() for line in system.output.splitlines() if line.strip().endswith("var/archive"))
    for command in (copy, report) if reported else (copy,):
        done = subprocess.run(command, shell=True, cwd=system.folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    files = (system.folder / "var/archive" / name).rglob("*.parquet")
    tables = [pq.read_table(file, partitioning=None, columns=["log", "line"]) for file in files]
    return sorted((row["log"], row["line"]) for table in tables for row in table.to_pylist())


def wait_archived(system: System) -> None:
    wait_for(
        lambda: all(archived_marker(system.log, file).exists() for file in closed_logs(system.log)),
        "every closed log is archived",
    )


def test_closed_logs_appear_in_a_local_bucket_which_each_run_fills_anew_and_none_is_removed(system: System) -> None:
    system.start("--archive")
    assert "s3://tracker-archive/visits" in system.output
    assert f"http://127.0.0.1:{system.archive_port}/readyz" in system.output
    visit_until_closed(system, 2)
    wait_archived(system)
    assert lines_of_bucket(system, "tracker-archive", reported=True) == lines_of_logs(system)
    first = closed_logs(system.log)
    markers = {path: path.read_bytes() for path in archived_directory(system.log).iterdir()}

    os.kill(system.parts()["archive"], signal.SIGKILL)
    assert system.process.wait() == 1
    assert "error: archive was killed by SIGKILL" in system.output
    assert left_behind(system.folder) == []

    # The bucket has ended with the broker. When the runner is killed, the markers stay: they say that lines are safe
    # that are on this disk only.
    archived_directory(system.log).mkdir(exist_ok=True)
    for path, content in markers.items():
        path.write_bytes(content)
    system.configure_storage(", log: {rotate: {max_bytes: 1000, keep: 1}}, archive: {url: 's3://own/p', keep_local: 0}")
    system.start()
    visit_until_closed(system, len(first) + 1)
    wait_archived(system)
    assert lines_of_bucket(system, "own", reported=False) == lines_of_logs(system)
    assert system.stop() == 0, system.output
    assert "stopping: pixel, storage once the queue is empty, archive, broker" in system.output
    assert not archived_directory(system.log).exists()
    assert set(first) < set(closed_logs(system.log))


def plan(folder: Path, storage: str, *, archive: bool) -> Plan:
    (folder / "pixel.yaml").write_text("sns: {topic_arn: 'arn:aws:sns:us-east-1:000000000000:tracking'}")
    (folder / "storage.yaml").write_text(storage)
    return Plan(
        Options(
            pixel_config=folder / "pixel.yaml",
            storage_config=folder / "storage.yaml",
            broker_port=4566,
            demo_port=8000,
            archive_port=8083,
            archive=archive,
            port_offset=0,
        ),
        {},
    )


def test_without_being_asked_for_there_is_no_archive(tmp_path: Path) -> None:
    made = plan(tmp_path, "sqs: {queue: visits}", archive=False)
    assert (made.bucket, made.archive_admin_url, made.storage.log.rotate.max_bytes) == (None, None, None)
    assert len(made.ports()) == 5


@pytest.mark.parametrize(
    ("storage", "url", "max_bytes"),
    [
        ("sqs: {queue: visits}", local_archive.URL, local_archive.MAX_BYTES),
        ("{sqs: {queue: visits}, log: {rotate: {every: hour, keep: 3}}}", local_archive.URL, None),
        ("{sqs: {queue: visits}, log: {rotate: {max_bytes: 5MB}}}", local_archive.URL, 5_000_000),
        ("{sqs: {queue: visits}, archive: {url: 's3://a-b/c', keep_local: 7d, region: eu-west-1}}", "s3://a-b/c", 1000),
    ],
)
def test_the_archive_is_local_and_nothing_is_removed_after_it(
    tmp_path: Path, storage: str, url: str, max_bytes: int | None
) -> None:
    made = plan(tmp_path, storage, archive=True)
    assert (made.storage.archive.url, made.storage.log.rotate.max_bytes) == (url, max_bytes)
    assert (made.storage.archive.endpoint_url, made.storage.archive.region) == ("http://127.0.0.1:4566", "us-east-1")
    assert (made.storage.archive.keep_local, made.storage.log.rotate.keep) == (None, None)
    assert [needed.port for needed in made.ports()][-1] == 8083


def test_a_copy_without_a_local_broker_says_how_to_start_one(free_port: int, tmp_path: Path) -> None:
    done = run("tracker.local", "copy", "--port", str(free_port), "archive", home=tmp_path)
    assert done.returncode == 1
    assert "make run ARGS=--archive" in done.stderr
    assert "Traceback" not in done.stderr
