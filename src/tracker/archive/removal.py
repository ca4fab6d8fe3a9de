"""Removes the closed logs that were archived longer ago than `archive.keep_local`.

1. A closed log is old enough when its marker is.
2. S3 is asked for the digest of each object that the marker names. The bucket may be another one than it was when the
   marker was written, or it may be empty: somebody has changed `archive.url`, or a bucket in memory has ended.
3. If S3 has them all, the closed log is removed.
4. If S3 lacks one, the marker is removed and the closed log stays. The next pass archives it again.
"""

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from tracker import telemetry, visit_log_files
from tracker.visit_log_files import archived_marker

log = logging.getLogger(__name__)


async def remove_archived(
    path: Path, keep_seconds: float, digest: Callable[[str], Awaitable[str | None]], prefix: str
) -> None:
    """Remove closed logs of the visit log `path`. `digest` is that of the bucket; its keys begin with `prefix`.

    Raises AwsRefused, AwsUnreachable and OSError. The next call goes on where this one has ended.
    """
    for closed in await asyncio.to_thread(_archived_before, path, time.time() - keep_seconds):
        marker = archived_marker(path, closed)
        missing = await _missing(marker, digest, prefix)
        if missing is None:
            await asyncio.to_thread(closed.unlink, missing_ok=True)
            telemetry.ARCHIVE_REMOVED.inc()
            log.info("closed_log_removed file=%s; It is in the archive for longer than archive.keep_local.", closed)
        else:
            await asyncio.to_thread(marker.unlink, missing_ok=True)
            log.warning(
                "marker_removed log=%s missing=%s; The log was archived before, but the bucket does not have this "
                "object of it now. The log stays on this disk, and the next pass archives it again.",
                *(closed, missing),
            )


def _archived_before(path: Path, at: float) -> list[Path]:
    """The closed logs whose markers are older than `at`, in seconds since 1970. Raises OSError."""
    found = []
    for closed in [*visit_log_files.closed_logs(path), *visit_log_files.logs_of_logrotate(path)]:
        marker = archived_marker(path, closed)
        if marker.exists() and marker.stat().st_mtime < at:
            found.append(closed)
    return found


async def _missing(marker: Path, digest: Callable[[str], Awaitable[str | None]], prefix: str) -> str | None:
    """The first object of the marker that S3 does not have as it was archived; None when S3 has them all."""
    try:
        content = json.loads(await asyncio.to_thread(marker.read_bytes))
        names, expected = list(content["objects"]), content["digest"]
    except (ValueError, KeyError, TypeError):
        return "unknown, the marker is damaged"
    for name in names:
        if await digest(f"{prefix}{name}") != expected:
            return str(name)
    return None
