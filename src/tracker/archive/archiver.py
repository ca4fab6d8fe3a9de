"""Archives closed logs: each line of a closed log becomes part of exactly one object.

One archiver works on a log at a time: it holds a lock during each pass. One closed log, in this order:

1. The folder of the logs is listed and then synced. A power cut could otherwise undo the rename of a rotation that was
   seen here, and the same lines would be closed again under another name.
2. The log is locked, the empty file `NAME.part` is made durable beside its marker to be, and the lock is released. From
   now on `tracker erase` refuses this log while the archiver holds its own lock: it would otherwise replace the log
   between two objects, or after it was read. Afterwards it takes the objects of this log back first (`taking_back`).
3. The log is read to its end. Its objects are made as temporary files, one for each day and one for malformed lines,
   and the digest of all its lines is known.
4. For each object S3 is asked for the digest of the key. The same digest: this object is done. Another one: somebody
   else's object has this name, which is an error. No object: it is put, on the condition that none exists, and S3 is
   asked again. So only what S3 says it has counts as stored, whether the reply to a put is lost, late or forged.
   A digest that the log had before lines of it were erased is the same digest: the object is older than the erasure.
   The marker gets the digest that the objects have.
5. When all objects are done, the marker is written into `NAME.part`, synced, and renamed to its name.
6. Only a log with a marker of its own (`closed_logs`) may be removed. S3 is asked once more before that (`removal`).

The process may end between any two steps. The next pass repeats the log from step 1. The same lines make the same keys
and the same digest, so what was stored before is found. A closed log is known by its name without `.gz` (`.xz`,
`.bz2`, `.zst`), and the digest is that of its lines, so a log that is compressed meanwhile stays the same log.
"""

import asyncio
import logging
import math
import os
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from tracker import telemetry
from tracker.archive.closed_logs import ClosedLogs, Waiting, opened_by_any_name
from tracker.archive.objects import NewObject, objects_of
from tracker.archive.removal import Removal
from tracker.archive.retries import Retries
from tracker.archive_marker import Marker, write_marker
from tracker.aws import bucket_and_prefix
from tracker.config import ArchiveConfig
from tracker.errors import ArchiveConflict, AwsRefused, AwsUnreachable, MarkerFailed, TrackerError
from tracker.files import open_shared, reason, sync_directory, take_lock
from tracker.lifecycle import Backoff
from tracker.storage.erasure_log import digests
from tracker.visit_log_files import archived_marker, archiver_lock_path, archiving_path

log = logging.getLogger(__name__)


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
        self._closed_logs = ClosedLogs(path)
        self._removal: Removal | None = None
        if config.keep_local is not None:
            self._removal = Removal(path, config.keep_local, self._prefix, bucket.digest)
        self._retries = Retries(backoff)
        self._logged: set[str] = set()  # problems that were logged; each is logged once

    async def run_once(self) -> Pass:
        """Archive every closed log that is not yet, the oldest first. Failures are logged and counted, not raised."""
        done = Pass()
        try:
            self._closed_logs.make_folder()
            lock = take_lock(archiver_lock_path(self._path), "another archiver works on this log")
        except (TrackerError, OSError) as error:
            self._failed(done, str(error))
        else:
            try:
                await self._run(done)
            finally:
                os.close(lock)
        self._logged &= set(done.problems)
        telemetry.ARCHIVE_WORKING.set(not done.problems)
        return done

    async def _run(self, done: Pass) -> None:
        try:
            look = await asyncio.to_thread(self._closed_logs.look)
        except OSError as error:
            self._failed(done, str(error))
            return
        for problem in look.problems:
            self._failed(done, problem)
        await self._archive_all(look.waiting, look.stuck, done)
        if self._removal is not None:
            async for problem in self._removal.remove(look.archived):
                self._failed(done, problem)

    async def _archive_all(self, waiting: Sequence[Waiting], stuck: Sequence[Waiting], done: Pass) -> None:
        """Archive the `waiting` logs. Ends early after a failure that the next log would have as well."""
        oldest_failed = min((each.at for each in stuck), default=math.inf)
        for at, closed, *_ in waiting:
            _measure(len(stuck) + len(waiting) - done.archived, min(oldest_failed, at))
            ends = False
            try:
                await self._archive(closed)
                done.archived += 1
                continue
            except ArchiveConflict as error:
                done.conflicts += 1
                self._failed(done, str(error))
            except (AwsRefused, AwsUnreachable) as error:
                self._failed(done, f"{self._url}: {error}")
                ends = not _concerns_one_object(error)
            except (TrackerError, OSError) as error:
                self._failed(done, str(error))
                ends = isinstance(error, MarkerFailed)
            oldest_failed = min(oldest_failed, at)
            if ends:
                break
        done.waiting = len(stuck) + len(waiting) - done.archived
        _measure(done.waiting, oldest_failed)

    async def _archive(self, closed: Path) -> None:
        begin = time.monotonic()
        await asyncio.to_thread(_begin, archiving_path(self._path, closed), closed)
        async with objects_of(closed) as made:
            digest = made.digest
            for each in made.objects:
                digest = await self._store(closed, each, digest)
            marker = Marker(digest, made.visits, made.malformed, [each.name for each in made.objects], made.modified_ns)
            await asyncio.to_thread(_write_marker, archived_marker(self._path, closed), marker)
        telemetry.ARCHIVED_LOGS.inc()
        telemetry.ARCHIVED_VISITS.inc(made.visits)
        telemetry.ARCHIVED_MALFORMED.inc(made.malformed)
        log.info(
            "log_archived log=%s objects=%d visits=%d malformed=%d seconds=%.1f; Each line of this closed log is in "
            "the archive. It may be removed.",
            *(closed, len(made.objects), made.visits, made.malformed, time.monotonic() - begin),
        )

    async def _store(self, closed: Path, each: NewObject, digest: str) -> str:
        """Step 4; returns the digest that S3 has. Raises ArchiveConflict, and AwsRefused or AwsUnreachable."""
        found = await self._retries.reply(self._put_once, each, digest)
        if found != digest and found not in await asyncio.to_thread(digests, self._path, closed, digest):
            raise ArchiveConflict(
                f"{closed} differs from {self._url}/{each.name}, which has another digest ({found or 'none'}, expected "
                f"{digest}): two logs have this name, or the log was changed. Give each storage a prefix of its own"
            )
        return found

    async def _put_once(self, each: NewObject, digest: str) -> str:
        """The digest that S3 has of an object. It is put before that, unless S3 has it."""
        key = f"{self._prefix}{each.name}"
        found = await self._bucket.digest(key)
        if found is None:
            await self._bucket.put(key, each.file, digest)
            found = await self._bucket.digest(key)
        if found is None:
            raise AwsUnreachable(f"{each.name} was put, and S3 has no such object")
        return found

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


def _measure(waiting: int, oldest: float) -> None:
    """Set the gauges: how many logs wait, and since when the oldest of them, in seconds since 1970."""
    telemetry.ARCHIVE_WAITING.set(waiting)
    telemetry.ARCHIVE_AGE.set(max(0.0, time.time() - oldest))


def _begin(part: Path, closed: Path) -> None:
    """Step 2. Raises HeldByAnother while `tracker erase` works on the log, MarkerFailed and OSError."""
    with ExitStack() as locked:
        opened_by_any_name(closed, lambda name: locked.enter_context(open_shared(name)))
        try:
            part.touch(0o640)
            sync_directory(part.parent)
        except OSError as error:
            raise MarkerFailed(f"{part}: the marker cannot be written: {reason(error)}") from error


def _write_marker(file: Path, marker: Marker) -> None:
    """The end of step 5. Raises MarkerFailed."""
    try:
        write_marker(file, marker)
    except OSError as error:
        raise MarkerFailed(f"{file}: the marker cannot be written: {reason(error)}") from error


def _concerns_one_object(error: AwsRefused | AwsUnreachable) -> bool:
    """Whether S3 may take the next object. Credentials, bucket, policy and keys are the same for all of them."""
    return (
        isinstance(error, AwsRefused)
        and error.status in (400, 405, 411, 413)
        and not error.is_unknown_caller
        and not error.code.startswith("KMS")
    )
