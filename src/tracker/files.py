"""What both services need of the file system beyond the standard library. Blocks on the disk: for threads."""

import os
from pathlib import Path

fdatasync = getattr(os, "fdatasync", os.fsync)  # macOS has none


def sync_directory(path: Path) -> None:
    """Make names created, renamed or removed in `path` durable. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
