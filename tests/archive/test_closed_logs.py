"""What the archiver makes of the files beside a log: odd ones, damaged markers, logs that are no closed logs yet."""

import asyncio
import errno
import gzip
import itertools
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.archive.closed import CONFIG, archive, close, line, numbers
from tests.fake_aws.s3 import FakeBucket
from tests.metrics import value
from tracker import telemetry
from tracker.archive.archiver import Archiver, Pass
from tracker.archive_marker import Marker, is_archived, write_marker
from tracker.config import ArchiveConfig
from tracker.files import take_lock
from tracker.visit_log_files import (
    archived_directory,
    archived_marker,
    archiver_lock_path,
    archiving_path,
    is_compressed,
)

REMOVING = ArchiveConfig(url=CONFIG.url, keep_local=0)


@pytest.fixture
def log(log: Path) -> Path:
    log.write_bytes(line(99))
    return log


ODD: dict[str, Callable[[Path], object]] = {
    "directory": Path.mkdir,
    "pipe": os.mkfifo,
    "link to the live log": lambda name: name.symlink_to("visits.log"),
    "link to a closed log": lambda name: name.symlink_to("visits.log.20261124T140000.000000Z"),
    "link to nothing": lambda name: name.symlink_to("nothing"),
}


@pytest.mark.parametrize("make", ODD.values(), ids=ODD)
def test_what_has_the_name_of_a_closed_log_and_is_no_file_is_named_and_stops_nothing(
    log: Path, make: Callable[[Path], object]
) -> None:
    odd, bucket = log.with_name("visits.log.20261124T130000.000000Z"), FakeBucket()
    make(odd)
    close(log, line(1), 14)
    done = archive(log, bucket)
    assert (done.archived, numbers(bucket.objects)) == (1, [1])
    assert done.problems == [f"{odd}: expected a regular file, it is a link, a directory, a pipe or a device"]
    assert archive(log, bucket, REMOVING).problems == done.problems
    assert os.path.lexists(odd)


DAMAGED = [
    b"",
    b"{}",
    b"\0" * 300,
    b'{"digest":"',
    b'{"digest":"","visits":1,"malformed":0,"objects":[]}',
    b"\xff",
    b"[]",
]


@pytest.mark.parametrize("content", DAMAGED, ids=range(len(DAMAGED)))
def test_a_damaged_marker_does_not_count_and_is_written_again(log: Path, content: bytes) -> None:
    closed, bucket = close(log, line(1)), FakeBucket()
    marker = archived_marker(log, closed)
    marker.parent.mkdir(parents=True)
    marker.write_bytes(content)
    assert not is_archived(log, closed)
    assert archive(log, bucket, REMOVING) == Pass(archived=1)
    assert numbers(bucket.objects) == [1]
    assert is_archived(log, closed)


def test_a_pipe_in_the_place_of_a_marker_is_replaced_and_a_directory_is_named(log: Path) -> None:
    first, second, bucket = close(log, line(1), 13), close(log, line(2), 14), FakeBucket()
    archived_directory(log).mkdir(parents=True)
    os.mkfifo(archived_marker(log, first))
    archived_marker(log, second).mkdir()
    assert not is_archived(log, first)
    assert not is_archived(log, second)
    done = archive(log, bucket)
    assert (done.archived, done.waiting) == (1, 1)
    assert str(archived_marker(log, second)) in done.problems[0]
    assert is_archived(log, first)


def test_a_marker_of_another_name_removes_nothing(log: Path) -> None:
    others = [log, log.with_name("visits.log.old"), log.with_name("visits.log.1")]
    archived_directory(log).mkdir(parents=True)
    for other in others:
        other.write_bytes(line(1))
        write_marker(archived_directory(log) / other.name, Marker("0" * 64, 1, 0, [], other.stat().st_mtime_ns))
    archive(log, FakeBucket(), REMOVING)
    assert all(other.exists() for other in others)


def test_what_is_archived_survives_a_copy_without_times_and_owners(log: Path, tmp_path: Path) -> None:
    closed, bucket = close(log, line(1)), FakeBucket()
    archive(log, bucket)
    restored = tmp_path / "restored"
    for file in (closed, archived_marker(log, closed)):
        copy = restored / file.relative_to(log.parent)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(file.read_bytes())
    calls = bucket.calls
    assert not is_archived(restored / log.name, restored / closed.name)  # its lines have not been looked at yet
    assert archive(restored / log.name, bucket) == Pass()
    assert bucket.calls == calls
    assert is_archived(restored / log.name, restored / closed.name)


def test_another_log_with_the_name_of_an_archived_one_is_named_and_stays(log: Path) -> None:
    """As logrotate makes it whose names have no time: it is asked for a second rotation on a day."""
    closed, bucket = close(log, line(1)), FakeBucket()
    archive(log, bucket, REMOVING)
    closed.unlink()
    os.utime(archived_marker(log, closed), (0, 0))  # long ago
    for name in (closed.name, f"{closed.name}.gz"):
        other = closed.with_name(name)
        other.write_bytes(gzip.compress(line(2)) if is_compressed(other) else line(2))
        os.utime(other, (5e8, 5e8))
        calls = bucket.calls
        archiver = Archiver(log, bucket, REMOVING)
        for _ in range(2):
            done = asyncio.run(archiver.run_once())
            assert (done.archived, done.waiting, bucket.calls) == (0, 1, calls)
            assert done.problems == [
                f"{other} is not archived: a log with this name and other lines was archived before. "
                "Give this one a name with another time"
            ]
        assert value(telemetry.ARCHIVE_WAITING) == 1
        assert value(telemetry.ARCHIVE_AGE) > 3_600
        other.unlink()
    close(log, line(2), 14)
    archive(log, bucket, CONFIG)
    assert numbers(bucket.objects) == [1, 2]


def test_a_log_that_takes_the_place_of_an_archived_one_between_two_passes_is_noticed(log: Path) -> None:
    closed, bucket = close(log, line(1)), FakeBucket()
    archiver = Archiver(log, bucket, CONFIG)
    for expected in (Pass(archived=1), Pass()):
        assert asyncio.run(archiver.run_once()) == expected
    closed.unlink()
    close(log, line(2))
    assert "a log with this name and other lines was archived before" in asyncio.run(archiver.run_once()).problems[0]


def test_a_copy_of_an_archived_log_that_is_damaged_is_named_and_stays(log: Path) -> None:
    closed, bucket = close(log, line(1)), FakeBucket()
    archive(log, bucket)
    closed.unlink()
    copy = closed.with_name(f"{closed.name}.gz")
    copy.write_bytes(gzip.compress(line(1))[:-5])
    os.utime(copy, (5e8, 5e8))
    os.utime(archived_marker(log, closed), (0, 0))
    done = archive(log, bucket, REMOVING)
    assert f"{copy}: cannot be read" in done.problems[0]
    assert copy.exists()


def test_a_folder_without_the_log_is_a_failure_and_stays_one(tmp_path: Path) -> None:
    """A wrong path, or a volume that is not mounted, must not look as if everything was archived."""
    (tmp_path / "empty").mkdir()
    for folder in ("empty", "missing"):
        log = tmp_path / folder / "visits.log"
        for _ in range(2):
            [problem] = archive(log, FakeBucket()).problems
            assert str(log.parent) in problem
    assert list(tmp_path.rglob("*")) == [tmp_path / "empty"]


def test_only_one_archiver_works_on_a_log(log: Path) -> None:
    close(log, line(1))
    archived_directory(log).mkdir(parents=True)
    lock = take_lock(archiver_lock_path(log), "test")
    bucket = FakeBucket()
    try:
        done = archive(log, bucket)
    finally:
        os.close(lock)
    assert f"another archiver works on this log: process {os.getpid()}" in done.problems[0]
    assert bucket.calls == 0
    assert archive(log, bucket) == Pass(archived=1)


CHANGES: dict[str, Callable[[Path], object]] = {
    "grows": lambda file: os.truncate(file, 1000),
    "is cut": lambda file: os.truncate(file, len(line(0))),
    "is replaced": lambda file: (file.with_name("new").write_bytes(line(8)), file.with_name("new").rename(file)),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_log_that_changes_while_it_is_read_waits_until_it_is_closed(
    log: Path, change: Callable[[Path], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    closed, bucket = close(log, b"".join(map(line, range(3)))), FakeBucket()
    real, looks = os.fstat, itertools.count(1)

    def fstat(descriptor: int) -> os.stat_result:
        """The file changes behind the archiver's second look at it: at the first, it has only locked it."""
        status = real(descriptor)
        if os.path.samestat(status, closed.stat()) and next(looks) == 2:
            change(closed)
        return status

    with monkeypatch.context() as patch:
        patch.setattr(os, "fstat", fstat)
        done = archive(log, bucket)
    assert (done.archived, done.waiting, bucket.objects) == (0, 1, {})
    assert "changed or replaced" in done.problems[0]
    assert archive(log, bucket) == Pass(archived=1)
    assert len(numbers(bucket.objects)) == closed.read_bytes().count(b"\n")


@pytest.fixture
def unprivileged() -> Iterator[Path]:
    """A folder of this user, who is not root as long as the fixture lasts: root may read and write everything."""
    nobody = 65_534
    folder = Path(tempfile.mkdtemp())
    user = os.geteuid()
    if user == 0:
        os.chown(folder, nobody, nobody)
        os.seteuid(nobody)
    try:
        yield folder
    finally:
        os.seteuid(user)
        for each in folder.rglob("*"):
            each.chmod(0o700)
        shutil.rmtree(folder)


def test_a_log_that_may_not_be_read_holds_up_no_other(unprivileged: Path) -> None:
    log, bucket = unprivileged / "visits.log", FakeBucket()
    secret, _ = close(log, line(1), 13), close(log, line(2), 14)
    secret.chmod(0)
    done = archive(log, bucket)
    assert (done.archived, done.waiting, numbers(bucket.objects)) == (1, 1, [2])
    assert f"Permission denied: '{secret}'" in done.problems[0]


def test_a_log_folder_that_may_only_be_read_is_enough_but_for_a_removal(unprivileged: Path) -> None:
    log, bucket = unprivileged / "visits.log", FakeBucket()
    first, second = close(log, line(1), 13), close(log, line(2), 14)
    archived_directory(log).mkdir(parents=True)
    unprivileged.chmod(0o500)
    assert archive(log, bucket) == Pass(archived=2)
    done = archive(log, bucket, REMOVING)
    assert done.problems == [f"{each} cannot be removed: Permission denied" for each in (first, second)]
    archived_directory(log).chmod(0o500)
    archiver_lock_path(log).chmod(0o400)
    assert str(archiver_lock_path(log)) in archive(log, bucket).problems[0]
    assert bucket.calls == 6 + 2  # the last pass asks nothing


def test_the_disk_of_the_markers_is_full(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next log would have no marker either: it is not archived in vain, again in each pass."""
    first, bucket = close(log, line(1), 13), FakeBucket()
    close(log, line(2), 14)
    archived_directory(log).mkdir(parents=True)

    def fsync(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        patch.setattr("tracker.archive.closed_logs.sync_directory", lambda path: None)
        done = archive(log, bucket)
    assert (done.archived, done.waiting, bucket.objects) == (0, 2, {})
    assert done.problems == [f"{archiving_path(log, first)}: the marker cannot be written: No space left on device"]
    assert archive(log, bucket) == Pass(archived=2)
