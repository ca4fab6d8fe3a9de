"""The files of one closed log, as they become objects: Parquet for each UTC day, and the malformed lines.

The same lines make the same names and, with one release of Arrow, the same bytes, because one thread works in the order
of the log. Lines are validated by `tracker.analysis.plain`, as for a report. So both know the same visits.
"""

import asyncio
import gzip
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from tracker.analysis.parquet_files import MALFORMED, SUFFIX
from tracker.archive.closed_logs import opened_by_any_name
from tracker.archive.day_files import DayFiles
from tracker.archive.lines import ClosedLog, Lines
from tracker.errors import TrackerError
from tracker.files import reason
from tracker.temporary_folder import temporary_folder
from tracker.visit_log_files import GZIP_SUFFIX, closed_name

# The names of the objects: date=2026-11-24/LOG.parquet and _malformed/LOG.gz.
_DAY = "date="


@dataclass(frozen=True, slots=True)
class NewObject:
    """A file that becomes an object. `name` is its key below the prefix of the archive."""

    name: str
    file: Path


@dataclass(frozen=True, slots=True)
class NewObjects:
    """The objects of one closed log."""

    digest: str
    """SHA-256 of the format and of all lines of the closed log. Each of its objects has it."""
    visits: int
    malformed: int
    objects: tuple[NewObject, ...]
    modified_ns: int
    """When the closed log was changed last, in nanoseconds since 1970."""


@asynccontextmanager
async def objects_of(closed: Path) -> AsyncIterator[NewObjects]:
    """The objects of `closed`, in a temporary folder (under TMPDIR). Raises TrackerError and OSError."""
    ending = threading.Event()
    with temporary_folder() as folder:
        making = asyncio.ensure_future(asyncio.to_thread(_make, closed, folder, ending))
        try:
            made = await asyncio.shield(making)
        except OSError as error:
            if error.filename is not None:
                raise
            raise TrackerError(f"{closed}: its objects cannot be written in {folder}: {reason(error)}") from error
        finally:
            ending.set()
            await asyncio.wait([making])  # a thread cannot be cancelled; it ends with the next block of lines
        yield made


def _make(closed: Path, folder: Path, ending: threading.Event) -> NewObjects:
    with opened_by_any_name(closed, ClosedLog) as opened:
        made = make_objects(opened, folder, ending)
        if not opened.is_unchanged():
            raise TrackerError(
                f"{opened.path}: it was changed or replaced while it was read, so it is no closed log yet"
            )
        return made


def make_objects(log: ClosedLog, folder: Path, ending: threading.Event) -> NewObjects:
    """Make the files in `folder`. Raises TrackerError and OSError, and StopRequested soon after `ending` is set."""
    name = closed_name(log.path)
    malformed = folder / "malformed"
    with (
        DayFiles(folder, name) as days,
        malformed.open("wb") as file,
        # Neither a time nor a name is in the header, so the same lines make the same bytes.
        gzip.GzipFile("", "wb", fileobj=file, mtime=0) as packed,
    ):
        lines = Lines(log, cast(IO[bytes], packed))
        for part in lines.parts(ending):
            days.add(part.day, part.visits)
        made = list(days.finish())
    objects = [NewObject(f"{_DAY}{each.day}/{name}{SUFFIX}", each.path) for each in made]
    if lines.malformed:
        objects.append(NewObject(f"{MALFORMED}/{name}{GZIP_SUFFIX}", malformed))
    visits = sum(each.rows for each in made)
    return NewObjects(lines.digest, visits, lines.malformed, tuple(objects), log.modified_ns)


def is_object_of(closed: Path, name: str) -> bool:
    """Whether the object with this name, its key below the prefix, is one that `closed` makes, whatever its days."""
    folder, _, file = name.rpartition("/")
    log = closed_name(closed)
    return (folder.startswith(_DAY) and "/" not in folder and file == f"{log}{SUFFIX}") or (
        name == f"{MALFORMED}/{log}{GZIP_SUFFIX}"
    )


def may_have_lines(name: str) -> bool:
    """Whether an object with this name, its key below the prefix, can have lines: ours, or any other Parquet file."""
    return name.endswith(SUFFIX) or is_malformed(name)


def is_malformed(name: str) -> bool:
    """Whether the object with this name has malformed lines."""
    return name.startswith(f"{MALFORMED}/") and name.endswith(GZIP_SUFFIX)
