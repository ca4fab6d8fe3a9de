"""The lines of one closed log, read once: each visit becomes part of its day, each other line goes into a file.

1. The log is read into one buffer again and again, as blocks of whole lines.
2. Nearly every block is plain and of one day: `columns` takes it as a whole.
3. Another block is read line by line. It has visits of several days, visits that others have written, or malformed
   lines.

A line is malformed if it is no visit, if it is longer than a report reads, or if it does not end with a newline, as the
last line of a log may. Malformed lines are kept byte for byte.
"""

import io
import os
import threading
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import pyarrow as pa

from tracker.analysis.log_files import LONGEST_LINE
from tracker.analysis.plain import plain_pieces
from tracker.archive.columns import DAY_LENGTH, columns_of, plain_columns
from tracker.core.log_digest import begin_digest
from tracker.decompression import DamagedFile, Decompressed, IncompleteFile, decompressed
from tracker.errors import StopRequested, TrackerError

BLOCK = 4 << 20  # bytes; a quarter of it costs a fifth more CPU time, four times as much costs the same
_READ = 1 << 16  # bytes at once: Python's allocator and the processor's cache keep so few


class ClosedLog:
    """A closed log, opened. It stays readable while somebody compresses or removes it. Raises OSError."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("rb")
        self._stream: io.BufferedReader[Any] | Decompressed | None = None
        self._status = os.fstat(self._file.fileno())
        self.modified_ns = self._status.st_mtime_ns

    def __enter__(self) -> "ClosedLog":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def read_into(self, buffer: memoryview) -> int:
        """Fill `buffer` with what comes next, uncompressed. Only at the end of the log the number of bytes is lower.

        Raises TrackerError when the log cannot be read to its end.
        """
        filled = 0
        try:
            if self._stream is None:
                self._stream = decompressed(self._file)
            while filled < len(buffer) and (read := self._stream.readinto(buffer[filled : filled + _READ])):
                filled += read
        except (OSError, IncompleteFile, DamagedFile) as error:
            raise TrackerError(f"{self.path}: cannot be read: {error}") from error
        return filled

    def is_unchanged(self) -> bool:
        """Whether the file is as it was when it was opened. Its name may be gone: it is compressed now, or removed."""
        now = os.fstat(self._file.fileno())
        try:
            named = self.path.lstat()
        except FileNotFoundError:
            named = now
        old = self._status
        return all(
            (each.st_dev, each.st_ino, each.st_size, each.st_mtime_ns)
            == (old.st_dev, old.st_ino, old.st_size, old.st_mtime_ns)
            for each in (now, named)
        )


def digest_of(closed: Path) -> str:
    """The digest of all lines of a closed log. Raises TrackerError and OSError."""
    digest, buffer = begin_digest(), memoryview(bytearray(_READ))
    with ClosedLog(closed) as log:
        while read := log.read_into(buffer):
            digest.update(buffer[:read])
    return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class Part:
    """Visits of one day, in the order of the log: the columns of `columns`, and `line`, the number of each line."""

    day: str
    visits: Any


class Lines:
    """The lines of `log`. Malformed ones are written to `malformed`, each after its number and a space."""

    def __init__(self, log: ClosedLog, malformed: IO[bytes]) -> None:
        self.count = 0
        self.malformed = 0
        self._log = log
        self._buffer = bytearray(BLOCK)
        self._hash = begin_digest()
        self._malformed_lines = malformed

    @property
    def digest(self) -> str:
        """Of all lines, once `parts` has ended."""
        return self._hash.hexdigest()

    def parts(self, ending: threading.Event) -> Iterator[Part]:
        """All visits. Raises TrackerError, OSError, and StopRequested soon after `ending` is set."""
        for start, end in self._blocks():
            if ending.is_set():
                raise StopRequested
            plain = plain_columns(self._buffer, start, end)
            if plain is None:
                yield from self._by_day(bytes(memoryview(self._buffer)[start:end]))
            else:
                day, visits = plain
                first = self.count + 1
                self.count += len(visits)
                yield Part(day, visits.append_column("line", pa.arange(first, self.count + 1)))

    def _blocks(self) -> Iterator[tuple[int, int]]:
        """Where whole lines, none of them longer than LONGEST_LINE, begin and end in the buffer."""
        buffer, view = self._buffer, memoryview(self._buffer)
        rest = 0  # bytes at the beginning of the buffer, of a line whose end has not been read yet
        within_long_line = False
        while read := self._log.read_into(view[rest:]):
            self._hash.update(view[rest : rest + read])
            filled = rest + read
            start = 0
            if within_long_line:
                start = (buffer.find(b"\n", 0, filled) + 1) or filled
                self._malformed_lines.write(view[:start])
                within_long_line = not buffer.endswith(b"\n", 0, start)
            while True:
                end = _end_of_short_lines(buffer, start, filled)
                if end > start:
                    yield start, end
                if filled - end <= LONGEST_LINE:
                    break
                start = (buffer.find(b"\n", end, filled) + 1) or filled
                self._refuse(view[end:start])
                within_long_line = not buffer.endswith(b"\n", 0, start)
            rest = filled - end
            view[:rest] = view[end:filled]
        if rest:
            self._refuse(view[:rest])

    def _by_day(self, block: bytes) -> Iterator[Part]:
        """The visits of a block of any short lines."""
        days = defaultdict[bytes, tuple[list[int], list[bytes]]](lambda: ([], []))
        for plain, refused in plain_pieces(block):
            for line in plain.splitlines(keepends=True):
                self.count += 1
                numbers, lines = days[line[:DAY_LENGTH]]
                numbers.append(self.count)
                lines.append(line)
            for line in refused.split(b"\n")[:-1]:
                self._refuse(line + b"\n")
        for day, (numbers, lines) in sorted(days.items()):
            visits = columns_of(b"".join(lines))
            yield Part(day.decode(), visits.append_column("line", pa.array(numbers, pa.int64())))

    def _refuse(self, line: bytes | memoryview) -> None:
        """Write a malformed line, or its beginning."""
        self.count += 1
        self.malformed += 1
        self._malformed_lines.write(b"%d " % self.count)
        self._malformed_lines.write(line)


def _end_of_short_lines(buffer: bytearray, start: int, filled: int) -> int:
    """The end of the last whole line before the first one that is longer than LONGEST_LINE."""
    while newline := buffer.rfind(b"\n", start, min(start + LONGEST_LINE + 1, filled)) + 1:
        start = newline
    return start
