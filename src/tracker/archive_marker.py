"""Markers: for each closed log that was archived, a file that says so.

A marker counts only if it has what the archiver writes. An empty or damaged file is no marker: the log stays, and the
next pass of the archiver, which finds the objects, writes the marker again.

It counts for the closed log with its time only. Another log may get the name of one that was archived and removed:
logrotate gives the same name twice a day when the name has no time, and people restore files. The time is that of the
last change, which a compression keeps. If it differs, the archiver compares the lines.
"""

import os
from pathlib import Path
from typing import Annotated

import msgspec

from tracker.files import sync_directory
from tracker.visit_log_files import archived_marker, partial_path


class Marker(msgspec.Struct, frozen=True):
    """What was stored for a closed log. `objects` are the keys below the prefix of the archive."""

    digest: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
    visits: int
    malformed: int
    objects: list[str]
    modified_ns: int
    """When the closed log was changed last, in nanoseconds since 1970."""


def read_marker(file: Path) -> Marker | None:
    """The marker in `file`; None when there is none, or none that counts. Raises OSError when it cannot be read."""
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a pipe does not block
    except FileNotFoundError:
        return None
    try:
        content = b"".join(iter(lambda: os.read(descriptor, 1 << 20), b""))
        return msgspec.json.decode(content, type=Marker)
    except (IsADirectoryError, msgspec.MsgspecError, UnicodeError):
        return None
    finally:
        os.close(descriptor)


def is_archived(log: Path, closed: Path) -> bool:
    """Whether each line of the closed log `closed` of the visit log `log` is in the archive. Raises OSError."""
    marker = read_marker(archived_marker(log, closed))
    return marker is not None and marker.modified_ns == os.lstat(closed).st_mtime_ns


def write_marker(file: Path, marker: Marker) -> None:
    """Write it so that it exists whole or not at all, also after a power cut. Raises OSError."""
    part = partial_path(file)
    with part.open("wb") as opened:
        opened.write(msgspec.json.encode(marker))
        opened.flush()
        os.fsync(opened.fileno())
    part.rename(file)
    sync_directory(file.parent)
