"""Takes back the objects of a closed log whose archiving has begun and not ended. It then begins again.

`tracker erase` erases in such a log, too, because its archiving may never end: an object of its name may have other
lines. The objects that are in the bucket already must not stay as they are. The next pass counts the lines of the log
without the erased ones, so a line of a new object could have the number of another line in an old one.

1. The caller holds the lock of the closed log and that of the archiver. So nobody archives this log meanwhile.
2. All versions of the log's keys are listed. Those that have a digest of this log are deleted. The digest says that the
   closed log has all lines that were put, but for those that were erased before, so nothing is lost with the object.
   Versions with other digests are somebody else's, and stay.
3. The caller erases in the closed log. The next pass archives what is left, as if nothing had been put before.

The process may end between any two steps: the log is as it was, and the next pass or the next erasure begins again.
"""

from pathlib import Path

from tracker.archive.objects import is_object_of
from tracker.archive.retries import Retries
from tracker.archive.version_calls import Bucket, versions_of
from tracker.aws import bucket_and_prefix
from tracker.config import ArchiveConfig
from tracker.lifecycle import Backoff


async def take_back(
    bucket: Bucket, config: ArchiveConfig, closed: Path, digests: set[str], backoff: Backoff | None = None
) -> int:
    """Step 2, for a log with these digests. Returns how many versions were deleted.

    Raises AwsRefused, also for a version under Object Lock, and AwsUnreachable.
    """
    _, prefix = bucket_and_prefix(config)
    retries = Retries(backoff)
    found = [
        version
        async for version in versions_of(bucket, prefix, retries)
        if is_object_of(closed, version.key.removeprefix(prefix))
    ]
    deleted = 0
    for version in found:
        digest = await retries.reply(bucket.digest_of, version)
        if digest in digests:
            await retries.reply(bucket.delete, version)
            deleted += 1
    return deleted
