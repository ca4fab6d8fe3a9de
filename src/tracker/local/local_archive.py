"""The archive of `make run`: a bucket in the memory of the local broker, which ends with the run.

1. It is there when `make run ARGS="--archive"` asks for it, or when storage's configuration has `archive.url`.
2. The bucket is empty when the run begins. So the markers of earlier runs say of closed logs that they are archived,
   which they are not. They are removed, and every closed log is archived.
3. No closed log is removed, whatever `archive.keep_local` and `log.rotate.keep` say: once the run has ended, its lines
   would be nowhere.
4. When the run has ended, the markers are removed, because the bucket is gone.

`copy` copies the objects into a folder, which stays.
"""

import asyncio
import shutil
from pathlib import Path

from botocore.exceptions import BotoCoreError, ClientError

from tracker.config import StorageConfig
from tracker.errors import TrackerError
from tracker.local import broker
from tracker.local.provision import local_client
from tracker.visit_log_files import archived_directory

URL = "s3://tracker-archive/visits"
MAX_BYTES = 1_000  # about five visits of a browser: a log is soon closed


class NoLocalBucket(TrackerError):
    """The local broker does not answer, or its objects cannot be read."""


def settings(storage: StorageConfig, *, asked: bool, endpoint: str) -> dict[str, str]:
    """What the environments of storage and of the archive need. Empty without an archive."""
    if not asked and storage.archive.url is None:
        return {}
    chosen = {
        "TRACKER_ARCHIVE__ENDPOINT_URL": endpoint,
        "TRACKER_ARCHIVE__REGION": broker.REGION,
        "TRACKER_ARCHIVE__KEEP_LOCAL": "null",
        "TRACKER_LOG__ROTATE__KEEP": "null",
    }
    if storage.archive.url is None:
        chosen["TRACKER_ARCHIVE__URL"] = URL
    if storage.log.rotate.max_bytes is None and storage.log.rotate.every is None:
        chosen["TRACKER_LOG__ROTATE__MAX_BYTES"] = str(MAX_BYTES)
    return chosen


def remove_markers(log: Path) -> None:
    """Forget which closed logs of `log` were archived. Raises OSError."""
    if archived_directory(log).exists():
        shutil.rmtree(archived_directory(log))


def copy(endpoint: str, folder: Path) -> int:
    """Copy each object of the local broker to `folder/BUCKET/KEY`. Returns their number.

    Raises NoLocalBucket and OSError.
    """
    try:
        return asyncio.run(_copy(endpoint, folder))
    except (BotoCoreError, ClientError) as error:
        raise NoLocalBucket(
            f"{endpoint} has no objects to copy ({error}): start it with make run ARGS=--archive"
        ) from error


async def _copy(endpoint: str, folder: Path) -> int:
    copied = 0
    async with local_client("s3", endpoint, broker.REGION) as s3:
        for bucket in (await s3.list_buckets())["Buckets"]:
            async for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket["Name"]):
                for each in page.get("Contents", []):
                    target = folder / bucket["Name"] / each["Key"]
                    if ".." in target.parts:
                        raise NoLocalBucket(f"{each['Key']!r} leads out of {folder}")
                    target.parent.mkdir(parents=True, exist_ok=True)
                    reply = await s3.get_object(Bucket=bucket["Name"], Key=each["Key"])
                    with target.open("wb") as file:
                        async for chunk in reply["Body"].iter_chunks():
                            file.write(chunk)
                    copied += 1
    return copied
