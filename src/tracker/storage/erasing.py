"""Removes selected lines from one closed log, compressed or not, whichever call fails and wherever the process ends.

1. The file is locked, so that neither the compressor nor another `tracker erase` works on it, and the caller checks
   that nobody else needs it as it is.
2. It is read once, and the selected lines are counted. If there are none, or only the count is wanted, it ends here.
3. The other lines are written to `<name>.erase.part`, which gets the owner, the mode, the times and the extended
   attributes (such as SELinux's) of the file, and is synced.
4. The caller records what is about to be erased.
5. The new file is renamed to the name of the old one, and the directory is synced.

A crash before step 5 leaves the old file, and one after it the new file. Memory does not grow with the file: one line
is held at a time. What a crash leaves of step 3 is removed by the next run.
"""

import io
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO, Any

from tracker.core.erasure import Key, Selection
from tracker.core.log_digest import begin_digest
from tracker.core.log_line import MAX_LOG_LINE_BYTES
from tracker.decompression import Decompressed, compressed_alike, decompressed
from tracker.errors import MalformedMessage
from tracker.files import open_exclusively, sync_directory
from tracker.visit_log_files import erasing_path


@dataclass(slots=True)
class Counts:
    """What was found in one file. `unreadable` lines are no lines of visits: they are kept."""

    lines: int = 0
    unreadable: int = 0
    other_names: int = 0  # further hard links of the file, which keep the old content
    selected: dict[Key, int] = field(default_factory=lambda: dict.fromkeys(Key, 0))
    before: str = ""  # the digest of the file
    after: str = ""  # its digest without the selected lines

    @property
    def total_selected(self) -> int:
        return sum(self.selected.values())


def erase_lines(
    file: Path, selection: Selection, *, check: Callable[[int], None], record: Callable[[Counts], None] | None
) -> Counts:
    """Remove the selected lines of `file`; without `record`, only count them. `record` is step 4.

    `check` gets the inode of the locked file, and raises an error if it must not be touched. Raises HeldByAnother when
    another process works on the file, OSError, and IncompleteFile or DamagedFile for one that is compressed.
    """
    part = erasing_path(file)
    with open_exclusively(file) as source:
        status = os.fstat(source.fileno())
        check(status.st_ino)
        if record is not None:
            part.unlink(missing_ok=True)
        counts = Counts(other_names=status.st_nlink - 1)
        before, after = begin_digest(), begin_digest()
        for piece in kept_lines(source, selection.key_of, counts, all_lines=before.update):
            after.update(piece)
        counts.before, counts.after = before.hexdigest(), after.hexdigest()
        if record is None or not counts.total_selected:
            return counts
        try:
            with part.open("xb") as target:
                os.fchmod(target.fileno(), 0o600)  # until it has the owner that the file's mode is meant for
                write_kept(source, target, selection.key_of)
                target.flush()
                os.fchown(target.fileno(), status.st_uid, status.st_gid)
                shutil.copystat(file, part)
                os.fsync(target.fileno())
            record(counts)
            part.rename(file)
            sync_directory(file.parent)
        finally:
            part.unlink(missing_ok=True)
    return counts


def write_kept(source: "io.BufferedReader[Any]", target: IO[bytes], key_of: Callable[[bytes], Key | None]) -> None:
    """Write the lines of `source` that are not selected to `target`, compressed if `source` is."""
    source.seek(0)
    with compressed_alike(source, target) as writer:
        for line in kept_lines(source, key_of, Counts()):
            writer.write(line)


def kept_lines(
    source: "io.BufferedReader[Any]",
    key_of: Callable[[bytes], Key | None],
    counts: Counts,
    *,
    all_lines: Callable[[bytes], object] = lambda _: None,
    is_mentioned: Callable[[bytes], bool] = lambda _: True,
) -> Iterator[bytes]:
    """The lines that are not selected, from the first one on. A line that is too long to be a visit comes in pieces.

    `key_of` returns by what a line is selected, or raises MalformedMessage. `all_lines` gets the selected ones, too.
    A line that is too long is unreadable if `is_mentioned` is true for two pieces of it that follow one another.
    Raises OSError, and IncompleteFile or DamagedFile for a compressed file.
    """
    source.seek(0)
    stream = decompressed(source)
    if isinstance(stream, Decompressed):
        stream = io.BufferedReader(stream)  # which reads lines
    begun = b""  # the piece before this one, within a line that is too long
    is_counted = False  # whether that line is unreadable
    for piece in iter(partial(stream.readline, MAX_LOG_LINE_BYTES), b""):
        all_lines(piece)
        counts.lines += not begun
        is_whole = piece.endswith(b"\n") or len(piece) < MAX_LOG_LINE_BYTES  # the last line may have no newline
        if begun or not is_whole:
            if not is_counted and is_mentioned(begun + piece):
                counts.unreadable += 1
                is_counted = True
            begun, is_counted = (b"", False) if is_whole else (piece, is_counted)
            yield piece
            continue
        key = None
        try:
            key = key_of(piece)
        except MalformedMessage:
            counts.unreadable += 1
        if key is None:
            yield piece
        else:
            counts.selected[key] += 1
