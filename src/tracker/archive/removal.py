"""Removes the closed logs that were archived longer ago than `archive.keep_local`.

1. A closed log is old enough when its marker is, by the clock of this machine.
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
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path

from tracker import telemetry
from tracker.archive_marker import read_marker
from tracker.errors import AwsRefused, AwsUnreachable
from tracker.files import reason
from tracker.visit_log_files import archived_directory, archived_marker, closed_name

log = logging.getLogger(__name__)

Old = tuple[Path, int]
"""A closed log, and when its marker was written, in nanoseconds: a marker that is written again is another one."""


class Removal:
    """Removes closed logs of the visit log `path`.

    The keys of their objects begin with `prefix`. `digest` asks the bucket for the digest of a key, or None.
    """

    def __init__(
        self, path: Path, keep_seconds: float, prefix: str, digest: Callable[[str], Awaitable[str | None]]
    ) -> None:
        self._path = path
        self._keep_seconds = keep_seconds
        self._prefix = prefix
        self._digest = digest
        self._not_archived: dict[Old, str] = {}  # so that S3 is asked once, and not in each pass

    async def remove(self, archived: Sequence[str]) -> AsyncIterator[str]:
        """Remove those of the files with these names that are old enough, and yield why others of them stay."""
        known, self._not_archived = self._not_archived, {}
        for old in await asyncio.to_thread(self._old, archived):
            file, _ = old
            try:
                if problem := known.get(old) or await self._problem(file):
                    self._not_archived[old] = problem
                    yield problem
                    continue
                await asyncio.to_thread(file.unlink, missing_ok=True)
            except (AwsRefused, AwsUnreachable) as error:
                yield f"{file} stays: S3 cannot be asked for its objects: {error}"
                return
            except OSError as error:
                yield f"{file} cannot be removed: {reason(error)}"
                continue
            telemetry.ARCHIVE_REMOVED.inc()
            log.info("closed_log_removed file=%s; It is in the archive for longer than archive.keep_local.", file)

    def _old(self, archived: Sequence[str]) -> list[Old]:
        before = time.time() - self._keep_seconds
        markers = os.fspath(archived_directory(self._path))
        old = []
        for name in archived:
            with suppress(OSError):  # a marker that is gone since it was listed: the log stays
                status = os.stat(f"{markers}/{closed_name(name)}")
                if status.st_mtime < before:
                    old.append((self._path.with_name(name), status.st_mtime_ns))
        return old

    async def _problem(self, file: Path) -> str | None:
        """Why `file` may not be removed; None when S3 has every object that its marker names."""
        path = archived_marker(self._path, file)
        marker = await asyncio.to_thread(read_marker, path)
        if marker is None:
            return f"{file} stays: {path} is damaged. Remove the marker; the next pass archives the log again"
        for name in marker.objects:
            if await self._digest(f"{self._prefix}{name}") != marker.digest:
                return (
                    f"{file} stays: it was archived, but S3 does not have {name} of it. If the bucket was emptied, "
                    f"or archive.url names another one, remove {path}: then the next pass archives the log again"
                )
        return None
