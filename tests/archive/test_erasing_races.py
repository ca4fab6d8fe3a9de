"""`tracker erase` beside the archiver and the compressor: no erased line is put, and no log ends in a conflict."""

import asyncio
import gzip
import json
import os
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.archive.closed import archive, close, line, rows
from tests.archive.erased import LINES, OTHERS, PERSON, Erasing, assert_erased, copy_of
from tests.archive.test_erasing import Dying
from tests.fake_aws.s3 import FakeBucket
from tracker.archive.archiver import Pass
from tracker.errors import AwsRefused
from tracker.files import open_exclusively, open_shared
from tracker.storage.compressor import compress
from tracker.visit_log_files import archived_marker, archiver_lock_path, archiving_path, compressed_path

VISITS = b"".join(LINES)


def erase_all(log: Path, bucket: FakeBucket, ip: str = PERSON) -> int:
    """Erase in the closed logs, and then in the archive."""
    erasing = Erasing(log, ips=[ip], bucket=bucket)
    erasing.logs.erase()
    return erasing.run(bucket)


def assert_done(log: Path, bucket: FakeBucket) -> None:
    """The archiver has nothing to do, and each other line is in the archive once, with its number."""
    assert archive(log, bucket).problems == []
    assert_erased(bucket.store)
    assert sorted(number for _, number, _ in rows(bucket.objects)) == [number + 1 for number in OTHERS]


def test_the_archiver_finds_a_log_done_that_was_erased_after_it_was_archived_even_without_its_marker(log: Path) -> None:
    second = "198.51.100.9"
    closed, bucket = close(log, VISITS + line(20, ip=second)), FakeBucket(versioned=True)
    archive(log, bucket)
    for ip in (PERSON, second):
        assert erase_all(log, bucket, ip) == 0
        archived_marker(log, closed).unlink()
        assert archive(log, bucket) == Pass(archived=1)
        assert_erased(bucket.store, ip)
        digest = json.loads(archived_marker(log, closed).read_text())["digest"]
        assert {each.digest for each in bucket.objects.values()} == {digest}
    closed.write_bytes(closed.read_bytes() + line(21))
    archived_marker(log, closed).unlink()
    assert archive(log, bucket).conflicts == 1  # but a log with another line is another log


class Expiring(FakeBucket):
    """The credentials of the archiver expire after its first put."""

    expired = True

    async def digest(self, key: str) -> str | None:
        if self.expired and self.objects:
            raise AwsRefused("ExpiredToken", code="ExpiredToken", status=400)
        return await super().digest(key)


KEPT = [1, 2, 3, 4, 5, 6]
"""The numbers of the lines of a log that is archived after its erasure."""


def interrupted(log: Path) -> tuple[Path, Expiring]:
    """A closed log of which the archive has one of two objects."""
    closed, bucket = close(log, VISITS), Expiring(versioned=True)
    assert archive(log, bucket).waiting == 1
    assert len(bucket.objects) == 1
    bucket.expired = False
    return closed, bucket


def test_a_log_whose_archiving_was_interrupted_is_erased_and_archived_from_the_beginning(log: Path) -> None:
    closed, bucket = interrupted(log)
    assert erase_all(log, bucket) == 0
    assert closed.read_bytes() == b"".join(LINES[number] for number in OTHERS)
    assert bucket.store.versions() == []  # one that stays would have numbers of lines that the next ones have too
    assert archive(log, bucket) == Pass(archived=1)
    assert_erased(bucket.store)
    assert sorted(number for _, number, _ in rows(bucket.objects)) == KEPT
    assert erase_all(log, bucket) == 0
    assert archive(log, bucket).problems == []


def test_a_log_whose_archiving_cannot_end_is_erased_and_the_objects_of_others_stay(log: Path) -> None:
    """The second of its objects has the lines of another log with this name."""
    closed, bucket = close(log, VISITS), FakeBucket(versioned=True)
    archive(log, bucket)
    key, mine = max((key, each) for key, each in bucket.objects.items())
    archived_marker(log, closed).unlink()
    bucket.objects.clear()
    bucket.store.put(key, mine.body, "of another log")
    assert archive(log, bucket).conflicts == 1
    assert len(bucket.objects) == 2
    assert erase_all(log, bucket) == 0
    assert PERSON.encode() not in closed.read_bytes()
    assert_erased(bucket.store)
    assert [each.digest for each in bucket.objects.values()] == ["of another log"]
    assert archive(log, bucket).conflicts == 1  # as before
    assert not archived_marker(log, closed).exists()
    bucket.store.delete(key, bucket.objects[key].version)
    assert archive(log, bucket) == Pass(archived=1)
    assert sorted(number for _, number, _ in rows(bucket.objects)) == KEPT


@pytest.mark.parametrize("copied", [False, True])
def test_no_object_of_a_log_that_is_archived_is_taken_back(log: Path, copied: bool) -> None:
    """A marker that was being written again when the process ended leaves a part beside it."""
    closed, bucket = close(log, VISITS), FakeBucket(versioned=True)
    archive(log, bucket)
    archiving_path(log, closed).touch()
    if copied:
        os.utime(closed, (5e8, 5e8))  # without its time, so that the marker is not for it, as far as one can see
    assert erase_all(log, bucket) == 0
    assert closed.read_bytes() == b"".join(LINES[number] for number in OTHERS)
    assert_done(log, bucket)


def test_no_object_is_taken_back_when_the_archiver_ends_before_its_lock_is_taken(
    log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed, bucket = close(log, VISITS), FakeBucket(versioned=True)
    archive(log, bucket)
    archived_marker(log, closed).rename(archiving_path(log, closed))

    def wait_for_the_archiver(file: Path) -> AbstractContextManager[Any]:
        if file == archiver_lock_path(log):
            archiving_path(log, closed).rename(archived_marker(log, closed))  # the last that the archiver does
        return open_exclusively(file)

    monkeypatch.setattr("tracker.storage.log_erasure.open_exclusively", wait_for_the_archiver)
    assert erase_all(log, bucket) == 0
    assert_done(log, bucket)


def test_a_log_without_such_lines_is_not_touched_however_far_its_archiving_is(log: Path) -> None:
    closed, bucket = interrupted(log)
    before = bucket.store.versions()
    assert erase_all(log, bucket, "198.51.100.9") == 0
    assert (closed.read_bytes(), bucket.store.versions()) == (VISITS, before)
    assert archive(log, bucket) == Pass(archived=1)
    assert sorted(number for _, number, _ in rows(bucket.objects)) == list(range(1, 10))


@pytest.mark.parametrize("late", [False, True])
def test_whichever_call_fails_while_objects_are_taken_back_no_line_is_lost(log: Path, late: bool) -> None:
    closed, original = interrupted(log)
    begun = archiving_path(log, closed)
    for at in range(1, 30):
        closed.write_bytes(VISITS)
        archived_marker(log, closed).unlink(missing_ok=True)
        begun.touch()
        bucket = copy_of(original, Dying(at, late=late, versioned=True))
        died = True
        with suppress(KeyboardInterrupt):
            erase_all(log, bucket)
            died = False
        bucket.at = 0
        assert erase_all(log, bucket) == 0
        assert archive(log, bucket) == Pass(archived=1)
        assert_erased(bucket.store)
        assert sorted(number for _, number, _ in rows(bucket.objects)) == KEPT
        if not died:
            assert at > 3
            return
    raise AssertionError("unreachable")


def test_a_log_is_refused_while_its_objects_cannot_be_taken_back(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    closed, bucket = interrupted(log)
    with open_exclusively(archiver_lock_path(log)):  # as the archiver has it
        assert erase_all(log, bucket) == 3
    assert f"{closed}: it is being archived: give this command again" in capsys.readouterr().err
    erasing = Erasing(log)
    erasing.logs.erase()
    assert f"{closed}: its archiving was begun, and archive.url does not say where" in capsys.readouterr().err
    archiver_lock_path(log).unlink()
    assert erase_all(log, bucket) == 3
    assert "cannot be locked: No such file or directory" in capsys.readouterr().err
    assert closed.read_bytes() == VISITS


class Interleaved(FakeBucket):
    """Does something else before each call of the archiver to S3."""

    def __init__(self, do: Callable[["Interleaved"], object]) -> None:
        super().__init__(versioned=True)
        self._do = do

    async def digest(self, key: str) -> str | None:
        await asyncio.to_thread(self._do, self)
        return await super().digest(key)

    async def put(self, key: str, file: Path, digest: str) -> None:
        await asyncio.to_thread(self._do, self)
        await super().put(key, file, digest)


def test_an_erasure_at_any_moment_of_the_archiving_leaves_nothing_of_the_person_after_the_next_one(log: Path) -> None:
    closed = close(log, VISITS)
    bucket = Interleaved(lambda bucket: erase_all(log, bucket))
    assert archive(log, bucket) == Pass(archived=1)
    assert closed.read_bytes() == VISITS
    assert erase_all(log, bucket) == 0
    assert_done(log, bucket)


def test_a_log_that_is_compressed_while_it_is_archived_is_refused_too(log: Path) -> None:
    closed = close(log, VISITS)

    def compress_and_erase(bucket: FakeBucket) -> None:
        if closed.exists():
            compress(closed, threading.Event())
        assert erase_all(log, bucket) == 3

    bucket = Interleaved(compress_and_erase)
    assert archive(log, bucket) == Pass(archived=1)
    assert erase_all(log, bucket) == 0
    assert_done(log, bucket)
    assert gzip.decompress(compressed_path(closed).read_bytes()) == b"".join(LINES[number] for number in OTHERS)


def test_the_archiver_leaves_a_log_alone_that_an_erasure_works_on_and_shares_it_with_the_compressor(log: Path) -> None:
    closed, bucket = close(log, VISITS), FakeBucket()
    with open_exclusively(closed):
        done = archive(log, bucket)
    assert (done.archived, done.waiting, bucket.calls) == (0, 1, 0)
    assert f"another process works on {closed}" in done.problems[0]
    assert not archiving_path(log, closed).exists()
    with open_shared(closed):  # as the compressor has it
        assert archive(log, bucket) == Pass(archived=1)
        compress(closed, threading.Event())
    assert compressed_path(closed).exists()


def test_a_log_that_is_erased_before_it_is_archived_is_archived_without_the_lines(log: Path) -> None:
    close(log, VISITS)
    bucket = FakeBucket(versioned=True)
    assert erase_all(log, bucket) == 0
    assert archive(log, bucket) == Pass(archived=1)
    assert_erased(bucket.store)
    assert sorted(number for _, number, _ in rows(bucket.objects)) == [1, 2, 3, 4, 5, 6]
