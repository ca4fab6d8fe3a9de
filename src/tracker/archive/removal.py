"""Removes the closed logs that were archived longer ago than `archive.keep_local`.

1. A closed log is old enough when its marker is.
2. S3 is asked for the digest of each object that the marker names. The bucket may be another one than it was when the
   marker was written, or it may be empty: somebody has changed `archive.url`, or a bucket in memory has ended.
3. If S3 has them all, the closed log is removed.
4. If S3 lacks one, the closed log stays, and the operator decides. It is not archived again by itself, because after a
   change of `archive.url` its lines would be in the old archive and in the new one.
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

Marker = tuple[Path, int]
"""A marker, and when it was written, in nanoseconds: one that is written again is another one."""


class Removal:
    """Removes closed logs of the visit log `path`. `digest` asks the bucket for the digest of a key, or None."""

    def __init__(self, path: Path, keep_seconds: float, digest: Callable[[str], Awaitable[str | None]]) -> None:
        self._path = path
        self._keep_seconds = keep_seconds
        self._digest = digest
        self._not_archived: dict[Marker, str] = {}  # so that S3 is asked once, and not in each pass

    async def run(self, prefix: str) -> list[str]:
        """Remove what is old enough; the keys begin with `prefix`. Returns why closed logs stay.

        Raises AwsRefused, AwsUnreachable and OSError. The next call goes on where this one has ended.
        """
        old = await asyncio.to_thread(self._old)
        known, self._not_archived = self._not_archived, {}
        for closed, marker in old:
            problem = known.get(marker) or await self._problem(closed, marker[0], prefix)
            if problem:
                self._not_archived[marker] = problem
                continue
            await asyncio.to_thread(closed.unlink, missing_ok=True)
            telemetry.ARCHIVE_REMOVED.inc()
            log.info("closed_log_removed file=%s; It is in the archive for longer than archive.keep_local.", closed)
        return list(self._not_archived.values())

    def _old(self) -> list[tuple[Path, Marker]]:
        """The closed logs whose markers are old enough. Raises OSError."""
        before = time.time() - self._keep_seconds
        found = []
        for closed in [*visit_log_files.closed_logs(self._path), *visit_log_files.logs_of_logrotate(self._path)]:
            marker = archived_marker(self._path, closed)
            if marker.exists() and (status := marker.stat()).st_mtime < before:
                found.append((closed, (marker, status.st_mtime_ns)))
        return found

    async def _problem(self, closed: Path, marker: Path, prefix: str) -> str | None:
        """Why `closed` may not be removed; None when S3 has every object that its marker names."""
        try:
            content = json.loads(await asyncio.to_thread(marker.read_bytes))
            names, expected = list(content["objects"]), content["digest"]
        except (ValueError, KeyError, TypeError):
            return f"{closed} stays: {marker} is damaged. Remove the marker; the next pass archives the log again"
        for name in names:
            if await self._digest(f"{prefix}{name}") != expected:
                return (
                    f"{closed} stays: it was archived, but S3 does not have {name} of it. If the bucket was emptied, "
                    f"or archive.url names another one, remove {marker}: then the next pass archives the log again"
                )
        return None
