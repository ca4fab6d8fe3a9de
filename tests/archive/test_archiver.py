"""The archiver: which logs it archives, what it does when S3 fails, and when a closed log may be removed."""

import asyncio
import bz2
import gzip
import json
import lzma
import os
import resource
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import msgspec
import pytest
from backports import zstd

from tests.archive.closed import CONFIG, NOON, archive, close, incompressible, line, numbers
from tests.fake_aws.s3 import FakeBucket, Object
from tests.metrics import value
from tracker import telemetry
from tracker.archive import day_files
from tracker.archive.archiver import Archiver, Pass
from tracker.aws import bucket_and_prefix
from tracker.config import ArchiveConfig
from tracker.errors import AwsRefused, ConfigurationError
from tracker.lifecycle import Backoff
from tracker.storage.ledger import Ledger
from tracker.visit_log_files import archived_marker

AT_ONCE = Backoff(0.0, 0.0)


@pytest.fixture
def log(log: Path) -> Path:
    log.write_bytes(line(99))
    return log


def test_closed_logs_become_objects_and_get_a_marker_and_the_live_log_does_not(log: Path) -> None:
    first, second = close(log, line(1) + line(2), 13), close(log, line(3), 14)
    bucket = FakeBucket()
    assert archive(log, bucket) == Pass(archived=2)
    assert numbers(bucket.objects) == [1, 2, 3]
    assert set(bucket.objects) == {f"years/date=2026-11-24/{closed.name}.parquet" for closed in (first, second)}
    marker = json.loads(archived_marker(log, first).read_text())
    assert marker == {
        "digest": bucket.objects[f"years/{marker['objects'][0]}"].digest, "visits": 2, "malformed": 0,
        "objects": [f"date=2026-11-24/{first.name}.parquet"], "modified_ns": first.stat().st_mtime_ns,
    }  # fmt: skip
    calls = bucket.calls
    assert archive(log, bucket) == Pass()
    assert bucket.calls == calls


def test_a_log_that_is_compressed_after_it_was_archived_is_not_archived_again(log: Path) -> None:
    closed, bucket = close(log, line(1)), FakeBucket()
    archive(log, bucket)
    closed.with_name(closed.name + ".gz").write_bytes(gzip.compress(closed.read_bytes()))
    closed.unlink()
    assert archive(log, bucket) == Pass()
    archived_marker(log, closed).unlink()  # as after a crash before the marker
    assert archive(log, bucket) == Pass(archived=1)
    assert numbers(bucket.objects) == [1]


@pytest.mark.parametrize(
    ("suffix", "compress"),
    [(".gz", gzip.compress), (".xz", lzma.compress), (".bz2", bz2.compress), (".zst", zstd.compress)],
)
def test_a_log_is_archived_once_however_it_is_compressed(
    log: Path, suffix: str, compress: Callable[[bytes], bytes]
) -> None:
    closed, bucket = close(log, line(1)), FakeBucket()
    archive(log, bucket)
    archived_marker(log, closed).unlink()
    closed.with_name(closed.name + suffix).write_bytes(compress(closed.read_bytes()))
    closed.unlink()
    assert archive(log, bucket) == Pass(archived=1)
    assert archive(log, bucket) == Pass()
    assert list(bucket.objects) == [f"years/date=2026-11-24/{closed.name}.parquet"]


def test_the_uncompressed_log_counts_while_its_compression_is_being_written(log: Path) -> None:
    closed, bucket = close(log, line(1)), FakeBucket()
    closed.with_name(closed.name + ".gz").write_bytes(gzip.compress(closed.read_bytes())[:15])
    closed.with_name(closed.name + ".gz.part").write_bytes(b"")
    assert archive(log, bucket) == Pass(archived=1)
    assert numbers(bucket.objects) == [1]


def test_a_name_that_is_reserved_or_not_of_this_log_is_left_alone(log: Path) -> None:
    close(log, b"")
    for name in ("visits.log.torn-20261124T120000.000000Z", "visits.log.old", "other.log.20261124T120000.000000Z"):
        (log.parent / name).write_bytes(line(1))
    assert archive(log, FakeBucket()) == Pass()


@pytest.mark.parametrize("late", [False, True])
def test_whichever_call_to_s3_fails_each_line_is_in_one_object_in_the_end(log: Path, late: bool) -> None:
    content = line(1) + b"odd\n" + line(2) + line(3, NOON.replace(day=25))
    for at in range(1, 100):
        closed, bucket = close(log, content), FakeBucket(at, late=late)
        done = archive(log, bucket)
        assert done == Pass(archived=1)  # it tries again by itself
        assert numbers(bucket.objects) == [1, 2, 3]
        assert len(bucket.objects) == 3
        archived_marker(log, closed).unlink()
        if bucket.calls < at:
            assert at > 6
            return
    raise AssertionError("unreachable")


class Refusing(FakeBucket):
    """S3 refuses everything: the credentials have expired."""

    async def digest(self, key: str) -> str | None:
        self.calls += 1
        raise AwsRefused("ExpiredToken", code="ExpiredToken", status=400)


def test_a_refusal_ends_the_pass_and_leaves_all_logs_waiting(log: Path, caplog: pytest.LogCaptureFixture) -> None:
    closed = [close(log, line(hour), hour) for hour in (13, 14, 15)]
    bucket = Refusing()
    archiver = Archiver(log, bucket, CONFIG, AT_ONCE)
    done = asyncio.run(archiver.run_once())
    assert (done.archived, done.waiting, bucket.calls) == (0, 3, 1)
    assert value(telemetry.ARCHIVE_WAITING) == 3
    assert value(telemetry.ARCHIVE_WORKING) == 0
    assert value(telemetry.ARCHIVE_AGE) > 0
    assert not any(archived_marker(log, each).exists() for each in closed)
    asyncio.run(archiver.run_once())
    assert caplog.text.count("archive_failed") == 1  # the same problem is logged once
    assert archive(log, FakeBucket()) == Pass(archived=3)
    assert value(telemetry.ARCHIVE_WAITING) == value(telemetry.ARCHIVE_AGE) == 0


@pytest.mark.parametrize("digest", ["", "another"])
def test_an_object_with_other_lines_is_an_error_that_names_both_and_stops_no_other_log(log: Path, digest: str) -> None:
    closed, bucket = close(log, line(1), 13), FakeBucket()
    other = close(log, line(2), 14)
    key = f"years/date=2026-11-24/{closed.name}.parquet"
    bucket.objects[key] = Object(b"PAR1", digest)
    done = archive(log, bucket)
    assert (done.archived, done.conflicts, done.waiting) == (1, 1, 1)
    assert str(closed) in done.problems[0]
    assert f"s3://archive/{key}" in done.problems[0]
    assert bucket.objects[key].body == b"PAR1"
    assert not archived_marker(log, closed).exists()
    assert archived_marker(log, other).exists()


def test_an_unreadable_log_stops_no_other_log(log: Path) -> None:
    broken = close(log, gzip.compress(line(1))[:-9], 13)
    broken.rename(broken.with_name(broken.name + ".gz"))
    close(log, line(2), 14)
    bucket = FakeBucket()
    done = archive(log, bucket)
    assert (done.archived, done.waiting) == (1, 1)
    assert broken.name in done.problems[0]
    assert numbers(bucket.objects) == [2]


OTHER_DAY = NOON.replace(day=25)


@pytest.mark.parametrize(
    ("content", "largest"),
    [
        (line(1), 600),  # the end of a Parquet file
        (b"".join(map(incompressible, range(1_000))), 20_000),  # a row group of it
        (b"odd\n" + os.urandom(100_000), 20_000),  # the malformed lines
        (line(1) * 900 + b"".join(line(number, OTHER_DAY) for number in range(900)), 20_000),  # a day that is put aside
    ],
)
def test_when_the_temporary_folder_is_full_the_log_waits_and_the_error_names_the_folder(
    log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, largest: int
) -> None:
    folder, bucket = tmp_path / "temporary", FakeBucket()
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(day_files, "ROW_GROUP", 900)
    monkeypatch.setattr(day_files, "MOST_OPEN", 1)
    closed = close(log, content)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest, limits[1]))
    try:
        done = archive(log, bucket)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (done.archived, done.waiting, bucket.objects) == (0, 1, {})
    assert str(folder) in done.problems[0]
    assert list(folder.iterdir()) == []
    assert archive(log, bucket) == Pass(archived=1)
    assert archived_marker(log, closed).exists()


def test_logs_of_logrotate_are_archived_once_storage_has_left_them(log: Path) -> None:
    rotated = log.rename(log.with_name("visits.log-20261124"))
    log.parent.joinpath("visits.log.d").mkdir()
    with closing(Ledger(log.parent / "visits.log.d/ledger.sqlite")) as ledger:
        ledger.record_log(rotated.stat().st_size, rotated.stat().st_ino)
        bucket = FakeBucket()
        assert archive(log, bucket) == Pass()  # storage has not had its SIGHUP
        log.write_bytes(line(100))
        ledger.record_log(log.stat().st_size, log.stat().st_ino)
        assert archive(log, bucket) == Pass(archived=1)
    assert numbers(bucket.objects) == [99]
    assert archived_marker(log, rotated).exists()


def test_logs_of_logrotate_wait_when_the_ledger_cannot_be_read(log: Path) -> None:
    log.rename(log.with_name("visits.log-20261124"))
    close(log, line(1))
    bucket = FakeBucket()
    done = archive(log, bucket)
    assert "ledger.sqlite" in done.problems[0]
    assert done.waiting == 1
    assert numbers(bucket.objects) == [1]


@pytest.mark.parametrize("name", ["visits.log.1", "visits.log.12.gz"])
def test_a_numbered_name_is_refused_because_it_changes(log: Path, name: str) -> None:
    (log.parent / name).write_bytes(line(1))
    done = archive(log, FakeBucket())
    assert (done.archived, done.waiting) == (0, 1)
    assert "dateext" in done.problems[0]


def test_a_closed_log_is_removed_only_when_it_was_archived_long_ago(log: Path) -> None:
    old, young, waiting = close(log, line(1), 13), close(log, line(2), 14), close(log, line(3), 15)
    bucket = FakeBucket()
    config = ArchiveConfig(url="s3://archive/years", keep_local=7 * 86_400)
    key = f"years/date=2026-11-24/{waiting.name}.parquet"
    bucket.objects[key] = Object(b"", "another")
    archive(log, bucket, config)
    week_ago = time.time() - 7 * 86_400
    os.utime(archived_marker(log, old), (week_ago - 60, week_ago - 60))
    os.utime(archived_marker(log, young), (week_ago + 60, week_ago + 60))
    os.utime(waiting, (0, 0))
    archive(log, bucket, config)
    assert [old.exists(), young.exists(), waiting.exists(), log.exists()] == [False, True, True, True]


@pytest.mark.parametrize("lost", ["all objects", "one object", "the lines"])
def test_a_closed_log_that_s3_does_not_have_any_more_stays_until_the_operator_decides(log: Path, lost: str) -> None:
    closed, bucket = close(log, line(1) + b"odd\n"), FakeBucket()
    config = ArchiveConfig(url="s3://archive/years", keep_local=3600)
    archiver = Archiver(log, bucket, config, AT_ONCE)
    asyncio.run(archiver.run_once())
    marker, malformed = archived_marker(log, closed), f"years/_malformed/{closed.name}.gz"
    if lost == "all objects":  # as when moto, which had the bucket in memory, has ended
        bucket.objects.clear()
    elif lost == "one object":
        del bucket.objects[malformed]
    else:
        bucket.objects[malformed] = Object(b"", "another")
    os.utime(marker, (0, 0))
    for _ in range(2):
        done = asyncio.run(archiver.run_once())
        assert (len(done.problems), done.archived) == (1, 0)
        assert str(marker) in done.problems[0]
        assert closed.exists()
    calls = bucket.calls
    asyncio.run(archiver.run_once())
    assert bucket.calls == calls  # S3 is not asked in each pass

    bucket.objects.clear()
    marker.unlink()
    assert asyncio.run(archiver.run_once()) == Pass(archived=1)
    assert (numbers(bucket.objects), len(bucket.objects)) == ([1], 2)
    os.utime(marker, (1, 1))
    assert asyncio.run(archiver.run_once()) == Pass()
    assert not closed.exists()


def test_nothing_is_removed_while_s3_does_not_answer(log: Path) -> None:
    closed = close(log, line(1))
    config = ArchiveConfig(url="s3://archive/years", keep_local=3600)
    archive(log, FakeBucket(), config)
    os.utime(archived_marker(log, closed), (0, 0))
    done = archive(log, Refusing(), config)
    assert (len(done.problems), done.conflicts) == (1, 0)
    assert closed.exists()
    assert archived_marker(log, closed).exists()


def test_without_a_url_the_configuration_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"archive\.url"):
        bucket_and_prefix(ArchiveConfig())


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("s3://logs", ("logs", "")),
        ("s3://logs/", ("logs", "")),
        ("s3://logs/a/b/", ("logs", "a/b/")),
        ("s3://my.logs/a..b/.c/d=1/(e)*!'", ("my.logs", "a..b/.c/d=1/(e)*!'/")),
        (
            "s3://my-ap-hq3ub5jdu6mqgdjdi7h5cyrn4nfq4use1b-s3alias/x",
            ("my-ap-hq3ub5jdu6mqgdjdi7h5cyrn4nfq4use1b-s3alias", "x/"),
        ),
    ],
)
def test_the_url_names_the_bucket_and_the_prefix(url: str, expected: tuple[str, str]) -> None:
    assert bucket_and_prefix(msgspec.convert({"url": url}, ArchiveConfig)) == expected
