"""`tracker erase` in the archive: the lines leave every version of every object, and nothing else changes."""

import asyncio
import gzip
import io
import json
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.archive.closed import NOON, archive, close, line, rows
from tests.archive.erased import (
    LINES,
    MALFORMED,
    OTHERS,
    PERSON,
    SHORT,
    Erasing,
    archived,
    assert_erased,
    columns,
    copy_of,
    erase,
)
from tests.fake_aws.s3 import FakeBucket
from tests.fake_aws.s3_store import Parts, Store
from tracker.archive.archiver import Pass
from tracker.aws.object_settings import Held
from tracker.aws.versions import Version, VersionsPage
from tracker.core.log_line import MAX_LOG_LINE_BYTES, format_line
from tracker.core.visit import Visit
from tracker.errors import AwsRefused, AwsUnreachable
from tracker.visit_log_files import archived_marker, erased_log_path


@pytest.mark.parametrize("versioned", [True, False])
def test_the_lines_leave_every_object_and_all_others_stay_as_they_were(log: Path, versioned: bool) -> None:
    bucket = archived(log, versioned=versioned)
    before, columns_before = rows(bucket.objects), columns(bucket)
    kept = {key: each.digest for key, each in bucket.objects.items()}
    assert erase(log, bucket) == 0
    assert_erased(bucket.store)
    assert rows(bucket.objects) == [row for row in before if row[2].ip != PERSON]
    assert [number for _, number, _ in rows(bucket.objects)] == [number + 1 for number in OTHERS]
    assert columns(bucket) == columns_before
    assert {key: each.digest for key, each in bucket.objects.items()} == kept
    [malformed] = [each.body for key, each in bucket.objects.items() if "_malformed" in key]
    assert gzip.decompress(malformed) == b"11 odd\n"
    assert len(bucket.store.versions()) == 3  # the older versions are gone


def test_objects_without_such_lines_are_read_once_and_not_rewritten(log: Path) -> None:
    bucket = archived(log)
    before = bucket.store.versions()
    assert erase(log, bucket, ips=["198.51.100.0/24"]) == 0
    assert bucket.store.versions() == before
    assert not erased_log_path(log).exists()


def test_each_change_has_its_entry_without_the_persons_data(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bucket = archived(log)
    assert erase(log, bucket) == 0
    text = erased_log_path(log).read_text()
    assert PERSON not in text
    entries = [json.loads(each) for each in text.splitlines()]
    urls = {f"s3://archive/{key}" for key in bucket.objects}
    assert {each["file"] for each in entries if "versionId" not in each["file"]} == urls
    assert {each["file"].partition("?versionId=")[0] for each in entries} == urls
    said = capsys.readouterr().out
    assert f"{min(urls)}: 2 of 3 lines erased (2 by ip)" in said
    assert said.count("\n") == 3  # the version that was replaced is not counted again


def test_an_object_of_which_all_lines_go_stays_empty_and_is_not_put_again(log: Path) -> None:
    closed, bucket = close(log, line(1, ip=PERSON)), FakeBucket(versioned=True)
    archive(log, bucket)
    before = columns(bucket)
    assert erase(log, bucket) == 0
    assert rows(bucket.objects) == []
    assert columns(bucket) == before
    archived_marker(log, closed).unlink()
    assert archive(log, bucket) == Pass(archived=1)  # it finds the digest of the log as it was
    assert rows(bucket.objects) == []


def test_no_version_of_a_replaced_or_deleted_object_keeps_the_lines(
    log: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bucket = archived(log)
    replaced, deleted = sorted(key for key in bucket.objects if key.endswith(".parquet"))
    old = bucket.objects[replaced]
    bucket.store.put(replaced, old.body, old.digest)
    bucket.store.put(replaced, old.body, "")
    bucket.store.mark_deleted(deleted)
    assert erase(log, bucket) == 0
    assert_erased(bucket.store)
    assert [number for _, number, _ in rows(bucket.objects)] == [1, 3, 4, 6]
    assert deleted not in bucket.objects
    said = capsys.readouterr().out
    assert f"{replaced}: 2 of 6 lines erased (2 by ip)" in said
    assert f"{replaced}?versionId={old.version}: 2 of 6 lines erased; the whole older version was deleted" in said


def test_a_bucket_whose_versioning_is_suspended_keeps_no_version_either(log: Path) -> None:
    bucket = archived(log)
    bucket.store.versioned = False
    before = rows(bucket.objects)
    assert erase(log, bucket) == 0
    assert_erased(bucket.store)
    assert rows(bucket.objects) == [row for row in before if row[2].ip != PERSON]
    assert {each.version for _, each, _ in bucket.store.versions()} == {"null"}


@pytest.mark.slow
@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("versioned", [True, False])
def test_whichever_call_fails_the_erasure_goes_on_by_itself(log: Path, late: bool, versioned: bool) -> None:
    original = archived(log, SHORT)
    for at in range(1, 100):
        bucket = copy_of(original, FakeBucket(at, late=late, versioned=versioned))
        assert erase(log, bucket) == 0
        assert_erased(bucket.store)
        assert [number for _, number, _ in rows(bucket.objects)] == [1]
        if bucket.calls < at:
            assert at > 10
            return
    raise AssertionError("unreachable")


class Dying(FakeBucket):
    """The process is killed at the call number `at`, before its work or after it (`late`)."""

    def _begin(self) -> None:
        self.calls += 1
        if self.calls == self.at and not self.late:
            raise KeyboardInterrupt

    def _end(self) -> None:
        if self.calls == self.at and self.late:
            raise KeyboardInterrupt


@pytest.mark.slow
@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("versioned", [True, False])
def test_whichever_call_is_the_last_the_next_erasure_ends_it(log: Path, late: bool, versioned: bool) -> None:
    original = archived(log, SHORT)
    for at in range(1, 100):
        bucket = copy_of(original, Dying(at, late=late, versioned=versioned))
        with suppress(KeyboardInterrupt):
            erase(log, bucket)
        assert [number for _, number, visit in rows(bucket.objects) if visit.ip != PERSON] == [1]
        if bucket.calls < at:
            assert at > 10
            return
        assert erase(log, bucket) == 0
        assert_erased(bucket.store)
        assert [number for _, number, _ in rows(bucket.objects)] == [1]
    raise AssertionError("unreachable")


class Changing(FakeBucket):
    """Somebody else does `change` with each object, so many `times`, between its reading and its replacement."""

    def __init__(self, change: Callable[[Store, str], object], times: int = 1) -> None:
        super().__init__(versioned=True)
        self._change = change
        self._times = times

    async def replace(self, version: Version, file: Path, held: Held) -> str | None:
        if self._times:
            self._times -= 1
            self._change(self.store, version.key)
        return await super().replace(version, file, held)


def add_rows(store: Store, key: str) -> None:
    """Replace an object by one with another row of the person and one of somebody else, as a repair may do."""
    old = pq.read_table(io.BytesIO(store.objects[key].body))
    more = pa.Table.from_pylist(
        [{**old.to_pylist()[0], "line": number, "ip": ip} for number, ip in ((7, PERSON), (8, "192.0.2.8"))], old.schema
    )
    body = io.BytesIO()
    pq.write_table(pa.concat_tables([old, more]), body)
    store.put(key, body.getvalue(), store.objects[key].digest)


def test_an_object_that_somebody_replaces_meanwhile_is_read_again_and_loses_nothing_else(log: Path) -> None:
    bucket = copy_of(archived(log, LINES[0] + LINES[1]), Changing(add_rows))
    assert erase(log, bucket) == 0
    assert_erased(bucket.store)
    assert sorted(number for _, number, _ in rows(bucket.objects)) == [1, 8]


def test_an_object_that_somebody_deletes_meanwhile_stays_deleted(log: Path) -> None:
    bucket = copy_of(archived(log, LINES[0] + LINES[1]), Changing(Store.mark_deleted))
    assert erase(log, bucket) == 0
    assert_erased(bucket.store)
    assert bucket.objects == {}


def test_an_object_that_changes_each_time_is_named_and_the_others_are_done(
    log: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bucket = copy_of(archived(log, LINES[0] + LINES[1] + LINES[7]), Changing(add_rows, times=10))
    assert erase(log, bucket) == 3
    [first, second] = sorted(bucket.objects)
    # No version is deleted before the current one has none of the lines.
    assert len(bucket.store.older[first]) == 10
    assert f"s3://archive/{first}: something of it was changed" in capsys.readouterr().err
    assert PERSON not in [visit.ip for _, _, visit in rows({second: bucket.objects[second]})]


def test_two_erasures_at_the_same_time_erase_what_both_have_selected(log: Path) -> None:
    bucket = archived(log)
    second = line(40, ip="198.51.100.9")
    archive(log, bucket), close(log, second + LINES[0] + LINES[1], 15)
    archive(log, bucket)

    async def both() -> None:
        erasings = [Erasing(log, ips=[ip]).archive for ip in (PERSON, "198.51.100.9")]
        while any(await asyncio.gather(*(each.erase(bucket) for each in erasings))):
            pass

    asyncio.run(both())
    assert_erased(bucket.store)
    assert_erased(bucket.store, "198.51.100.9")
    assert len(rows(bucket.objects)) == len(OTHERS) + 1


def test_a_locked_version_is_named_with_its_date_and_everything_else_is_erased(
    log: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bucket = archived(log)
    key = max(bucket.objects)
    locked = bucket.objects[key]
    locked.locked_until = datetime(2027, 3, 1, tzinfo=UTC)
    assert erase(log, bucket) == 3
    error = capsys.readouterr().err
    assert f"{key}?versionId={locked.version}: 1 of 3 lines were not erased: it is locked until 2027-03-01" in error
    assert error.count("\n") == 1
    locked.locked_until = None
    assert erase(log, bucket) == 0
    assert_erased(bucket.store)


def test_nothing_of_an_erased_text_is_left_in_the_dictionaries_of_an_object(log: Path) -> None:
    """Parquet holds each different text once, apart from the rows."""
    lines = [format_line(Visit(NOON, f"https://example.com/{name}", name, "192.0.2.1")) for name in ("anna", "bob")]
    bucket = archived(log, b"".join(lines) * 3)
    erasing = Erasing(log, ips=[], agents=["anna"])
    assert erasing.run(bucket) == 0
    [left] = bucket.objects.values()
    table = pq.read_table(io.BytesIO(left.body), read_dictionary=["page", "user_agent"])
    assert [table[name].chunk(0).dictionary.to_pylist() for name in ("page", "user_agent")] == [
        ["https://example.com/bob"], ["bob"],
    ]  # fmt: skip
    assert table["line"].to_pylist() == [2, 4, 6]


def test_objects_with_many_row_groups_and_missing_texts_keep_their_order(log: Path) -> None:
    bucket = archived(log)
    rows_before: list[dict[str, Any]] = [
        {"time": NOON, "page": None if number % 5 else "p", "user_agent": f"a{number % 7}" if number % 3 else None,
         "ip": f"10.0.{number % 4}.{number % 250}", "log": "x", "line": number}
        for number in range(3_000)
    ]  # fmt: skip
    body, key = io.BytesIO(), "years/date=2026-11-24/x.parquet"
    old = next(each for name, each in bucket.objects.items() if name.endswith(".parquet"))
    schema = pq.read_schema(io.BytesIO(old.body))
    pq.write_table(pa.Table.from_pylist(rows_before, schema), body, row_group_size=100)
    bucket.store.put(key, body.getvalue(), "")
    erasing = Erasing(log, ips=["10.0.2.0/24", "10.0.3.7"], agents=["a1"])
    assert erasing.run(bucket) == 0
    left = pq.read_table(io.BytesIO(bucket.objects[key].body)).to_pylist()
    gone = [
        row
        for row in rows_before
        if row["ip"].startswith("10.0.2.") or row["ip"] == "10.0.3.7" or row["user_agent"] == "a1"
    ]
    assert left == [row for row in rows_before if row not in gone]
    assert erasing.report.lines == len(gone)


def test_a_dry_run_counts_in_every_version_and_changes_nothing(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bucket = archived(log)
    bucket.store.uploads["1"] = Parts("years/x", "")
    before = bucket.store.versions()
    assert Erasing(log, dry_run=True).run(bucket) == 1
    assert bucket.store.versions() == before
    assert list(bucket.store.uploads) == ["1"]
    assert not erased_log_path(log).exists()
    said = capsys.readouterr().out
    assert f"s3://archive/{max(bucket.objects)}: 1 of 3 lines would be erased (1 by ip)" in said
    assert "s3://archive/years/x: an upload that was not completed would be erased" in said


def test_uploads_that_were_not_completed_are_removed(log: Path) -> None:
    bucket = archived(log)
    bucket.store.uploads |= {
        "1": Parts("years/x", ""),
        "2": Parts("years/y", "", begun=datetime(2100, 1, 1, tzinfo=UTC)),
    }
    assert erase(log, bucket) == 0
    assert list(bucket.store.uploads) == ["2"]  # it was begun later, so it has none of these lines


def test_objects_of_others_are_left_alone_and_those_that_cannot_be_read_are_named(
    log: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bucket = archived(log)
    foreign = io.BytesIO()
    pq.write_table(pa.table({"address": [PERSON]}), foreign)
    others = {
        "years/readme.txt": PERSON.encode(),
        "years/date=2026-11-24/counts.parquet": foreign.getvalue(),
        "years/date=2026-11-24/damaged.parquet": b"PAR1" + PERSON.encode() + b"PAR1",
        "years/_malformed/damaged.gz": gzip.compress(PERSON.encode())[:-9],
    }
    for key, body in others.items():
        bucket.store.put(key, body, "")
    erasing = Erasing(log)
    assert erasing.run(bucket) == 3
    assert erasing.archive.not_read == {"years/readme.txt"}
    error = capsys.readouterr().err
    for key, body in others.items():
        assert bucket.objects.pop(key).body == body
        assert key.endswith(".txt") or f"s3://archive/{key}: " in error
    bucket.store.older.clear()
    assert_erased(bucket.store)


def test_a_malformed_line_with_the_address_amid_other_text_is_kept_and_named(
    log: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bucket = archived(log, f"odd\nfrom {PERSON} or so\n".encode())
    assert erase(log, bucket) == 3
    assert "1 malformed lines have one of the values as a part of something else" in capsys.readouterr().err
    assert erase(log, bucket, ips=["203.0.113.70"]) == 0


@pytest.mark.parametrize("before", [10, MAX_LOG_LINE_BYTES - 5, 3 * MAX_LOG_LINE_BYTES - 5])
def test_a_malformed_line_that_is_too_long_for_a_visit_is_named_only_if_it_has_the_address(
    log: Path, before: int, capsys: pytest.CaptureFixture[str]
) -> None:
    bucket = archived(log, b"x" * before + f" {PERSON} ".encode() + b"x" * 300_000 + b"\nodd\n")
    assert erase(log, bucket, ips=["203.0.113.70"]) == 0
    assert erase(log, bucket) == 3


def test_a_line_that_is_kept_is_named_also_in_an_object_that_was_rewritten(
    log: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bucket = archived(log, MALFORMED[0] + f"from {PERSON} or so\n".encode())
    assert erase(log, bucket) == 3
    assert gzip.decompress(next(iter(bucket.objects.values())).body) == f"2 from {PERSON} or so\n".encode()
    assert "1 malformed lines have one of the values as a part of something else" in capsys.readouterr().err


class Refusing(FakeBucket):
    code = "ExpiredToken"

    async def read(self, version: Version, file: Path) -> Held | None:
        self.calls += 1
        raise AwsRefused(self.code, code=self.code, status=403)


def test_refused_credentials_end_the_erasure_and_a_refusal_for_one_object_does_not(log: Path) -> None:
    bucket = copy_of(archived(log), Refusing(versioned=True))
    with pytest.raises(AwsRefused):
        erase(log, bucket)
    assert bucket.calls == 3  # all versions, those of one object, its content
    bucket.code = "InvalidObjectState"
    assert erase(log, bucket) == 3


def test_an_unreachable_bucket_ends_the_erasure_after_some_tries(log: Path) -> None:
    class Unreachable(FakeBucket):
        async def page(self, prefix: str, begin: dict[str, str] | None = None) -> VersionsPage:
            self.calls += 1
            raise AwsUnreachable("no network")

    bucket = Unreachable()
    with pytest.raises(AwsUnreachable):
        erase(log, bucket)
    assert bucket.calls == 5
