"""The files a report or an export reads, as blocks of plain lines: the current log, rotated and gzipped ones, a pipe.

Each file is read once, whole lines only, up to the size that it had when it was opened. That takes a few hundred
kilobytes of memory, whatever the size. A log may be written, rotated and compressed at the same time. If a file does
not end with a newline, its last line is still being written. It is left out and noted, which is no error.
"""

import gzip
import io
import os
import stat
import threading
import zlib
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from types import TracebackType

from tracker.analysis.parquet_files import ParquetFiles
from tracker.analysis.plain import plain_lines
from tracker.errors import TrackerError
from tracker.visit_log_files import GZIP_SUFFIX, is_compressed, is_partial, is_torn_copy

CHUNK = 262_144
"""Bytes read at once, and the longest line: a longer one is malformed. Two headers of 2,048 characters are 64 KiB."""

LONGEST_PLAIN_LINE = 8 * CHUNK
"""In bytes. A byte that is not UTF-8 becomes two bytes of UTF-8, and each of them four characters, ``\\xHH``."""

_GZIP = b"\x1f\x8b"


class LogFile(io.FileIO):
    """A file up to the size it has now, a pipe to its end. ``-`` is standard input. Raises OSError."""

    def __init__(self, name: str) -> None:
        if name == "-":
            super().__init__(0, closefd=False)
        else:
            super().__init__(name)
        self.name = name
        status = os.fstat(self.fileno())
        self.identity = (status.st_dev, status.st_ino)
        self.size = status.st_size if stat.S_ISREG(status.st_mode) else None
        self.bytes_read = 0

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # BufferedReader passes a memoryview
        left = len(buffer) if self.size is None else self.size - self.bytes_read
        count = super().readinto(buffer[:left]) or 0
        self.bytes_read += count
        return count


class LogFiles:
    """Blocks of plain lines, for several threads at once. As a context it closes the files."""

    def __init__(self, files: list[LogFile], skipped: list[str], parquet: ParquetFiles) -> None:
        self.files = files
        self.skipped = skipped
        """The named files that are no logs, with the reason."""
        self.parquet = parquet
        """The Parquet files among the names. The database reads them."""
        self.lines = 0
        """Read, the malformed ones included."""
        self.malformed = 0
        self.unfinished = 0
        """Files that end within a line, and compressed ones that end too early."""
        self._lock = threading.Lock()
        self._blocks = self._read()

    def __enter__(self) -> "LogFiles":
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        for file in self.files:
            file.close()

    @property
    def size(self) -> int | None:
        """Bytes on the disk; None when a pipe is among the files."""
        sizes = [file.size for file in self.files]
        return None if None in sizes else sum(filter(None, sizes))

    @property
    def bytes_read(self) -> int:
        return sum(file.bytes_read for file in self.files)

    @property
    def notes(self) -> list[str]:
        """What was left out, and why, as sentences for people."""
        said = [f"{self.lines:,} lines read, {self.malformed:,} of them malformed"]
        if self.unfinished:
            said.append(f"{self.unfinished:,} of the files end within a line: read up to the last whole line")
        return said + [f"not read: {reason}" for reason in self.skipped]

    def next_block(self) -> bytes | None:
        """The next plain lines, None after the last. Raises TrackerError for a file that cannot be read."""
        with self._lock:
            block = next(self._blocks, None)
        if block is None:
            return None
        lines = block.count(b"\n")
        block, malformed = plain_lines(block)
        with self._lock:
            self.lines += lines
            self.malformed += malformed
        return block

    def _read(self) -> Iterator[bytes]:
        for file in self.files:
            try:
                yield from self._whole_lines(file)
            except (OSError, zlib.error) as error:
                raise TrackerError(f"{file.name}: cannot be read: {error}") from error

    def _whole_lines(self, file: LogFile) -> Iterator[bytes]:
        rest = b""  # the start of a line whose end is in the next chunk
        too_long = False  # whether that line is longer than allowed and its start was dropped
        with io.BufferedReader(file, CHUNK) as buffered:
            compressed = buffered.peek(2)[:2] == _GZIP
            stream = gzip.GzipFile(fileobj=buffered) if compressed else buffered
            try:
                while chunk := stream.read(CHUNK):
                    first, last = chunk.find(b"\n"), chunk.rfind(b"\n") + 1
                    if last and (too_long or len(rest) + first > CHUNK):
                        yield chunk[first:last]  # it begins with an empty line, which is malformed too
                    elif last:
                        yield rest + chunk[:last]
                    if last:
                        rest, too_long = chunk[last:], False
                    elif len(rest := rest + chunk) > CHUNK:
                        rest, too_long = b"", True
            except EOFError:
                too_long = True
        if rest or too_long:
            self.unfinished += 1


def open_logs(names: Sequence[str], since: datetime | None = None, until: datetime | None = None) -> LogFiles:
    """Open all files at once, so that a later rotation changes nothing. ``-`` is standard input.

    Parquet files are not opened here. Those whose days lie outside of `since` and `until` are left out.

    These are skipped:

    - directories: a shell's ``visits.log*`` also names the ledger's;
    - copies of torn appends that storage cut off, because SQS delivered their visits again and they are in the log;
    - the copy of a rotated log that is being compressed (``.part``);
    - a file that is given twice: by two names, or with and without ``.gz``.

    Raises TrackerError for a file that cannot be opened.
    """
    files: list[LogFile] = []
    parquet = ParquetFiles(names, since, until)
    skipped = list(parquet.skipped)
    for name in parquet.others:
        try:
            if is_torn_copy(Path(name).name):
                skipped.append(f"{name}: a copy of a torn append; its visits were delivered again")
            elif is_partial(name):
                skipped.append(f"{name}: a compressed copy that is not complete")
            elif is_compressed(Path(name)) and name.removesuffix(GZIP_SUFFIX) in names:
                skipped.append(f"{name}: the same log is given without .gz")
            else:
                file = LogFile(name)
                if any(file.identity == other.identity for other in files):
                    skipped.append(f"{name}: the same file as another one given")
                    file.close()
                else:
                    files.append(file)
        except IsADirectoryError:
            skipped.append(f"{name}: a directory")
        except OSError as error:
            for file in files:
                file.close()
            raise TrackerError(f"{name}: {error.strerror}") from error
    return LogFiles(files, skipped, parquet)
