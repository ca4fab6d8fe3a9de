"""The selected lines of one object of the archive: counts them, and writes the object without them.

Both kinds of objects are read: Parquet, also of others if it has the columns, and malformed lines. The other rows keep
their order, and the columns and the numbers of the lines stay. An object of which every line is selected becomes one
without lines. A file is read in batches, and the rows of one row group are in memory until it is written.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tracker.archive.day_files import REPEATED, ROW_GROUP, ROW_GROUP_BYTES, open_writer
from tracker.archive.objects import is_malformed
from tracker.core.erasure import Key, Selection
from tracker.decompression import DamagedFile, IncompleteFile
from tracker.errors import MalformedMessage, TrackerError
from tracker.storage.erasing import Counts, kept_lines, write_kept

UNREADABLE = (TrackerError, OSError, ValueError, IncompleteFile, DamagedFile, pa.ArrowException)
"""The errors of a file that cannot be read or written."""

_BATCH_ROWS = 8_192
_READ = ["ip", "user_agent", "page"]


class ObjectFile:
    """A copy of an object on this machine. Its methods raise the errors of UNREADABLE."""

    def __init__(self, name: str, file: Path, selection: Selection) -> None:
        self._is_malformed = is_malformed(name)
        self._file = file
        self._selection = selection
        self._agents = pa.array(_possible(selection.agents), pa.string())
        self._pages = pa.array(_possible(selection.pages), pa.string())

    def count(self) -> Counts:
        """What is selected. `unreadable` malformed lines are those that have one of the values as a part of them."""
        return self._count(self._file)

    def write_kept(self, target: Path, counts: Counts) -> None:
        """Write the lines that are not selected to `target`. `counts` are those of this file."""
        if self._is_malformed:
            with self._file.open("rb") as source, target.open("wb") as output:
                write_kept(source, output, self._key_of)
        else:
            self._write_kept_rows(target)
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
                for _ in kept_lines(source, self._key_of, counts, is_mentioned=self._selection.is_mentioned):
                    pass
            return counts
        with _open(file) as parquet:
            for rows in parquet.iter_batches(_BATCH_ROWS, columns=_READ, use_threads=False):
                counts.lines += len(rows)
                selected, _ = self._divided(rows)
                for key, of_rows in selected.items():
                    counts.selected[key] += pc.sum(of_rows).as_py() or 0
        return counts

    def _write_kept_rows(self, target: Path) -> None:
        with _open(self._file) as parquet, _writer(target, parquet.schema_arrow) as writer:
            for rows in _row_groups(self._kept_batches(parquet)):
                writer.write_table(rows, row_group_size=len(rows))

    def _kept_batches(self, parquet: Any) -> Iterator[Any]:
        """The rows that are not selected. Each different text of a batch is held once."""
        for batch in parquet.iter_batches(_BATCH_ROWS, use_threads=False):
            _, kept = self._divided(batch)
            rows = pa.table(batch.filter(kept))
            for at, column in _texts(rows.schema):
                rows = rows.set_column(at, column, rows[at].dictionary_encode())
            yield rows

    def _divided(self, rows: Any) -> tuple[dict[Key, Any], Any]:
        """Which rows each key selects, in the order of `Selection.key_of`, and which are kept."""
        selected: dict[Key, Any] = {}
        kept = pa.repeat(True, len(rows))
        for key, column, values in (
            (Key.IP, "ip", self._addresses_of(rows)),
            (Key.AGENT, "user_agent", self._agents),
            (Key.PAGE, "page", self._pages),
        ):
            selected[key] = pc.and_(kept, pc.is_in(rows[column], value_set=values))  # a missing one is in no set
            kept = pc.and_not(kept, selected[key])
        return selected, kept

    def _addresses_of(self, rows: Any) -> Any:
        """The selected addresses. Those of a network are the ones of it that the rows have."""
        addresses: Iterable[str] = self._selection.addresses
        if self._selection.has_networks:
            found = rows["ip"].unique().drop_null().to_pylist()
            addresses = (address for address in found if self._selection.has_address(address))
        return pa.array(addresses, pa.string())

    def _key_of(self, piece: bytes) -> Key | None:
        """By what a line of malformed lines is selected; it follows its number and a space."""
        line = piece.partition(b" ")[2]
        try:
            return self._selection.key_of(line)
        except MalformedMessage:
            if self._selection.is_mentioned(line):
                raise
            return None


def _open(file: Path) -> Any:
    """The Parquet file. Raises TrackerError when a column is missing or has another type."""
    parquet = pq.ParquetFile(file)
    found = {column.name: column.type for column in parquet.schema_arrow}
    for name in _READ:
        if found.get(name) != pa.string():
            raise TrackerError(
                f"expected a column {name} of type string, as the archive has it; found {found.get(name, 'none')}"
            )
    return parquet


def _texts(schema: Any) -> list[tuple[int, Any]]:
    """The columns of texts, by their numbers, as they are while each different text is held once."""
    kind = pa.dictionary(pa.int32(), pa.string())
    return [
        (at, column.with_type(kind))
        for at, column in enumerate(schema)
        if column.name in REPEATED and column.type == pa.string()
    ]


def _writer(target: Path, schema: Any) -> pq.ParquetWriter:
    for at, column in _texts(schema):
        schema = schema.set(at, column)
    return open_writer(target, schema)


def _row_groups(batches: Iterable[Any]) -> Iterator[Any]:
    """The rows of the batches, as tables that fill a row group each."""
    waiting: list[Any] = []
    rows = size = 0
    for batch in batches:
        waiting.append(batch)
        rows += len(batch)
        size += batch.nbytes
        if rows >= ROW_GROUP or size >= ROW_GROUP_BYTES:
            yield pa.concat_tables(waiting).unify_dictionaries()
            waiting, rows, size = [], 0, 0
    if rows:
        yield pa.concat_tables(waiting).unify_dictionaries()


def _possible(values: frozenset[str]) -> list[str]:
    """The values that a Parquet file can have. Bytes of the command line that are no UTF-8 are in none."""
    return [value for value in values if not any("\ud800" <= character <= "\udfff" for character in value)]
