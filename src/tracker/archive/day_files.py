"""The Parquet files of one closed log, one for each day, written while the log is read, in bounded memory.

1. Visits wait in memory until they fill a row group, those of all days together.
2. The day of which most wait writes them into its Parquet file. In nearly every log this is the only day.
3. If they fill less than half of a row group, because there are many days, or if too many files are open, the day is
   put aside instead: from now on its visits are appended to a file of their own, `<day>.arrow`.
4. At the end the days that were put aside are written, one after the other.

So the visits of each day are in the order of the log, whatever days it has.
"""

import os
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq

from tracker.archive.columns import SCHEMA, unescaped

# A row group is full with so many rows, or bytes in memory, or parts. Measured with realistic data, see docs/adr/0045.
ROW_GROUP = 245_760
ROW_GROUP_BYTES = 64 << 20
ROW_GROUP_PARTS = 1_000  # each costs memory, however few visits it has
MOST_OPEN = 100  # Parquet files; a log of years has more days
REPEATED = ["page", "user_agent", "log"]  # texts, of which each different one is written once in a row group


class DayFile(NamedTuple):
    """A complete Parquet file with the visits of one day."""

    day: str
    path: Path
    rows: int


class DayFiles:
    """Writes the files into `folder`. `log` is the name of the closed log. As a context it closes all files."""

    def __init__(self, folder: Path, log: str) -> None:
        self._folder = folder
        self._log = pa.array([log])
        self._rows = Counter[str]()  # how many were taken of each day
        self._waiting = defaultdict[str, list[Any]](list)
        self._shares = defaultdict[str, float](float)  # of a row group, for the days of which visits wait
        self._writers: dict[str, pq.ParquetWriter] = {}
        self._put_aside: set[str] = set()

    def __enter__(self) -> "DayFiles":
        return self

    def __exit__(self, *_: object) -> None:
        while self._writers:
            with suppress(OSError):
                self._writers.popitem()[1].close()

    def add(self, day: str, visits: Any) -> None:
        """Take visits that come behind those that were taken before: SCHEMA's columns but `log`. Raises OSError."""
        which = pa.repeat(pa.scalar(0, pa.int32()), len(visits))
        visits = visits.append_column("log", pa.DictionaryArray.from_arrays(which, self._log))
        self._rows[day] += len(visits)
        self._wait(day, visits.select(SCHEMA.names))
        if sum(self._shares.values()) >= 1:
            most = max(self._shares, key=self._shares.__getitem__)
            if most in self._writers or self._may_be_opened(most):
                self._write(most)
            else:
                self._append(most)

    def finish(self) -> Iterator[DayFile]:
        """Complete the files, in the order of the days. Raises OSError."""
        for day, rows in sorted(self._rows.items()):
            if day in self._put_aside:
                self._append(day)
                self._write_put_aside(day)
            if self._waiting[day]:
                self._write(day)
            self._writers.pop(day).close()
            yield DayFile(day, self._path(day), rows)

    def _wait(self, day: str, visits: Any) -> None:
        self._waiting[day].append(visits)
        self._shares[day] += max(len(visits) / ROW_GROUP, visits.nbytes / ROW_GROUP_BYTES, 1 / ROW_GROUP_PARTS)

    def _may_be_opened(self, day: str) -> bool:
        return self._shares[day] >= 0.5 and len(self._writers) < MOST_OPEN and day not in self._put_aside

    def _write(self, day: str) -> None:
        """Write the waiting visits of a day as a row group."""
        if day not in self._writers:
            self._writers[day] = open_writer(self._path(day), SCHEMA)
        visits = unescaped(self._taken(day))
        self._writers[day].write_table(visits, row_group_size=len(visits))

    def _append(self, day: str) -> None:
        """Put the waiting visits of a day aside."""
        self._put_aside.add(day)
        if self._waiting[day]:
            with self._aside(day).open("ab") as file, pa.ipc.new_stream(file, SCHEMA) as stream:
                stream.write_table(self._taken(day).unify_dictionaries())

    def _write_put_aside(self, day: str) -> None:
        """Write the visits that were put aside, but for the last ones, which do not fill a row group."""
        with self._aside(day).open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            while file.tell() < size:
                self._wait(day, pa.ipc.open_stream(file).read_all())
                if self._shares[day] >= 1:
                    self._write(day)
        self._aside(day).unlink()

    def _taken(self, day: str) -> Any:
        """The waiting visits of a day, as one table. They wait no longer."""
        del self._shares[day]
        return pa.concat_tables(self._waiting.pop(day))

    def _path(self, day: str) -> Path:
        return self._folder / f"{day}.parquet"

    def _aside(self, day: str) -> Path:
        return self._folder / f"{day}.arrow"


def open_writer(file: Path, schema: Any) -> pq.ParquetWriter:
    """Begin a Parquet file of the archive: numbers and times are written as differences, repeated texts once."""
    numbers = [each.name for each in schema if pa.types.is_int64(each.type) or pa.types.is_timestamp(each.type)]
    return pq.ParquetWriter(
        file,
        schema,
        compression="zstd",
        compression_level=3,
        data_page_version="2.0",
        use_dictionary=[name for name in schema.names if name in REPEATED],
        dictionary_pagesize_limit=1 << 30,  # never change to plain texts within a row group
        column_encoding=dict.fromkeys(numbers, "DELTA_BINARY_PACKED"),
        # Of texts in no order they say nothing. A report reads from those of addresses that none is missing.
        write_statistics=[*numbers, "ip"],
        store_schema=False,  # the columns have the types of Parquet, whatever their form was in memory
    )
