"""The lines of one closed log, read once: those of its main day for DuckDB, and the others into two files.

`row_number()` of DuckDB must be the number of the line in the closed log. So each line that is not of the main day is
replaced by a placeholder, whose time is NULL. The line itself goes into one of two files, with its number:

- `others` has the visits of other days, `number|time|referrer|user agent|ip`. A log that is rotated at midnight has a
  few: visits are stored after they are answered.
- `malformed` has the lines that are no visits, `number line`, byte for byte. The last line of a log is malformed if it
  does not end with a newline.
"""

import re
import threading
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import IO, cast

from isal import igzip, igzip_lib

from tracker.analysis.log_files import CHUNK
from tracker.analysis.plain import plain_pieces
from tracker.core.log_digest import begin_digest
from tracker.errors import StopRequested, TrackerError

PLACEHOLDER = b"null|null|null|null\n"
READ_BYTES = 1 << 16  # glibc maps larger blocks anew each time, which costs a quarter of a microsecond a line
SAMPLE_BYTES = 16 << 20  # of which the most frequent day is the main day

_GZIP = b"\x1f\x8b"
_DAYS = re.compile(rb"^([0-9]{4}-[0-9]{2}-[0-9]{2})T", re.MULTILINE)
_UNREADABLE = (OSError, EOFError, zlib.error, cast(type[Exception], igzip_lib.error))


class ClosedLog:
    """A closed log, opened. It stays readable while somebody compresses or removes it. Raises OSError."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("rb")

    def __enter__(self) -> "ClosedLog":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def chunks(self) -> Iterator[bytes]:
        """The content, uncompressed, from the beginning. Raises TrackerError when it cannot be read to its end."""
        try:
            self._file.seek(0)
            compressed = self._file.peek(2)[:2] == _GZIP
            stream: IO[bytes] = self._file
            if compressed:
                stream = igzip.IGzipFile(fileobj=self._file, mode="rb")  # type: ignore[no-untyped-call, assignment]
            while chunk := stream.read(READ_BYTES):
                yield chunk
        except _UNREADABLE as error:
            raise TrackerError(f"{self.path}: cannot be read: {error}") from error

    def main_day(self) -> str:
        """The most frequent day at the beginning of the log; of a log without visits, the first day of 1970."""
        days = Counter[bytes]()
        read = 0
        for chunk in self.chunks():
            days.update(_DAYS.findall(chunk))
            read += len(chunk)
            if read >= SAMPLE_BYTES:
                break
        return max(days, key=lambda day: (days[day], day)).decode() if days else "1970-01-01"


class Lines:
    """The lines of `log`. `next_block` returns the lines of `day`; the others are written to `others` and `malformed`.

    `next_block` raises StopRequested once `ending` is set.
    """

    def __init__(
        self, log: ClosedLog, day: str, others: IO[bytes], malformed: IO[bytes], ending: threading.Event
    ) -> None:
        self.count = 0
        self.malformed = 0
        self._chunks = log.chunks()
        self._prefix = day.encode() + b"T"
        self._hash = begin_digest()
        self._others = others
        self._malformed = malformed
        self._ending = ending
        self._blocks = self._read()

    @property
    def digest(self) -> str:
        """Of all lines, once `next_block` has returned None."""
        return self._hash.hexdigest()

    def next_block(self) -> bytes | None:
        block = next(self._blocks, None)
        if self._ending.is_set():
            raise StopRequested
        return block

    def _read(self) -> Iterator[bytes]:
        rest = b""
        for chunk in self._chunks:
            self._hash.update(chunk)
            rest += chunk
            end = rest.rfind(b"\n") + 1
            if end:
                yield self._sort(rest[:end])
                rest = rest[end:]
            if len(rest) > CHUNK:
                rest = self._write_long_line(rest)
                yield PLACEHOLDER
        if end := rest.rfind(b"\n") + 1:
            yield self._sort(rest[:end])
        if rest[end:]:
            yield self._refuse(rest[end:])

    def _sort(self, block: bytes) -> bytes:
        """The block with a placeholder for each line that is not of the main day."""
        kept = []
        for plain, refused in plain_pieces(block):
            lines = plain.count(b"\n")
            if plain.startswith(self._prefix) and plain.count(b"\n" + self._prefix) == lines - 1:
                kept.append(plain)
                self.count += lines
            else:
                kept += [self._of_main_day(line) for line in plain.splitlines(keepends=True)]
            kept += [self._refuse(line + b"\n") for line in refused.split(b"\n")[:-1]]
        return b"".join(kept)

    def _of_main_day(self, line: bytes) -> bytes:
        """The line itself, or the placeholder of a line of another day."""
        self.count += 1
        if line.startswith(self._prefix):
            return line
        self._others.write(b"%d|" % self.count + line)
        return PLACEHOLDER

    def _refuse(self, line: bytes) -> bytes:
        self.count += 1
        self.malformed += 1
        self._malformed.write(b"%d " % self.count + line)
        return PLACEHOLDER

    def _write_long_line(self, begin: bytes) -> bytes:
        """Write a malformed line of any length, of which `begin` was read. Returns what was read behind it."""
        self._refuse(begin)
        for chunk in self._chunks:
            self._hash.update(chunk)
            end = chunk.find(b"\n") + 1
            self._malformed.write(chunk[:end] if end else chunk)
            if end:
                return chunk[end:]
        return b""
