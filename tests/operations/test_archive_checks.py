"""What the doctor finds about the archive."""

import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from tests.archive.closed import close, line
from tests.fake_aws.s3 import FakeS3
from tests.system.processes import Broker
from tracker.archive_marker import Marker, write_marker
from tracker.config import ArchiveConfig, LogConfig, SqsConfig, StorageConfig
from tracker.local.provision import local_client
from tracker.operations.archive_checks import check_archive
from tracker.operations.findings import Finding, Level
from tracker.operations.topic_checks import with_aws_errors
from tracker.visit_log_files import archived_marker

from .conftest import REGION


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
    findings = await found(tmp_path / "visits.log", f"s3://{name}/a", broker.endpoint)
    assert {finding.level for finding in findings} == {Level.OK}
    assert "clock" in {finding.subject for finding in findings}


async def test_a_public_bucket_without_versions_is_reported(broker: Broker, s3: Any, tmp_path: Path) -> None:
    name = await made_bucket(s3)
    findings = await found(tmp_path / "visits.log", f"s3://{name}/a", broker.endpoint)
    assert [finding.what for finding in findings if finding.level is Level.WARNING] == ["the bucket keeps no versions"]
    [public] = [finding for finding in findings if finding.level is Level.FAULT]
    assert "public access" in public.what


async def test_a_bucket_that_is_not_there_is_a_fault(broker: Broker, tmp_path: Path) -> None:
    findings = await found(tmp_path / "visits.log", "s3://nowhere-at-all/a", broker.endpoint)
    assert (findings[-1].level, findings[-1].what) == (Level.FAULT, "there is no bucket nowhere-at-all")


async def test_without_an_archive_nothing_is_looked_at(tmp_path: Path) -> None:
    assert await found(tmp_path / "visits.log", None, "http://127.0.0.1:1") == []


async def test_credentials_without_permission_are_reported(tmp_path: Path) -> None:
    with FakeS3() as fake:
        fake.refuse = 403, "AccessDenied"
        findings = await found(tmp_path / "visits.log", "s3://archive/a", fake.url)
    assert findings[-1].level in (Level.FAULT, Level.UNKNOWN)
    assert "403" in findings[-1].what


async def test_closed_logs_that_wait_for_long_are_reported(broker: Broker, s3: Any, tmp_path: Path) -> None:
    log = tmp_path / "visits.log"
    name = await made_bucket(s3)
    first, second = close(log, line(1), 13), close(log, line(2), 14)
    marker = archived_marker(log, first)
    marker.parent.mkdir(parents=True)
    write_marker(marker, Marker("0" * 64, 1, 0, []))
    findings = await found(log, f"s3://{name}/a", broker.endpoint)
    assert findings[0].level is Level.WARNING
    assert findings[0].what.startswith("1 closed logs wait")
    write_marker(archived_marker(log, second), Marker("0" * 64, 1, 0, []))
    (tmp_path / "visits.log.1").write_bytes(line(3))
    findings = await found(log, f"s3://{name}/a", broker.endpoint)
    assert [finding.level for finding in findings[:2]] == [Level.FAULT, Level.OK]
    assert "dateext" in findings[0].fix


def test_the_doctor_needs_no_extra_for_the_archive() -> None:
    """DuckDB is not installed beside the services."""
    script = "import sys; sys.modules['duckdb'] = None; import tracker.operations.doctor, tracker.archive.command"
    subprocess.run([sys.executable, "-c", script], check=True)
