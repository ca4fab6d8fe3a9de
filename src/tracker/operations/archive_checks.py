"""Checks of the archive: its bucket, what these credentials may do there, and the closed logs that wait for it.

Those of uploads are in `upload_checks`.
"""

import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

from tracker import visit_log_files
from tracker.archive_marker import is_archived
from tracker.aws import ask, bucket_and_prefix, open_client
from tracker.config import ArchiveConfig, StorageConfig
from tracker.errors import AwsRefused
from tracker.operations.findings import Finding, fault, ok, unknown, warning
from tracker.operations.topic_checks import clock
from tracker.operations.upload_checks import STACK, check_uploads, looked_up

BEHIND_SECONDS = 6 * 3_600  # the alarm TrackerArchiveBehind has the same limit
_ASKS = "the archiver asks S3 for each object before and after it stores it"


async def check_archive(config: StorageConfig) -> AsyncIterator[Finding]:
    """Nothing without `archive.url`."""
    if config.archive.url is None:
        return
    for finding in _waiting(Path(config.log.path)):
        yield finding
    async for finding in _check_bucket(config.archive):
        yield finding


def _waiting(log: Path) -> Iterator[Finding]:
    try:
        if numbered := visit_log_files.numbered_logs(log):
            yield fault(
                "archive",
                f"{numbered[0]} has a name that logrotate changes at each rotation",
                why="the archive knows a closed log by its name, so it refuses this one",
                fix="add dateext to the configuration of logrotate, and rename this file to visits.log-YYYYMMDD",
            )
        rotated = [file for file in visit_log_files.logs_of_logrotate(log) if visit_log_files.size_of(file)]
        closed = [*visit_log_files.closed_logs(log), *rotated]
        waiting = [file for file in closed if not is_archived(log, file)]
    except OSError as error:
        yield unknown("archive", f"the closed logs cannot be seen: {error}", fix="run the doctor as storage's user")
        return
    times = [_closed_at(log, file) for file in waiting]
    age = time.time() - min(times, default=time.time())
    if age > BEHIND_SECONDS:
        yield warning(
            "archive",
            f"{len(waiting)} closed logs wait for the archive, the oldest for {age / 3_600:.0f} hours",
            why="closed logs stay on this disk until they are archived",
            fix="start `tracker archive`, or see why its last pass failed: archive_failed in its log",
        )
    else:
        yield ok("archive", f"{len(closed) - len(waiting)} of {len(closed)} closed logs on this disk are archived")


def _closed_at(log: Path, closed: Path) -> float:
    """When a log was closed, in seconds since 1970. Of one of logrotate only the time of its last line is known."""
    at = visit_log_files.closed_at(log, closed)
    if at is not None:
        return at.timestamp()
    try:
        return closed.stat().st_mtime
    except FileNotFoundError:
        return time.time()  # it is compressed now, or removed


async def _check_bucket(config: ArchiveConfig) -> AsyncIterator[Finding]:
    name, prefix = bucket_and_prefix(config)
    async with open_client("s3", config.region, config.endpoint_url) as s3:
        try:  # HEAD would not return a reason
            reply = await ask(s3.list_objects_v2(Bucket=name, Prefix=prefix, MaxKeys=1))
        except AwsRefused as error:
            if error.is_denied:
                yield fault(
                    "archive",
                    f"these credentials may not list the bucket {name}: {error}",
                    why=_ASKS,
                    fix=f"give the archiver the policy ArchivePolicy of {STACK}, and the doctor ArchiveDoctorPolicy",
                )
                return
            if error.status != 404:
                raise
            yield fault(
                "archive",
                f"there is no bucket {name}",
                why="nothing is archived, and closed logs stay on the disk",
                fix=f"correct archive.url, or create it with {STACK}",
            )
            return
        yield ok("archive", f"bucket {name}")
        if (finding := clock(reply)) is not None:
            yield finding
        yield await _permission(s3, name, f"{prefix}tracker-doctor")
        yield await _versioning(s3, name)
        yield await _public_access(s3, name)
        async for finding in check_uploads(config, s3):
            yield finding


async def _permission(s3: Any, bucket: str, key: str) -> Finding:
    """Ask for an object that does not exist: the answer is 404 only if these credentials may list and read."""
    try:
        await ask(s3.head_object(Bucket=bucket, Key=key))
    except AwsRefused as error:
        if error.status == 403:
            return fault(
                "archive",
                f"these credentials may not read below {key.rpartition('/')[0] or bucket}",
                why=_ASKS,
                fix=f"give the archiver the policy ArchivePolicy of {STACK}",
            )
        if error.status != 404:
            raise
    return ok("archive", "these credentials may list and read")


async def _versioning(s3: Any, bucket: str) -> Finding:
    reply = await looked_up(ask(s3.get_bucket_versioning(Bucket=bucket)), "s3:GetBucketVersioning")
    if isinstance(reply, Finding):
        return reply
    if reply.get("Status") != "Enabled":
        return warning(
            "archive",
            "the bucket keeps no versions",
            why="an object that somebody deletes or replaces by mistake is lost, with the visits of a closed log",
            fix=f"enable versioning, as {STACK} does",
        )
    return ok("archive", "the bucket keeps versions")


async def _public_access(s3: Any, bucket: str) -> Finding:
    settings: dict[str, Any] | Finding
    try:
        settings = await looked_up(ask(s3.get_public_access_block(Bucket=bucket)), "s3:GetBucketPublicAccessBlock")
    except AwsRefused as error:
        if error.status != 404:
            raise
        settings = {}
    if isinstance(settings, Finding):
        return settings
    blocks = settings.get("PublicAccessBlockConfiguration", {})
    names = ("BlockPublicAcls", "BlockPublicPolicy", "IgnorePublicAcls", "RestrictPublicBuckets")
    if missing := [name for name in names if not blocks.get(name)]:
        return fault(
            "archive",
            f"public access to the bucket is not blocked: {', '.join(missing)}",
            why="one wrong policy or list would show the addresses of all visitors to everybody",
            fix=f"block it, as {STACK} does",
        )
    return ok("archive", "public access to the bucket is blocked")
