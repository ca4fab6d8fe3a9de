"""Removes closed logs that were archived longer ago than `archive.keep_local`.

1. The age of a marker is the time since it was written, by the clock of this machine.
2. S3 is asked for each object that the marker names. If one is missing, the log stays, which is a problem.
3. The closed log is removed.

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
from typing import Protocol

from tracker import telemetry
from tracker.archive_marker import read_marker
from tracker.errors import AwsRefused, AwsUnreachable
from tracker.files import reason
from tracker.visit_log_files import archived_directory, archived_marker, closed_name

log = logging.getLogger(__name__)


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

    async def remove(self, archived: Sequence[str]) -> AsyncIterator[str]:
        """Remove those of the files with these names that were kept long enough. Yields the problems."""
        for file in await asyncio.to_thread(self._old, archived):
            try:
                if missing := await self._missing(file):
                    yield (
                        f"{file} is not removed, because its object {missing} is not in the archive any more. Put it "
                        f"back; or remove {archived_marker(self._path, file)}, and the next pass archives the log again"
                    )
                    continue
                await asyncio.to_thread(file.unlink, missing_ok=True)
            except (AwsRefused, AwsUnreachable) as error:
                yield f"{file} is not removed, because S3 cannot be asked whether it has its objects: {error}"
                return
            except OSError as error:
                yield f"{file} is not removed: {reason(error)}"
                continue
            telemetry.ARCHIVE_REMOVED.inc()
            log.info("closed_log_removed file=%s; It is in the archive for longer than archive.keep_local.", file)

    def _old(self, archived: Sequence[str]) -> list[Path]:
        now = time.time()
        markers = os.fspath(archived_directory(self._path))
        old = []
        for name in archived:
            with suppress(OSError):  # a marker that is gone since it was listed: the log stays
                if now - os.stat(f"{markers}/{closed_name(name)}").st_mtime > self._keep_seconds:
                    old.append(self._path.with_name(name))
        return old

    async def _missing(self, file: Path) -> str | None:
        """An object that S3 does not have, or None."""
        marker = await asyncio.to_thread(read_marker, archived_marker(self._path, file))
        if marker is None:
            return "that its damaged marker does not name"
        for name in marker.objects:
            if await self._bucket.digest(f"{self._prefix}{name}") is None:
                return name
        return None
