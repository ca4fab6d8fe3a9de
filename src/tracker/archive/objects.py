"""The files of one closed log, as they become objects: Parquet for each UTC day, and the malformed lines.

The same lines make the same names and, with one release of DuckDB, the same bytes, because one thread works in the
order of the log. Lines are validated by `tracker.analysis.plain`, as for a report. So both know the same visits.
"""

import asyncio
import gzip
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

import duckdb

from tracker.analysis.database import READ_PLAIN, open_database, scan
from tracker.archive.lines import ClosedLog, Lines
from tracker.errors import TrackerError
from tracker.files import reason
from tracker.temporary_folder import temporary_folder
from tracker.visit_log_files import closed_name, forms

# Measured with realistic data, see docs/adr/0042. Version 2 of the data pages has the encodings by differences.
PARQUET = "FORMAT parquet, COMPRESSION zstd, PARQUET_VERSION v2, ROW_GROUP_SIZE 245760"

_COLUMNS = (
    "make_timestamptz(epoch_us(t)) AS time, unescape(r) AS page, unescape(u) AS user_agent, i AS ip, $log AS log, line"
)


@dataclass(frozen=True, slots=True)
class Made:
    """A file that becomes an object. `name` is its key in the archive, below the prefix."""

    name: str
    file: Path
    lines: int


@dataclass(frozen=True, slots=True)
class MadeObjects:
    digest: str
    """SHA-256 of the format and of all lines of the closed log. Each of its objects has it."""
    visits: int
    malformed: int
    objects: tuple[Made, ...]


@asynccontextmanager
async def objects_of(closed: Path) -> AsyncIterator[MadeObjects]:
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


def _make(closed: Path, folder: Path, ending: threading.Event) -> MadeObjects:
    with _open(closed) as opened:
        made = make_objects(opened, folder, ending)
        if not opened.is_unchanged():
            raise TrackerError(
                f"{opened.path}: it was changed or replaced while it was read, so it is no closed log yet"
            )
        return made


def _open(closed: Path) -> ClosedLog:
    """The log, which may have been compressed since it was listed. Raises OSError."""
    for name in forms(closed):
        with suppress(FileNotFoundError):
            return ClosedLog(name)
    return ClosedLog(closed)  # raises FileNotFoundError


def make_objects(log: ClosedLog, folder: Path, ending: threading.Event) -> MadeObjects:
    """Make the files in `folder`. Raises TrackerError and OSError, and StopRequested soon after `ending` is set."""
    name = closed_name(log.path)
    day = log.main_day()
    main, others, malformed = folder / "main", folder / "others", folder / "malformed"
    with open_database(threads=1) as database:
        with (
            others.open("wb") as others_file,
            malformed.open("wb") as malformed_file,
            # Neither a time nor a name is in the header, so the same lines make the same bytes.
            gzip.GzipFile("", "wb", fileobj=malformed_file, mtime=0) as packed,
        ):
            lines = Lines(log, day, others_file, cast(IO[bytes], packed), ending)
            with scan(lines, readers=1) as source:
                numbered = f"(SELECT *, row_number() OVER () AS line FROM {source})"
                count = _write(database, f"{numbered} WHERE t IS NOT NULL", name, main)
        days = [Made(_day_name(day, name), main, count)] if count else []
        if others.stat().st_size:
            days += _other_days(database, others, name, folder, ending)
    visits = sum(each.lines for each in days)
    if lines.malformed:
        days.append(Made(f"_malformed/{name}.gz", malformed, lines.malformed))
    return MadeObjects(lines.digest, visits, lines.malformed, tuple(days))


def _other_days(
    database: duckdb.DuckDBPyConnection, others: Path, name: str, folder: Path, ending: threading.Event
) -> Iterator[Made]:
    path = str(others).replace("'", "''")
    database.execute(
        f"CREATE TABLE others AS SELECT * FROM read_csv('{path}', columns={{'line': 'BIGINT', 't': 'TIMESTAMP', "
        f"'r': 'VARCHAR', 'u': 'VARCHAR', 'i': 'VARCHAR'}}, {READ_PLAIN}) ORDER BY t::DATE, line"
    )
    for (day,) in database.execute("SELECT DISTINCT t::DATE::VARCHAR AS day FROM others ORDER BY day").fetchall():
        if ending.is_set():
            return
        file = folder / day
        source = f"others WHERE t >= DATE '{day}' AND t < DATE '{day}' + 1"
        yield Made(_day_name(day, name), file, _write(database, source, name, file))


def _write(database: duckdb.DuckDBPyConnection, source: str, log: str, file: Path) -> int:
    """Write the visits of `source`, and return their number."""
    path = str(file).replace("'", "''")
    copied = database.execute(
        f"COPY (SELECT {_COLUMNS} FROM {source}) TO '{path}' ({PARQUET}, USE_TMP_FILE false)", {"log": log}
    ).fetchone()
    assert copied is not None  # COPY returns the number of rows
    return int(copied[0])


def _day_name(day: str, log: str) -> str:
    return f"date={day}/{log}.parquet"
