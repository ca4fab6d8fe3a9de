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
_KEY = f"""CASE WHEN ip IN (SELECT ip FROM wanted) THEN '{Key.IP.value}'
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
        self._name = name
        self._file = file
        self._selection = selection

    def count(self) -> Counts:
        """What is selected. `unreadable` malformed lines are those that have one of the values as a part of them."""
        counts = Counts()
        if _is_malformed(self._name):
            with self._file.open("rb") as source:
                for _ in kept_lines(source, self._key_of, counts):
                    pass
            return counts
        with self._selected() as (database, values):
            found = database.execute(f"SELECT {_KEY} AS key, count(*) FROM {_ROWS} GROUP BY key", values).fetchall()
        for key, lines in found:
            counts.lines += lines
            if key is not None:
                counts.selected[Key(key)] = lines
        return counts

    def write_kept(self, target: Path, counts: Counts) -> None:
        """Write the lines that are not selected to `target`. `counts` are those of this file."""
        if _is_malformed(self._name):
            with self._file.open("rb") as source, target.open("wb") as output:
                write_kept(source, output, self._key_of)
        else:
            path = str(target).replace("'", "''")
            with self._selected() as (database, values):
                database.execute(
                    f"COPY (SELECT * EXCLUDE (file_row_number) FROM {_ROWS} WHERE ({_KEY}) IS NULL "
                    f"ORDER BY file_row_number) TO '{path}' ({PARQUET}, USE_TMP_FILE false)",
                    values,
                )
        written = ObjectFile(self._name, target, self._selection).count()
        if written.total_selected or written.lines != counts.lines - counts.total_selected:
            raise TrackerError(
                f"{written.lines} lines were written, with {written.total_selected} of the selected ones; expected "
                f"{counts.lines - counts.total_selected} and none. The object was left as it is"
            )

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
    def _selected(self) -> Iterator[tuple[duckdb.DuckDBPyConnection, dict[str, Any]]]:
        """A database with the selected addresses of this file, and the values that _ROWS and _KEY need."""
        selection = self._selection
        with open_database(threads=1) as database:
            database.execute("CREATE TABLE wanted (ip VARCHAR)")
            file = {"file": str(self._file)}
            addresses = database.cursor().execute(f"SELECT DISTINCT ip FROM {_ROWS} WHERE ip IS NOT NULL", file)
            while chunk := addresses.fetchmany(_CHUNK):
                if found := [ip for (ip,) in chunk if selection.has_address(ip)]:
                    database.execute("INSERT INTO wanted SELECT unnest($found)", {"found": found})
            yield database, {**file, "agents": _texts(selection.agents), "pages": _texts(selection.pages)}


def _texts(values: frozenset[str]) -> list[str]:
    """The values that a Parquet file can have. Bytes of the command line that are no UTF-8 are in none."""
    return [value for value in values if not any("\ud800" <= character <= "\udfff" for character in value)]
