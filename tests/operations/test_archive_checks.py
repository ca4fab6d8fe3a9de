"""What the doctor finds about the archive."""

import gzip
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from aiohttp import web

from tests.archive.between import Call, between, error
from tests.archive.closed import close, line
from tests.fake_aws.s3 import FakeS3
from tests.fake_aws.s3_store import Parts
from tests.system.processes import Broker
from tracker.archive_marker import Marker, write_marker
from tracker.config import ArchiveConfig, LogConfig, SqsConfig, StorageConfig
from tracker.local.provision import local_client
from tracker.operations.archive_checks import check_archive
from tracker.operations.findings import Finding, Level
from tracker.operations.topic_checks import with_aws_errors
from tracker.visit_log_files import archived_marker

from .conftest import REGION
from .remedies import paste_aws

NO_RULE = "no rule of the bucket ends uploads that are not completed"
ENDS_UPLOADS = {
    "ID": "RemoveUploadsThatWereNotCompleted",
    "Status": "Enabled",
    "Prefix": "",
    "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 7},
}
"""As the stack has it."""
RULE = (
    "<Rule><ID>x</ID><Status>Enabled</Status><Filter><Prefix/></Filter><AbortIncompleteMultipartUpload>"
    "<DaysAfterInitiation>7</DaysAfterInitiation></AbortIncompleteMultipartUpload></Rule>"
)
"""The same, over HTTP, in the form of today."""


def config(log: Path, url: str | None, endpoint: str) -> StorageConfig:
    archive = ArchiveConfig(url=url, endpoint_url=endpoint, region=REGION)
    return StorageConfig(sqs=SqsConfig(queue="visits"), log=LogConfig(path=str(log)), archive=archive)


async def found(log: Path, url: str | None, endpoint: str) -> list[Finding]:
    return [each async for each in with_aws_errors(check_archive(config(log, url, endpoint)), "archive")]


@pytest.fixture
async def s3(broker: Broker) -> AsyncIterator[Any]:
    async with local_client("s3", broker.endpoint, REGION) as client:
        yield client


async def made_bucket(s3: Any) -> str:
    name = f"archive-{uuid4().hex[:12]}"
    await s3.create_bucket(Bucket=name, CreateBucketConfiguration={"LocationConstraint": REGION})
    return name


async def test_a_bucket_as_the_stack_makes_it_is_all_right(broker: Broker, s3: Any, tmp_path: Path) -> None:
    name = await made_bucket(s3)
    blocked = dict.fromkeys(("BlockPublicAcls", "BlockPublicPolicy", "IgnorePublicAcls", "RestrictPublicBuckets"), True)
    await s3.put_public_access_block(Bucket=name, PublicAccessBlockConfiguration=blocked)
    await s3.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})
    await s3.put_bucket_lifecycle_configuration(Bucket=name, LifecycleConfiguration={"Rules": [ENDS_UPLOADS]})
    findings = await found(tmp_path / "visits.log", f"s3://{name}/a", broker.endpoint)
    assert {finding.level for finding in findings} == {Level.OK}
    assert "clock" in {finding.subject for finding in findings}


async def test_a_public_bucket_without_versions_is_reported(broker: Broker, s3: Any, tmp_path: Path) -> None:
    name = await made_bucket(s3)
    findings = await found(tmp_path / "visits.log", f"s3://{name}/a", broker.endpoint)
    warnings = [finding.what for finding in findings if finding.level is Level.WARNING]
    assert warnings == ["the bucket keeps no versions", NO_RULE]
    [public] = [finding for finding in findings if finding.level is Level.FAULT]
    assert "public access" in public.what


OTHERS = [
    {"ID": "cold", "Status": "Enabled", "Filter": {"Prefix": "a/"}, "Expiration": {"Date": datetime(2030, 1, 1)}},
    {"ID": "old", "Status": "Enabled", "Filter": {"Prefix": ""}, "NoncurrentVersionExpiration": {"NoncurrentDays": 30}},
]


@pytest.mark.parametrize(
    "rules",
    [
        [],
        OTHERS,
        [OTHERS[0], {**ENDS_UPLOADS, "Status": "Disabled"}],
        [
            {**ENDS_UPLOADS, "Prefix": "b/"},
            {"ID": "cold", "Status": "Enabled", "Prefix": "c", "Expiration": {"Days": 9}},
        ],
    ],
)
async def test_a_rule_that_ends_uploads_is_missed_and_the_remedy_adds_it_to_the_others(
    broker: Broker, s3: Any, tmp_path: Path, rules: list[dict[str, Any]]
) -> None:
    name = await made_bucket(s3)
    if rules:
        await s3.put_bucket_lifecycle_configuration(Bucket=name, LifecycleConfiguration={"Rules": rules})
    before = (await s3.get_bucket_lifecycle_configuration(Bucket=name))["Rules"] if rules else []
    findings = await found(tmp_path / "visits.log", f"s3://{name}/a", broker.endpoint)
    [missed] = [finding for finding in findings if finding.what == NO_RULE]
    assert missed.level is Level.WARNING
    await paste_aws(missed.fix, s3)
    after = (await s3.get_bucket_lifecycle_configuration(Bucket=name))["Rules"]
    assert [rule for rule in before if rule["ID"] != ENDS_UPLOADS["ID"]] == after[:-1]
    findings = await found(tmp_path / "visits.log", f"s3://{name}/a", broker.endpoint)
    assert "a rule of the bucket ends uploads that are not completed, after 7 days" in [each.what for each in findings]


async def test_uploads_that_were_never_completed_are_reported_and_the_remedy_ends_them(
    broker: Broker, s3: Any, tmp_path: Path
) -> None:
    """moto says of each upload that it was begun in 2010."""
    name = await made_bucket(s3)
    for number in range(12):
        await s3.create_multipart_upload(Bucket=name, Key=f"a/date=2026-11-24/it's {number}")
    await s3.create_multipart_upload(Bucket=name, Key="b/of somebody else")
    findings = await found(tmp_path / "visits.log", f"s3://{name}/a", broker.endpoint)
    assert findings[-1].level is Level.WARNING
    assert findings[-1].what.startswith("12 uploads in parts are not completed, the oldest, of a/date=2026-11-24/it's ")
    assert findings[-1].fix.endswith(" # and 2 more")
    await paste_aws(findings[-1].fix, s3)
    findings = await found(tmp_path / "visits.log", f"s3://{name}/a", broker.endpoint)
    assert findings[-1].what.startswith("2 uploads")
    await paste_aws(findings[-1].fix, s3)
    findings = await found(tmp_path / "visits.log", f"s3://{name}/a", broker.endpoint)
    assert (findings[-1].level, findings[-1].what) == (Level.OK, "every upload in parts is completed")
    assert len((await s3.list_multipart_uploads(Bucket=name))["Uploads"]) == 1


@pytest.mark.parametrize(
    ("age", "rule", "level"),
    [
        (timedelta(hours=1), False, Level.OK),  # it may be running
        (timedelta(days=2), False, Level.WARNING),
        (timedelta(days=2), True, Level.OK),  # the rule will end it
        (timedelta(days=10), True, Level.WARNING),  # the rule has not
    ],
)
async def test_an_upload_that_is_running_or_that_the_rule_will_end_is_no_fault(
    tmp_path: Path, age: timedelta, rule: bool, level: Level
) -> None:
    with FakeS3() as fake:
        fake.lifecycle = RULE if rule else ""
        fake.uploads["1"] = Parts("a/x", "", begun=datetime.now(UTC) - age)
        findings = await found(tmp_path / "visits.log", "s3://archive/a", fake.url)
    assert findings[-1].level is level
    assert "1 uploads in parts are not completed" in findings[-1].what


async def test_a_doctor_who_may_not_see_rules_and_uploads_names_both_permissions(tmp_path: Path) -> None:
    with FakeS3() as fake:
        for call in ("GetBucketLifecycleConfiguration", "ListMultipartUploads"):
            fake.refuse_calls[call] = 403, "AccessDenied"
        findings = await found(tmp_path / "visits.log", "s3://archive/a", fake.url)
    assert [finding.what for finding in findings if finding.level is Level.UNKNOWN] == [
        "s3:GetLifecycleConfiguration is denied",
        "s3:ListBucketMultipartUploads is denied",
    ]


async def test_a_bucket_that_is_not_there_is_a_fault(broker: Broker, tmp_path: Path) -> None:
    findings = await found(tmp_path / "visits.log", "s3://nowhere-at-all/a", broker.endpoint)
    assert (findings[-1].level, findings[-1].what) == (Level.FAULT, "there is no bucket nowhere-at-all")


async def test_without_an_archive_nothing_is_looked_at(tmp_path: Path) -> None:
    assert await found(tmp_path / "visits.log", None, "http://127.0.0.1:1") == []


async def test_credentials_without_permission_are_reported(tmp_path: Path) -> None:
    with FakeS3() as fake:
        fake.refuse = 403, "AccessDenied"
        findings = await found(tmp_path / "visits.log", "s3://archive/a", fake.url)
    assert findings[-1].level is Level.FAULT
    assert "may not list the bucket archive: " in findings[-1].what


@pytest.mark.parametrize(
    ("status", "code", "says"),
    [
        (400, "ExpiredToken", "AWS does not accept the credentials: "),
        (403, "InvalidAccessKeyId", "AWS does not accept the credentials: "),
        (403, "RequestTimeTooSkewed", "this machine's clock is "),
        (400, "KMS.DisabledException", "AWS refuses the call: "),
    ],
)
async def test_the_reason_of_a_refusal_is_named(tmp_path: Path, status: int, code: str, says: str) -> None:
    async def refuse(call: Call) -> web.StreamResponse:
        reply = error(status, code)
        if code == "RequestTimeTooSkewed":
            reply.headers["Date"] = format_datetime(datetime.now(UTC) + timedelta(minutes=20))
        return reply

    async with between("", refuse) as url:
        findings = await found(tmp_path / "visits.log", "s3://archive/a", url)
    assert findings[-1].level is Level.FAULT
    assert findings[-1].what.startswith(says)
    assert code in findings[-1].what or findings[-1].subject == "clock"


async def test_logs_of_logrotate_that_wait_for_long_are_reported_too(tmp_path: Path) -> None:
    log, rotated = tmp_path / "visits.log", tmp_path / "visits.log-20261124.gz"
    rotated.write_bytes(gzip.compress(line(1)))
    os.utime(rotated, (1e9, 1e9))
    with FakeS3() as fake:
        findings = await found(log, "s3://archive/a", fake.url)
    assert findings[0].level is Level.WARNING
    assert findings[0].what.startswith("1 closed logs wait for the archive, the oldest for ")


async def test_closed_logs_that_wait_for_long_are_reported(broker: Broker, s3: Any, tmp_path: Path) -> None:
    log = tmp_path / "visits.log"
    name = await made_bucket(s3)
    first, second = close(log, line(1), 13), close(log, line(2), 14)
    marker = archived_marker(log, first)
    marker.parent.mkdir(parents=True)
    write_marker(marker, Marker("0" * 64, 1, 0, [], first.stat().st_mtime_ns))
    findings = await found(log, f"s3://{name}/a", broker.endpoint)
    assert findings[0].level is Level.WARNING
    assert findings[0].what.startswith("1 closed logs wait")
    write_marker(archived_marker(log, second), Marker("0" * 64, 1, 0, [], second.stat().st_mtime_ns))
    (tmp_path / "visits.log.1").write_bytes(line(3))
    findings = await found(log, f"s3://{name}/a", broker.endpoint)
    assert [finding.level for finding in findings[:2]] == [Level.FAULT, Level.OK]
    assert "dateext" in findings[0].fix


def test_the_doctor_needs_no_extra_for_the_archive() -> None:
    """DuckDB is not installed beside the services."""
    script = "import sys; sys.modules['duckdb'] = None; import tracker.operations.doctor, tracker.archive.command"
    subprocess.run([sys.executable, "-c", script], check=True)
