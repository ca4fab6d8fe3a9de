"""The selected lines of one object of the archive: counts them, and writes the object without them.

Both kinds of objects are read: Parquet, also of others if it has the columns, and malformed lines. The other rows keep
their order, and the columns and the numbers of the lines stay. An object of which every line is selected becomes one
without lines. DuckDB works with one thread and in the memory that reports have, whatever the size of the object.
"""

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb

from tracker.analysis.database import open_database
from tracker.archive.objects import PARQUET
from tracker.core.erasure import Key, Selection
from tracker.errors import MalformedMessage, TrackerError
from tracker.storage.erasing import Counts, kept_lines, write_kept

_ROWS = "read_parquet($file, hive_partitioning = false, file_row_number = true)"
_KEY = f"""CASE WHEN ip IN (SELECT ip FROM read_parquet($addresses)) THEN '{Key.IP.value}'
    WHEN list_contains($agents, user_agent) THEN '{Key.AGENT.value}'
    WHEN list_contains($pages, page) THEN '{Key.PAGE.value}' END"""
UNREADABLE = (TrackerError, OSError, EOFError, zlib.error)
"""The errors of a file that cannot be read or written."""
_CHUNK = 10_000  # of different addresses


def is_read(name: str) -> bool:
    """Whether the object of this name, its key below the prefix of the archive, can have lines."""
    return name.endswith(".parquet") or _is_malformed(name)


def _is_malformed(name: str) -> bool:
    return name.startswith("_malformed/") and name.endswith(".gz")


class ObjectFile:
    """A copy of an object on this machine. Its methods raise the errors of UNREADABLE."""

    def __init__(self, name: str, file: Path, selection: Selection) -> None:
        self._is_malformed = _is_malformed(name)
        self._file = file
        self._addresses = file.with_name(f"{file.name}.addresses")
        self._has_found = False  # whether this file is written
        self._selection = selection

    def count(self) -> Counts:
        """What is selected. `unreadable` malformed lines are those that have one of the values as a part of them."""
        return self._count(self._file)

    def write_kept(self, target: Path, counts: Counts) -> None:
        """Write the lines that are not selected to `target`. `counts` are those of this file."""
        if self._is_malformed:
            with self._file.open("rb") as source, target.open("wb") as output:
                write_kept(source, output, self._key_of)
        else:
            path = str(target).replace("'", "''")
            with self._open(self._file) as (database, values):
                database.execute(
                    f"COPY (SELECT * EXCLUDE (file_row_number) FROM {_ROWS} WHERE ({_KEY}) IS NULL "
                    f"ORDER BY file_row_number) TO '{path}' ({PARQUET}, USE_TMP_FILE false)",
                    values,
                )
        written = self._count(target)
        if written.total_selected or written.lines != counts.lines - counts.total_selected:
            raise TrackerError(
                f"{written.lines} lines were written, with {written.total_selected} of the selected ones; expected "
                f"{counts.lines - counts.total_selected} and none. The object was left as it is"
            )

    def _count(self, file: Path) -> Counts:
        counts = Counts()
        if self._is_malformed:
            with file.open("rb") as source:
                for _ in kept_lines(source, self._key_of, counts):
                    pass
            return counts
        with self._open(file) as (database, values):
            found = database.execute(f"SELECT {_KEY} AS key, count(*) FROM {_ROWS} GROUP BY key", values).fetchall()
        for key, lines in found:
            counts.lines += lines
            if key is not None:
                counts.selected[Key(key)] = lines
        return counts

    def _key_of(self, piece: bytes) -> Key | None:
        """By what a line of malformed lines is selected; it follows its number and a space."""
        line = piece.partition(b" ")[2]
        try:
            return self._selection.key_of(line)
        except MalformedMessage:
            if self._selection.is_mentioned(line):
                raise
            return None

    @contextmanager
    def _open(self, file: Path) -> Iterator[tuple[duckdb.DuckDBPyConnection, dict[str, Any]]]:
        """A database, and the values that _ROWS and _KEY need for `file`."""
        with open_database(threads=1) as database:
            if not self._has_found:
                self._find_addresses(database)
                self._has_found = True
            yield (
                database,
                {
                    "file": str(file),
                    "addresses": str(self._addresses),
                    "agents": _texts(self._selection.agents),
                    "pages": _texts(self._selection.pages),
                },
            )

    def _find_addresses(self, database: duckdb.DuckDBPyConnection) -> None:
        """Write the selected addresses into a file. Those of a network are the ones of it that the object has."""
        insert = "INSERT INTO wanted SELECT unnest($found)"
        database.execute("CREATE TABLE wanted (ip VARCHAR)")
        database.execute(insert, {"found": list(self._selection.addresses)})
        if self._selection.has_networks:
            question = f"SELECT DISTINCT ip FROM {_ROWS} WHERE ip IS NOT NULL"
            addresses = database.cursor().execute(question, {"file": str(self._file)})
            while chunk := addresses.fetchmany(_CHUNK):
                database.execute(insert, {"found": [ip for (ip,) in chunk if self._selection.has_address(ip)]})
        path = str(self._addresses).replace("'", "''")
        database.execute(f"COPY wanted TO '{path}' (FORMAT parquet)")


def _texts(values: frozenset[str]) -> list[str]:
    """The values that a Parquet file can have. Bytes of the command line that are no UTF-8 are in none."""
    return [value for value in values if not any("\ud800" <= character <= "\udfff" for character in value)]
