"""Removes closed logs that were archived longer ago than `archive.keep_local`.

1. The age of a marker is the time since it was written, by the clock of this machine.
2. S3 is asked for the digest of each object that the marker names. The bucket may be another one than it was when the
   marker was written, or it may be empty: somebody has changed `archive.url`, or a bucket in memory has ended.
3. If S3 has them all, the closed log is removed.
4. If S3 lacks one, the closed log stays, and the operator decides. It is not archived again by itself, because after a
   change of `archive.url` its lines would be in the old archive and in the new one.

Step 2 also protects from a wrong clock: S3 refuses every call of a machine whose clock differs by more than 15 minutes.
So no marker is written and no log is removed while the clock is wrong.
"""

import asyncio
import logging
import os
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, Protocol

from tracker import telemetry
from tracker.archive_marker import read_marker
from tracker.errors import AwsRefused, AwsUnreachable
from tracker.files import reason
from tracker.visit_log_files import archived_directory, archived_marker, closed_name

log = logging.getLogger(__name__)


class _Old(NamedTuple):
    """A closed log, and when its marker was written, in nanoseconds: one that is written again is another one."""

    file: Path
    marked: int


class Bucket(Protocol):
    """Raises AwsRefused and AwsUnreachable."""

    async def digest(self, key: str) -> str | None: ...


class Removal:
    """Removes closed logs of the visit log `path` whose objects are in `bucket` below `prefix`."""

    def __init__(self, path: Path, bucket: Bucket, prefix: str, keep_seconds: float) -> None:
        self._path = path
        self._bucket = bucket
        self._prefix = prefix
        self._keep_seconds = keep_seconds
        self._lacking: dict[_Old, str] = {}  # so that S3 is asked once, and not in each pass

    async def remove(self, archived: Sequence[str]) -> AsyncIterator[str]:
        """Remove those of the files with these names that were kept long enough. Yields the problems."""
        known, self._lacking = self._lacking, {}
        for old in await asyncio.to_thread(self._old, archived):
            try:
                if problem := known.get(old) or await self._problem(old.file):
                    self._lacking[old] = problem
                    yield problem
                    continue
                await asyncio.to_thread(old.file.unlink, missing_ok=True)
            except (AwsRefused, AwsUnreachable) as error:
                yield f"{old.file} is not removed, because S3 cannot be asked whether it has its objects: {error}"
                return
            except OSError as error:
                yield f"{old.file} is not removed: {reason(error)}"
                continue
            telemetry.ARCHIVE_REMOVED.inc()
            log.info("closed_log_removed file=%s; It is in the archive for longer than archive.keep_local.", old.file)

    def _old(self, archived: Sequence[str]) -> list[_Old]:
        now = time.time()
        markers = os.fspath(archived_directory(self._path))
        old = []
        for name in archived:
            with suppress(OSError):  # a marker that is gone since it was listed: the log stays
                status = os.stat(f"{markers}/{closed_name(name)}")
                if now - status.st_mtime > self._keep_seconds:
                    old.append(_Old(self._path.with_name(name), status.st_mtime_ns))
        return old

    async def _problem(self, file: Path) -> str | None:
        """Why `file` may not be removed; None when S3 has every object that its marker names."""
        path = archived_marker(self._path, file)
        marker = await asyncio.to_thread(read_marker, path)
        if marker is None:
            return f"{file} stays: {path} is damaged. Remove the marker; the next pass archives the log again"
        for name in marker.objects:
            if await self._bucket.digest(f"{self._prefix}{name}") != marker.digest:
                return (
                    f"{file} stays: it was archived, but S3 does not have {name} of it. If the bucket was emptied, "
                    f"or archive.url names another one, remove {path}: then the next pass archives the log again"
                )
        return None
