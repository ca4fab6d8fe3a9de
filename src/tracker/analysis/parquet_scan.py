"""Parquet files as visits for SQL, in the form that `database.scan` gives to the lines of text.

1. The columns of all files are checked by one question, and so is the number of their rows. A question for each file
   would take longer than the visits of an hour.
2. Rows that are no visits are counted, and left out. The statistics in a file of ours say that it has none, so DuckDB
   reads no column for it.
3. DuckDB computes most functions once for each entry of a dictionary and not for each row. So the SQL has functions of
   one column where it can.
"""

from collections.abc import Sequence
from typing import Any

import duckdb

from tracker.analysis.parquet_files import ParquetFiles
from tracker.errors import TrackerError

_COLUMNS = {"time": "TIMESTAMP WITH TIME ZONE", "page": "VARCHAR", "user_agent": "VARCHAR", "ip": "VARCHAR"}
_KINDS = (
    "SELECT file_name, "
    + ", ".join(f"min(duckdb_type) FILTER (name = '{name}')" for name in _COLUMNS)
    + " FROM parquet_schema(?) GROUP BY file_name ORDER BY file_name"
)
_ROWS = "SELECT sum(num_rows)::BIGINT FROM parquet_file_metadata(?)"
# Years that Python and a log line have.
_NO_VISIT = "(time IS NULL OR ip IS NULL OR time < '0001-01-01' OR time >= '10000-01-01')"


def parquet_visits(database: duckdb.DuckDBPyConnection, files: ParquetFiles, *, short: bool) -> str:
    """The SQL to write after FROM for all visits of `files`, and the numbers of their rows in `files`.

    Raises TrackerError when one of them is not a Parquet file of ours.
    """
    for path, *kinds in _ask(database, _KINDS, files.paths):
        for (name, expected), found in zip(_COLUMNS.items(), kinds, strict=True):
            if found != expected:
                raise TrackerError(
                    f"{path}: expected a column {name} of type {expected}, as the archive and `tracker export --to "
                    f"parquet` write it; found {found or 'none'}"
                )
    [(files.rows,)] = _ask(database, _ROWS, files.paths)
    listed = ", ".join("'" + path.replace("'", "''") + "'" for path in files.paths)
    source = f"read_parquet([{listed}], hive_partitioning = false)"  # `date=` in a path is no column that we need
    [(files.malformed,)] = database.execute(f"SELECT count(*) FROM {source} WHERE {_NO_VISIT}").fetchall()
    page, agent = "escape(page)", "escape(user_agent)"
    if short:
        page, agent = f"short_page({page})", f"short_text({agent})"
    condition = f" WHERE NOT {_NO_VISIT}" if files.malformed else ""
    return f"(SELECT time AT TIME ZONE 'UTC' AS t, {page} AS r, {agent} AS u, ip AS i FROM {source}{condition})"


def _ask(database: duckdb.DuckDBPyConnection, question: str, paths: Sequence[str]) -> list[Any]:
    """The answer to a question about all files. Raises TrackerError with the name of the one that cannot be read."""
    try:
        return database.execute(question, [paths]).fetchall()
    except duckdb.Error:
        _name_unreadable(database, question, paths)
        raise


def name_damaged(database: duckdb.DuckDBPyConnection, files: ParquetFiles) -> None:
    """Raises TrackerError with the name of the first file that cannot be read to its end, if there is one.

    An error of DuckDB in the middle of a file does not say which file it is.
    """
    every = ", ".join(f"bit_xor(hash({name}))" for name in _COLUMNS)
    _name_unreadable(database, f"SELECT {every} FROM read_parquet(?)", files.paths)


def _name_unreadable(database: duckdb.DuckDBPyConnection, question: str, paths: Sequence[str]) -> None:
    for path in paths:
        try:
            database.execute(question, [[path]]).fetchall()
        except duckdb.Error as error:
            reason = str(error).splitlines()[0]
            raise TrackerError(f"{path}: cannot be read as Parquet: {reason}") from error
