"""Archives closed logs: each line of a closed log becomes part of exactly one object.

One closed log, in this order:

1. The folder of the logs is listed and then synced. A power cut could otherwise undo the rename of a rotation that was
   seen here, and the same lines would be closed again under another name.
2. The log is locked, the empty file `NAME.part` is made durable beside its marker to be, and the lock is released. From
   now on `tracker erase` refuses this log. It would otherwise replace it between two objects, or after it was read.
3. The log is read to its end. Its objects are made as temporary files, one for each day and one for malformed lines,
   and the digest of all its lines is known.
4. For each object S3 is asked for the digest of the key. The same digest: this object is done. Another one: somebody
   else's object has this name, which is an error. No object: it is put, on the condition that none exists, and S3 is
   asked again. So only what S3 says it has counts as stored, whether the reply to a put is lost, late or forged.
   A digest that the log had before lines of it were erased is the same digest: the object is older than the erasure.
   The marker gets the digest that the objects have.
5. When all objects are done, the marker is written into `NAME.part`, synced, and renamed to its name.
6. Only a log with a marker may be removed. The archiver asks S3 once more before it removes one (`removal`).

The process may end between any two steps. The next pass repeats the log from step 1. The same lines make the same keys
and the same digest, so what was stored before is found. A closed log is known by its name without `.gz` (`.xz`,
`.bz2`, `.zst`), and the digest is that of its lines, so a log that is compressed meanwhile stays the same log.
"""

import asyncio
import json
import logging
import os
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from tracker import telemetry, visit_log_files
from tracker.archive.objects import Made, MadeObjects, objects_of
from tracker.archive.removal import Removal
from tracker.aws import bucket_and_prefix
from tracker.config import ArchiveConfig
from tracker.errors import ArchiveConflict, AwsRefused, AwsUnreachable, TrackerError
from tracker.files import make_directory, open_shared, sync_directory
from tracker.lifecycle import Backoff
from tracker.storage.erasure_log import digests
from tracker.storage.ledger_reader import read_extent
from tracker.visit_log_files import archived_marker, archiving_path, closed_name, forms

log = logging.getLogger(__name__)

TRIES = 5  # of one object in one pass, when S3 fails in a way that may be over soon
_PASSING = {408, 409, 429}


class Bucket(Protocol):
    """Where objects are kept. Both methods raise AwsRefused and AwsUnreachable."""

    async def digest(self, key: str) -> str | None: ...

    async def put(self, key: str, file: Path, digest: str) -> None: ...


@dataclass
class Pass:
    """What one pass has found and done."""

    archived: int = 0
    waiting: int = 0
    """Closed logs that are still not archived."""
    conflicts: int = 0
    problems: list[str] = field(default_factory=list)
    """What failed, conflicts included."""


class Archiver:
    """Archives the closed logs of the visit log `path` into `bucket`, below the prefix of `archive.url`."""

    def __init__(self, path: Path, bucket: Bucket, config: ArchiveConfig, backoff: Backoff | None = None) -> None:
        self._path = path
        self._bucket = bucket
        _, self._prefix = bucket_and_prefix(config)
        self._url = str(config.url).rstrip("/")
        self._removal = None if config.keep_local is None else Removal(path, config.keep_local, bucket.digest)
        self._backoff = backoff or Backoff()
        self._logged: set[str] = set()  # problems that were logged; each is logged once

    async def run_once(self) -> Pass:
        """Archive every closed log that is not yet, the oldest first. Failures are logged and counted, not raised."""
        done = Pass()
        try:
            waiting = await asyncio.to_thread(self._waiting, done)
        except OSError as error:
            self._failed(done, str(error))
            telemetry.ARCHIVE_WORKING.set(0)
            return done
        self._measure(waiting)
        left = list(waiting)
        for at, closed in waiting:
            try:
                await self._archive(closed)
            except ArchiveConflict as error:
                done.conflicts += 1
                self._failed(done, str(error))
            except (AwsRefused, AwsUnreachable) as error:
                # The next log would fail as well.
                self._failed(done, f"{self._url}: {error}")
                break
            except (TrackerError, OSError) as error:
                self._failed(done, str(error))
            else:
                done.archived += 1
                left.remove((at, closed))
                self._measure(left)
        done.waiting = len(left)
        await self._remove_archived(done)
        self._logged &= set(done.problems)
        telemetry.ARCHIVE_WORKING.set(not done.problems)
        return done

    def _waiting(self, done: Pass) -> list[tuple[float, Path]]:
        """The closed logs without a marker, with the times of their rotations, in this order. Raises OSError."""
        make_directory(visit_log_files.archived_directory(self._path), 0o750)
        for file in visit_log_files.numbered_logs(self._path):
            self._failed(done, f"{file}: logrotate changes this name at each rotation: it needs `dateext`")
        closed = visit_log_files.closed_logs(self._path)
        if renamed := visit_log_files.logs_of_logrotate(self._path):
            try:
                inode = read_extent(visit_log_files.ledger_path(self._path)).inode
            except TrackerError as error:
                self._failed(done, str(error))
            else:
                # Until storage has opened the new log, it may append to the one that logrotate has renamed.
                closed += [file for file in renamed if file.stat().st_ino != inode and file.stat().st_size]
        found: dict[str, Path] = {}
        for file in closed:  # `x` comes before `x.gz`, which is not complete while `x` exists
            if not archived_marker(self._path, file).exists():
                found.setdefault(closed_name(file), file)
        sync_directory(self._path.parent)  # behind the listing: each name that was seen is durable now
        return sorted((self._closed_at(file), file) for file in found.values())

    def _closed_at(self, closed: Path) -> float:
        """The time of the rotation by storage, or of the last line before one by logrotate, in seconds since 1970."""
        at = visit_log_files.closed_at(self._path, closed)
        return closed.stat().st_mtime if at is None else at.timestamp()

    async def _archive(self, closed: Path) -> None:
        begin = time.monotonic()
        part = archiving_path(self._path, closed)
        await asyncio.to_thread(_begin, part, closed)
        async with objects_of(closed) as made:
            digest = made.digest
            for each in made.objects:
                digest = await self._store(closed, each, digest)
            await asyncio.to_thread(
                _write_marker, part, archived_marker(self._path, closed), replace(made, digest=digest)
            )
        telemetry.ARCHIVED_LOGS.inc()
        telemetry.ARCHIVED_VISITS.inc(made.visits)
        telemetry.ARCHIVED_MALFORMED.inc(made.malformed)
        log.info(
            "log_archived log=%s objects=%d visits=%d malformed=%d seconds=%.1f; Each line of this closed log is in "
            "the archive. It may be removed.",
            *(closed, len(made.objects), made.visits, made.malformed, time.monotonic() - begin),
        )

    async def _store(self, closed: Path, made: Made, digest: str) -> str:
        """Step 4; returns the digest that S3 has. Raises ArchiveConflict, and AwsRefused or AwsUnreachable."""
        key = f"{self._prefix}{made.name}"
        self._backoff.reset()
        tries = 0
        while True:
            try:
                found = await self._bucket.digest(key)
                if found is None:
                    tries += 1
                    if tries > TRIES:
                        raise AwsUnreachable(f"{made.name} was put {TRIES} times, and S3 has no such object")
                    await self._bucket.put(key, made.file, digest)
                    continue
            except (AwsRefused, AwsUnreachable) as error:
                tries += 1
                if tries > TRIES or not may_be_over_soon(error):
                    raise
                await asyncio.sleep(self._backoff.next())
                continue
            if found == digest or found in await asyncio.to_thread(digests, self._path, closed, digest):
                return found
            raise ArchiveConflict(
                f"{closed} differs from {self._url}/{made.name}, which has another digest ({found or 'none'}, expected "
                f"{digest}): two logs have this name, or the log was changed. Give each storage a prefix of its own"
            )

    async def _remove_archived(self, done: Pass) -> None:
        if self._removal is None:
            return
        try:
            for problem in await self._removal.run(self._prefix):
                self._failed(done, problem)
        except (AwsRefused, AwsUnreachable) as error:
            self._failed(done, f"{self._url}: {error}")
        except OSError as error:
            self._failed(done, str(error))

    def _failed(self, done: Pass, problem: str) -> None:
        telemetry.ARCHIVE_FAILURES.inc()
        if problem not in self._logged:
            log.error(
                "archive_failed error=%s; No line is lost: the closed log stays, and the next pass tries again. Fix "
                "what the error names.",
                problem,
            )
        self._logged.add(problem)
        done.problems.append(problem)

    def _measure(self, waiting: list[tuple[float, Path]]) -> None:
        telemetry.ARCHIVE_WAITING.set(len(waiting))
        telemetry.ARCHIVE_AGE.set(max(0.0, time.time() - waiting[0][0]) if waiting else 0.0)


def _begin(part: Path, closed: Path) -> None:
    """Step 2. Raises HeldByAnother while `tracker erase` works on the log, and OSError."""
    with ExitStack() as stack:
        for name in forms(closed):  # it may have been compressed in between
            with suppress(FileNotFoundError):
                stack.enter_context(open_shared(name))
                break
        else:
            stack.enter_context(open_shared(closed))  # raises FileNotFoundError
        part.touch(0o640)
        sync_directory(part.parent)


def _write_marker(part: Path, marker: Path, made: MadeObjects) -> None:
    content = {
        "digest": made.digest,
        "visits": made.visits,
        "malformed": made.malformed,
        "objects": [each.name for each in made.objects],
    }
    with part.open("w", encoding="utf-8") as file:
        json.dump(content, file)
        file.flush()
        os.fsync(file.fileno())
    part.rename(marker)
    sync_directory(marker.parent)


def may_be_over_soon(error: AwsRefused | AwsUnreachable) -> bool:
    """Whether it makes sense to make the same call again in this pass."""
    return not isinstance(error, AwsRefused) or error.status >= 500 or error.status in _PASSING
