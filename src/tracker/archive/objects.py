"""The files of one closed log, as they become objects: Parquet for each UTC day, and the malformed lines.

The same lines make the same names and, with one release of DuckDB, the same bytes: one thread, in the order of the log.
Lines are validated and brought into one form by `tracker.analysis.plain`, as for a report, so both know the same visits.
"""

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import duckdb

from tracker.analysis.database import READ_PLAIN, open_database, scan
from tracker.archive.lines import ClosedLog, Lines
from tracker.visit_log_files import closed_name

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


def make_objects(log: ClosedLog, folder: Path, ending: threading.Event) -> MadeObjects:
    """Make the files in `folder`. Raises TrackerError and OSError, and StopRequested soon after `ending` is set."""
    name = closed_name(log.path)
    day = log.main_day()
    others, malformed = folder / "others", folder / "malformed"
    lines = Lines(log, day, others, malformed, ending)
    try:
        with open_database() as database:
            database.execute("SET threads = 1")
            main = folder / "main"
            with scan(lines, readers=1) as source:
                numbered = f"(SELECT *, row_number() OVER () AS line FROM {source})"
                count = _write(database, f"{numbered} WHERE t IS NOT NULL", name, main)
            lines.close()
            days = [Made(_day_name(day, name), main, count)] if count else []
            if others.stat().st_size:
                days += _other_days(database, others, name, folder, ending)
    finally:
        lines.close()
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
