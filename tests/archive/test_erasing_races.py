"""`tracker erase` beside the archiver and the compressor: no erased line is put, and no log ends in a conflict."""

import asyncio
import gzip
import json
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.archive.closed import archive, close, line, rows
from tests.archive.erased import LINES, OTHERS, PERSON, Erasing, assert_erased
from tests.fake_aws.s3 import FakeBucket
from tracker.archive.archiver import Pass
from tracker.errors import AwsRefused
from tracker.files import open_exclusively, open_shared
from tracker.storage.compressor import compress
from tracker.visit_log_files import archived_marker, archiving_path, compressed_path

VISITS = b"".join(LINES)


def erase_all(log: Path, bucket: FakeBucket, ip: str = PERSON) -> int:
    """Erase in the closed logs, and then in the archive."""
    erasing = Erasing(log, ips=[ip])
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


def test_a_log_whose_archiving_was_interrupted_is_refused_until_the_archiver_has_ended_it(
    log: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    closed, bucket = close(log, VISITS), Expiring(versioned=True)
    assert archive(log, bucket).waiting == 1
    assert len(bucket.objects) == 1
    assert erase_all(log, bucket) == 3
    assert f"{closed}: it is being archived, or that was interrupted" in capsys.readouterr().err
    assert closed.read_bytes() == VISITS
    bucket.expired = False
    assert archive(log, bucket) == Pass(archived=1)
    assert erase_all(log, bucket) == 0
    assert_done(log, bucket)


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
