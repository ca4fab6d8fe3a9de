"""The files a report or an export reads, as blocks of plain lines: the current log, rotated and gzipped ones, a pipe.

Each file is read once, whole lines only, up to the size that it had when it was opened. That takes a few hundred
kilobytes of memory, whatever the size. A log may be written, rotated and compressed at the same time. If a file does
not end with a newline, its last line is still being written. It is left out and noted, which is no error.
"""

import io
import os
import stat
import threading
from collections.abc import Iterator, Sequence
from datetime import datetime
from types import TracebackType

from tracker.analysis.parquet_files import ParquetFiles
from tracker.analysis.plain import plain_lines
from tracker.analysis.text import counted, number
from tracker.decompression import DamagedFile, IncompleteFile, decompressed
from tracker.errors import TrackerError
from tracker.visit_log_files import why_no_log

LONGEST_LINE = 262_144
"""In bytes: a longer line is malformed. As many are read at once. Two headers of 2,048 characters are 64 KiB."""

LONGEST_PLAIN_LINE = 8 * LONGEST_LINE
"""In bytes. A byte that is not UTF-8 becomes two bytes of UTF-8, and each of them four characters, ``\\xHH``."""

_UTF_16 = (b"\xff\xfe", b"\xfe\xff")


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
        self.permissions = stat.S_IMODE(status.st_mode) & 0o666
        self.size = status.st_size if stat.S_ISREG(status.st_mode) else None
        self.bytes_read = 0
        self.lines = 0
        self.malformed = 0

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
        self.unfinished = 0
        """Files that end within a line, which is still being written."""
        self._unread: list[str] = []
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
    def mode(self) -> int:
        """The permissions that all of the files have: what is made of them is as private as they are."""
        mode = self.parquet.permissions
        for file in self.files:
            mode &= file.permissions
        return mode or 0o600

    @property
    def bytes_read(self) -> int:
        return sum(file.bytes_read for file in self.files)

    @property
    def lines(self) -> int:
        """Read, the malformed ones included."""
        return sum(file.lines for file in self.files) + self.parquet.rows

    @property
    def malformed(self) -> int:
        return sum(file.malformed for file in self.files) + self.parquet.malformed

    @property
    def problems(self) -> list[str]:
        """What could not be read, as sentences for people. A report with a problem is not complete."""
        nothing = [
            file
            for file in self.files
            if file.lines and file.lines == file.malformed and file.name not in self.parquet.refused
        ]
        return self._unread + [
            f"{file.name}: {counted(file.lines, 'line')}, and none is a visit; "
            f"tracker audit --log {file.name} shows what they are"
            for file in nothing
        ]

    @property
    def notes(self) -> list[str]:
        """What was left out, and why, as sentences for people."""
        said = [f"{counted(self.lines, 'line')} read, {number(self.malformed)} of them malformed"]
        if self.unfinished:
            said.append(
                f"{counted(self.unfinished, 'file')} without a newline at the end: read up to the last whole line"
            )
        return said + [f"not read: {reason}" for reason in self.skipped] + self.problems

    def next_block(self) -> bytes | None:
        """The next plain lines, None after the last. Raises TrackerError for a file that cannot be read."""
        with self._lock:
            file, block = next(self._blocks, (None, b""))
        if file is None:
            return None
        lines = block.count(b"\n")
        block, malformed = plain_lines(block)
        with self._lock:
            file.lines += lines
            file.malformed += malformed
        return block

    def _read(self) -> Iterator[tuple[LogFile, bytes]]:
        for file in self.files:
            try:
                for block in self._whole_lines(file):
                    yield file, block
            except IncompleteFile as reason:
                self._unread.append(
                    f"{file.name}: {reason}; read up to the last whole line before; "
                    f"tracker audit --log {file.name} shows where"
                )
            except (OSError, DamagedFile) as error:
                raise TrackerError(f"{file.name}: cannot be read: {error}") from error

    def _whole_lines(self, file: LogFile) -> Iterator[bytes]:
        rest = b""  # the start of a line whose end is in the next chunk
        too_long = False  # whether that line is longer than allowed and its start was dropped
        with io.BufferedReader(file, LONGEST_LINE) as buffered:
            stream = decompressed(buffered)
            if buffered.peek(2)[:2] in _UTF_16:
                raise IncompleteFile("it is in UTF-16, as some editors save it; iconv makes ASCII of it")
            while chunk := stream.read(LONGEST_LINE):
                first, last = chunk.find(b"\n"), chunk.rfind(b"\n") + 1
                if last and (too_long or len(rest) + first > LONGEST_LINE):
                    yield chunk[first:last]  # it begins with an empty line, which is malformed too
                elif last:
                    yield rest + chunk[:last]
                if last:
                    rest, too_long = chunk[last:], False
                elif len(rest := rest + chunk) > LONGEST_LINE:
                    rest, too_long = b"", True
        if rest or too_long:
            self.unfinished += 1


def open_logs(names: Sequence[str], since: datetime | None = None, until: datetime | None = None) -> LogFiles:
    """Open all files at once, so that a later rotation changes nothing. ``-`` is standard input.

    Parquet files are not opened here. Those whose days lie outside of `since` and `until` are left out.

    These are skipped:

    - the directory of a ledger, which a shell's ``visits.log*`` also names;
    - copies of torn appends that storage cut off, because SQS delivered their visits again and they are in the log;
    - the copy of a rotated log that is being compressed (``.part``);
    - a file that is given twice: by two names, or with and without ``.gz``.

    Raises TrackerError for a file that cannot be opened.
    """
    files: list[LogFile] = []
    parquet = ParquetFiles(names, since, until)
    skipped = list(parquet.skipped)
    for name in [*parquet.others, *parquet.refused]:
        try:
            if reason := why_no_log(name, names):
                skipped.append(f"{name}: {reason}")
            else:
                file = LogFile(name)
                if any(file.identity == other.identity for other in files):
                    skipped.append(f"{name}: the same file as another one given")
                    file.close()
                else:
                    files.append(file)
        except OSError as error:
            for file in files:
                file.close()
            raise TrackerError(f"{name}: {error.strerror}") from error
    return LogFiles(files, skipped, parquet)
