"""When `archive.keep_local` removes a closed log, and when it does not."""

import asyncio
import lzma
import os
import shutil
import time
from pathlib import Path

import pytest

from tests.archive.closed import CONFIG, close, line
from tests.fake_aws.s3 import FakeBucket
from tracker.archive.archiver import Archiver, Pass
from tracker.config import ArchiveConfig
from tracker.errors import AwsRefused
from tracker.lifecycle import Backoff
from tracker.visit_log_files import archived_marker

WEEK = 7 * 86_400
CONFIG_OF_A_WEEK = ArchiveConfig(url=CONFIG.url, keep_local=WEEK)


def archive(log: Path, bucket: FakeBucket) -> Pass:
    return asyncio.run(Archiver(log, bucket, CONFIG_OF_A_WEEK, Backoff(0.0, 0.0)).run_once())


def written(log: Path, closed: Path, seconds_ago: float) -> None:
    """The marker of `closed` was written so long ago."""
    at = time.time() - seconds_ago
    os.utime(archived_marker(log, closed), (at, at))


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "visits.log"


def test_a_closed_log_stays_when_the_archive_does_not_have_its_object_any_more(log: Path) -> None:
    gone, there, bucket = close(log, line(1), 13), close(log, line(2), 14), FakeBucket()
    archive(log, bucket)
    for each in (gone, there):
        written(log, each, WEEK + 60)
    key = f"years/date=2026-11-24/{gone.name}.parquet"
    del bucket.objects[key]
    done = archive(log, bucket)
    assert (gone.exists(), there.exists()) == (True, False)
    assert str(gone) in done.problems[0]
    assert key.removeprefix("years/") in done.problems[0]
    assert str(archived_marker(log, gone)) in done.problems[0]
    archived_marker(log, gone).unlink()  # as the problem says
    assert archive(log, bucket) == Pass(archived=1)
    assert key in bucket.objects


class RefusingClock(FakeBucket):
    """S3 sees that the clock of this machine is wrong."""

    async def digest(self, key: str) -> str | None:
        self.calls += 1
        raise AwsRefused("RequestTimeTooSkewed", code="RequestTimeTooSkewed", status=403)


def test_a_clock_that_is_ahead_removes_nothing_because_s3_refuses_it(log: Path) -> None:
    logs = [close(log, line(hour), hour) for hour in (13, 14)]
    archive(log, FakeBucket())
    for each in logs:
        written(log, each, 10 * WEEK)  # which was a minute ago
    bucket = RefusingClock()
    done = archive(log, bucket)
    assert all(each.exists() for each in logs)
    assert bucket.calls == 1
    assert "RequestTimeTooSkewed" in done.problems[0]


@pytest.mark.parametrize("seconds_ago", [0, WEEK - 60, -WEEK, -100 * WEEK])
def test_a_log_is_not_removed_early_when_the_clock_was_put_back(log: Path, seconds_ago: float) -> None:
    closed, bucket = close(log, line(1)), FakeBucket()
    archive(log, bucket)
    written(log, closed, seconds_ago)
    assert archive(log, bucket) == Pass()
    assert closed.exists()


def test_both_forms_of_a_log_are_removed_and_one_that_cannot_be_stops_no_other(log: Path) -> None:
    first, second, bucket = close(log, line(1), 13), close(log, line(2), 14), FakeBucket()
    archive(log, bucket)
    first.unlink()
    first.mkdir()  # which unlink refuses, for root too
    compressed = second.with_name(second.name + ".xz")
    compressed.write_bytes(lzma.compress(line(2)))
    shutil.copystat(second, compressed)  # as the program does when it is complete
    for each in (first, second):
        written(log, each, WEEK + 60)
    done = archive(log, bucket)
    assert (first.exists(), second.exists(), compressed.exists()) == (True, False, False)
    assert str(first) in done.problems[0]
