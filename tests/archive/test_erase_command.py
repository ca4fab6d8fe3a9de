"""The command `tracker erase` with an archive: over HTTP with our fake of S3 and its faults, and with moto's S3."""

import asyncio
import gzip
import os
import signal
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import aiohttp
import pytest
from botocore.session import get_session

from tests.archive.closed import archive as archive_into
from tests.archive.closed import close, line, rows
from tests.archive.erased import LINES, OTHERS, PERSON, assert_erased
from tests.fake_aws.faults import pairs
from tests.fake_aws.s3 import BUCKET, FakeBucket, FakeS3
from tests.fake_aws.s3_store import Object, Parts
from tests.launched import Launched
from tests.ports import free_port
from tests.seam.method import LONG
from tests.system.processes import write_config
from tracker import errors
from tracker.archive.archiver import Archiver, Pass
from tracker.archive.lines import ClosedLog
from tracker.archive.objects import make_objects
from tracker.aws import bucket as bucket_module
from tracker.aws import open_bucket
from tracker.aws.object_settings import KEPT, KEPT_UNTIL
from tracker.cli import main
from tracker.config import ArchiveConfig
from tracker.lifecycle import Backoff
from tracker.local.provision import local_client
from tracker.storage.erasure_log import entries
from tracker.visit_log_files import archived_marker

VISITS = b"".join(LINES)
CALLS = ["ListObjectVersions", "GetObject", "PutObject", "DeleteObject", "ListMultipartUploads"]
PARTS = ["CreateMultipartUpload", "UploadPart", "CompleteMultipartUpload"]


@pytest.fixture
def s3() -> Iterator[FakeS3]:
    with FakeS3() as fake:
        fake.store.versioned = True
        yield fake


def config(log: Path, url: str) -> Path:
    sections: dict[str, Any] = {
        "sqs": {"queue": "visits"},
        "log": {"path": str(log)},
        "archive": {"url": f"s3://{BUCKET}/a", "endpoint_url": url, "region": "us-east-1"},
    }
    return write_config(log.parent.parent / "storage.yaml", sections)


def command(log: Path, url: str, *options: str | Path) -> list[str]:
    return ["erase", "--config", str(config(log, url)), "--ip", PERSON, *map(str, options)]


def archive(log: Path, s3: FakeS3) -> Pass:
    """Archive the closed logs, without a call over HTTP."""
    return archive_into(log, FakeBucket(store=s3.store), ArchiveConfig(url=f"s3://{BUCKET}/a"))


def numbers(s3: FakeS3) -> list[int]:
    return sorted(number for _, number, _ in rows(s3.objects))


def test_the_command_erases_in_closed_logs_and_in_the_archive(
    log: Path, s3: FakeS3, capsys: pytest.CaptureFixture[str]
) -> None:
    closed = close(log, VISITS)
    archive(log, s3)
    assert main(command(log, s3.url, "--dry-run")) == 1
    assert "6 lines would be erased in 1 files and 2 objects of the archive" in capsys.readouterr().out
    assert numbers(s3) == list(range(1, 10))
    assert main(command(log, s3.url)) == 0
    assert "6 lines erased in 1 files and 2 objects of the archive" in capsys.readouterr().out
    assert closed.read_bytes() == b"".join(LINES[number] for number in OTHERS)
    assert_erased(s3.store)
    assert numbers(s3) == [number + 1 for number in OTHERS]
    assert main(command(log, s3.url, "--dry-run")) == 0


def test_many_versions_are_listed_page_by_page(log: Path, s3: FakeS3) -> None:
    for hour in range(4):
        close(log, VISITS, hour)
    archive(log, s3)
    for key, each in list(s3.objects.items()):
        s3.store.put(key, each.body, each.digest)
    s3.page_length = 3
    assert main(command(log, s3.url)) == 0
    assert_erased(s3.store)
    assert len(rows(s3.objects)) == 4 * len(OTHERS)


@pytest.mark.slow
@pytest.mark.parametrize(("action", "kind"), pairs([*CALLS, *PARTS], every=LONG))
def test_the_lines_are_erased_whichever_call_fails_and_however(
    log: Path, s3: FakeS3, action: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    close(log, LINES[0] + LINES[1])
    archive(log, s3)
    if action in PARTS:
        monkeypatch.setattr(bucket_module, "PART_BYTES", 400)
    s3.uploads["left"] = Parts("a/x", "")
    s3.faults.inject(kind, action, times=3)  # more often than botocore tries
    assert main(command(log, s3.url)) == 0
    assert s3.faults.injected[kind] >= (1 if action == "GetObject" else 3)
    assert_erased(s3.store)
    assert numbers(s3) == [1]
    assert not any(each.bodies or each.key == "a/x" for each in s3.uploads.values())


HEADERS = {
    "cache-control": "max-age=60",
    "content-disposition": 'attachment; filename="a.parquet"',
    "content-encoding": "identity",
    "content-language": "en",
    "content-type": "application/vnd.apache.parquet",
    "expires": "Fri, 01 Jan 2100 00:00:00 GMT",
    "x-amz-grant-full-control": 'id="owner", id="another"',
    "x-amz-grant-read": 'uri="http://acs.amazonaws.com/groups/global/AuthenticatedUsers"',
    "x-amz-object-lock-legal-hold": "ON",
    "x-amz-object-lock-mode": "GOVERNANCE",
    "x-amz-object-lock-retain-until-date": "2100-01-01T00:00:00Z",
    "x-amz-server-side-encryption": "aws:kms",
    "x-amz-server-side-encryption-aws-kms-key-id": "arn:aws:kms:us-east-1:000000000000:key/1",
    "x-amz-server-side-encryption-bucket-key-enabled": "true",
    "x-amz-storage-class": "STANDARD_IA",
    "x-amz-tagging": "cost%20centre=R%26D%20%C3%A9&empty=",
    "x-amz-website-redirect-location": "/elsewhere",
}
"""All that S3 keeps of an object beside its content and its metadata."""


@pytest.mark.parametrize("part_bytes", [bucket_module.PART_BYTES, 400])
def test_an_object_keeps_all_that_s3_keeps_of_it_however_it_is_put(
    log: Path, s3: FakeS3, part_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    close(log, VISITS)
    archive(log, s3)
    for each in s3.objects.values():
        each.headers |= HEADERS
    before = {key: (each.digest, each.headers) for key, each in s3.objects.items()}
    monkeypatch.setattr(bucket_module, "PART_BYTES", part_bytes)
    assert main(command(log, s3.url)) == 0
    assert_erased(s3.store)
    assert {key: (each.digest, each.headers) for key, each in s3.objects.items()} == before
    assert ("UploadPart" in s3.calls) == (part_bytes == 400)


def test_no_setting_of_an_object_is_unknown_to_the_erasure() -> None:
    """Whatever a newer S3 returns with an object, and takes with a new one, has to be kept."""
    calls = get_session().get_service_model("s3")
    returned = calls.operation_model("GetObject").output_shape.members.keys()
    taken = calls.operation_model("CreateMultipartUpload").input_shape.members.keys()
    # Of the content; and of encryption with a key that S3 does not keep: such an object cannot be read.
    others = {"ChecksumType", "SSECustomerAlgorithm", "SSECustomerKeyMD5"}
    assert (returned & taken) - others == {*KEPT, *KEPT_UNTIL}


def test_an_object_in_an_archive_class_is_named_with_the_command_and_erased_once_it_is_restored(
    log: Path, s3: FakeS3, capsys: pytest.CaptureFixture[str]
) -> None:
    """The new one is in this class, too, and cannot be read back."""
    close(log, LINES[0] + LINES[1])
    archive(log, s3)
    [(key, each)] = s3.objects.items()
    each.headers["x-amz-storage-class"] = "GLACIER"
    assert main(command(log, s3.url)) == 3
    assert (
        f"s3://{BUCKET}/{key}: it has to be restored first: aws s3api restore-object --bucket {BUCKET} --key {key} "
        f"--version-id {each.version} --restore-request Days=7"
    ) in capsys.readouterr().err
    assert numbers(s3) == [1, 2]
    each.restored = True
    assert main(command(log, s3.url)) == 0
    assert_erased(s3.store)
    assert [each.headers["x-amz-storage-class"] for _, each, _ in s3.store.versions()] == ["GLACIER"]


def test_a_lock_that_has_ended_is_not_set_again(log: Path, s3: FakeS3) -> None:
    """S3 refuses a put with a date that has passed."""
    close(log, LINES[0] + LINES[1])
    archive(log, s3)
    [each] = s3.objects.values()
    each.headers |= {
        "x-amz-object-lock-mode": "COMPLIANCE",
        "x-amz-object-lock-retain-until-date": "2020-01-01T00:00:00Z",
        "x-amz-object-lock-legal-hold": "OFF",
    }
    assert main(command(log, s3.url)) == 0
    assert [name for each in s3.objects.values() for name in each.headers if "lock" in name] == []


def test_a_copy_that_s3_makes_in_another_bucket_is_named(
    log: Path, s3: FakeS3, capsys: pytest.CaptureFixture[str]
) -> None:
    close(log, LINES[0] + LINES[1])
    archive(log, s3)
    [each] = s3.objects.values()
    each.headers["x-amz-replication-status"] = "COMPLETED"
    assert main(command(log, s3.url)) == 0
    assert "S3 replicates this object, and the copy in the other bucket still has them" in capsys.readouterr().out


@pytest.mark.parametrize("action", ["GetObjectTagging", "GetObjectAcl"])
def test_an_object_of_which_something_cannot_be_read_is_left_as_it_is_and_named(
    log: Path, s3: FakeS3, action: str, capsys: pytest.CaptureFixture[str]
) -> None:
    close(log, LINES[0] + LINES[1])
    archive(log, s3)
    s3.refuse_calls[action] = 403, "AccessDenied"
    assert main(command(log, s3.url)) == 3
    assert "AccessDenied" in capsys.readouterr().err
    assert numbers(s3) == [1, 2]
    s3.refuse_calls[action] = 501, "NotImplemented"  # of a server that is not AWS's, which has no such thing
    assert main(command(log, s3.url)) == 0
    assert numbers(s3) == [1]


def test_a_locked_version_is_named_with_the_date(log: Path, s3: FakeS3, capsys: pytest.CaptureFixture[str]) -> None:
    close(log, LINES[1])
    archive(log, s3)
    [locked] = s3.objects.values()
    locked.locked_until = datetime(2027, 3, 1, tzinfo=UTC)
    assert main(command(log, s3.url)) == 3
    expected = f"?versionId={locked.version}: 1 of 1 lines were not erased: it is locked until 2027-03-01 00:00 UTC"
    assert f"{expected} (COMPLIANCE)" in capsys.readouterr().err


def test_a_body_that_is_cut_off_is_not_taken_for_the_object(log: Path, s3: FakeS3) -> None:
    close(log, VISITS)
    archive(log, s3)
    s3.cut_bodies = 2
    assert main(command(log, s3.url)) == 0
    assert s3.cut_bodies == 0
    assert_erased(s3.store)
    assert numbers(s3) == [number + 1 for number in OTHERS]


def test_without_permission_or_without_the_extra_it_says_that_the_archive_was_not_looked_at(
    log: Path, s3: FakeS3, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    closed = close(log, VISITS)
    archive(log, s3)
    s3.refuse = 403, "AccessDenied"
    assert main(command(log, s3.url)) == 3
    said = capsys.readouterr()
    assert f"s3://{BUCKET}/a: the archive was not looked at: " in said.err
    assert "3 lines erased in 1 files\n" in said.out
    assert PERSON.encode() not in closed.read_bytes()  # the closed logs are erased all the same

    def missing() -> None:
        raise errors.TrackerError("needs DuckDB, not installed here")

    s3.refuse = None
    monkeypatch.setattr("tracker.operations.erase.require_extra", missing)
    assert main(command(log, s3.url)) == 3
    assert "the archive was not looked at: needs DuckDB, not installed here" in capsys.readouterr().err


def test_an_answer_that_is_not_from_s3_is_no_empty_archive(
    log: Path, s3: FakeS3, capsys: pytest.CaptureFixture[str]
) -> None:
    s3.foreign = True  # a portal on the way answers everything with 200
    assert main(command(log, s3.url)) == 3
    assert "the archive was not looked at: the reply is not from AWS" in capsys.readouterr().err


def test_named_files_are_erased_alone_and_the_archive_is_named_as_not_read(
    log: Path, s3: FakeS3, capsys: pytest.CaptureFixture[str]
) -> None:
    closed = close(log, VISITS)
    assert main(command(log, s3.url, closed)) == 0
    assert f"not read: s3://{BUCKET}/a, the archive" in capsys.readouterr().out
    assert s3.calls == []


def test_no_name_of_a_file_or_of_an_object_can_move_the_terminal_or_begin_a_line(
    log: Path, s3: FakeS3, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither the bytes that are no text, which also have to have an entry in `erased.log`."""
    odd = log.with_name(os.fsdecode(b"visits.log.\xff\n\x1b[31m"))
    odd.write_bytes(VISITS)
    s3.store.put("a/\x1b[31m\nkey", b"", "")
    s3.uploads["left"] = Parts("a/\x1b[32m", "")
    assert main(command(log, s3.url)) == 0
    assert main(command(log, s3.url, odd)) == 0
    said = capsys.readouterr().out
    assert "\x1b" not in said
    assert [text[:9] for text in said.splitlines()][1:4] == ["0 lines e", "not read:", "not read:"]
    assert r"visits.log.\udcff\n\x1b[31m: 3 of 9 lines erased" in said
    assert [entry.lines for entry in entries(log)] == [3]


@pytest.mark.parametrize("named", [False, True])
def test_the_command_erases_in_a_log_whose_archiving_cannot_end(
    log: Path, s3: FakeS3, named: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    closed = close(log, VISITS)
    archive(log, s3)
    archived_marker(log, closed).unlink()
    key = max(s3.objects)
    s3.store.delete(key, s3.objects[key].version)
    other = s3.store.put(key, b"no Parquet", "of somebody else")
    assert archive(log, s3).conflicts == 1
    s3.refuse = 403, "AccessDenied"
    assert main(command(log, s3.url, closed)) == 3
    assert f"{closed}: its archiving was begun, and cannot be undone: s3://{BUCKET}/a: " in capsys.readouterr().err
    assert closed.read_bytes() == VISITS
    s3.refuse = None
    assert main(command(log, s3.url, *([closed] if named else []))) == (0 if named else 3)  # no Parquet, which is named
    assert f"{closed}: 1 objects of its incomplete archiving were removed" in capsys.readouterr().out
    assert closed.read_bytes() == b"".join(LINES[number] for number in OTHERS)
    assert s3.objects == {key: other}


def test_a_log_that_is_closed_archived_and_removed_meanwhile_is_erased_too(log: Path, s3: FakeS3) -> None:
    close(log, VISITS)
    archive(log, s3)
    late = line(50, ip=PERSON) + line(51)

    def rotate(action: str) -> None:
        """Once the versions are listed: the log is closed, archived, and removed by `archive.keep_local`."""
        closed = close(log, late, 20)
        if action == "ListMultipartUploads" and not archived_marker(log, closed).exists():
            with ClosedLog(closed) as opened, TemporaryDirectory() as folder:
                made = make_objects(opened, Path(folder), threading.Event())
                for each in made.objects:
                    s3.store.put(f"a/{each.name}", each.file.read_bytes(), made.digest)
            archived_marker(log, closed).touch()
        closed.unlink()

    s3.on_call = rotate
    assert main(command(log, s3.url)) == 0
    assert_erased(s3.store)
    assert len(rows(s3.objects)) == len(OTHERS) + 1


# In memory, test_erasing.py ends the erasure at each call.
@pytest.mark.slow
@pytest.mark.parametrize("at", range(1, 20) if LONG else (4, 13))
def test_a_process_that_is_killed_at_any_call_loses_nothing_and_the_next_one_ends_its_work(
    log: Path, s3: FakeS3, at: int
) -> None:
    closed = close(log, VISITS)
    archive(log, s3)
    s3.calls.clear()
    home = log.parent.parent
    words = [sys.executable, "-m", "tracker.cli", *command(log, s3.url)]
    with Launched(words, output_file=home / "erase.txt", home=home) as running:

        def kill(_: str) -> None:
            if len(s3.calls) == at:
                running.signal(signal.SIGKILL)

        s3.on_call = kill
        assert running.wait(120) in (0, -signal.SIGKILL)
    kept = [number + 1 for number in OTHERS]
    assert [number for number in numbers(s3) if number in kept] == kept
    assert main(command(log, s3.url)) == 0
    assert_erased(s3.store)
    assert numbers(s3) == kept
    assert closed.read_bytes() == b"".join(LINES[number] for number in OTHERS)
    assert archive(log, s3).problems == []


@pytest.mark.slow
@pytest.mark.parametrize("versioned", [True, False])
async def test_moto_erases_all_versions_as_well(log: Path, versioned: bool) -> None:
    server = pytest.importorskip("moto.server").ThreadedMotoServer(
        ip_address="127.0.0.1", port=free_port(), verbose=False
    )
    server.start()
    url = f"http://127.0.0.1:{server.get_host_and_port()[1]}"
    try:
        async with local_client("s3", url, "us-east-1") as client:
            await client.create_bucket(Bucket=BUCKET)
            if versioned:
                enabled = {"Status": "Enabled"}
                await client.put_bucket_versioning(Bucket=BUCKET, VersioningConfiguration=enabled)
            close(log, VISITS + b"a|b|c|d|" + PERSON.encode() + b"\n")
            settings = ArchiveConfig(url=f"s3://{BUCKET}/a", endpoint_url=url, region="us-east-1")
            async with open_bucket(settings) as bucket:
                assert await Archiver(log, bucket, settings, Backoff(0.0, 0.0)).run_once() == Pass(archived=1)
            listed = (await client.list_object_versions(Bucket=BUCKET))["Versions"]
            keys = sorted(each["Key"] for each in listed)
            assert len(keys) == 3
            if versioned:
                body = await (await client.get_object(Bucket=BUCKET, Key=keys[1]))["Body"].read()
                await client.put_object(Bucket=BUCKET, Key=keys[1], Body=body, Metadata={"digest": "kept"})
                await client.delete_object(Bucket=BUCKET, Key=keys[2])
            assert await asyncio.to_thread(main, command(log, url)) == 0
            found = {}
            for each in (await client.list_object_versions(Bucket=BUCKET))["Versions"]:
                reply = await client.get_object(Bucket=BUCKET, Key=each["Key"], VersionId=each["VersionId"])
                found[each["Key"]] = Object(await reply["Body"].read(), reply["Metadata"]["digest"])
            assert gzip.decompress(found.pop(keys[0]).body) == b""
            assert sorted(found) == ([keys[1]] if versioned else keys[1:])
            assert found[keys[1]].digest == "kept" or not versioned
            expected = [number + 1 for number in OTHERS if number < 6 or not versioned]
            assert [number for _, number, _ in rows(found)] == expected
            assert PERSON not in [visit.ip for _, _, visit in rows(found)]
    finally:
        async with aiohttp.ClientSession() as session, session.post(f"{url}/moto-api/reset") as answer:
            assert answer.status == 200  # all servers of one process have the same buckets
        server.stop()
