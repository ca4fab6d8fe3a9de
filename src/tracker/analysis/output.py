"""Files that are replaced in one step: a reader of the path gets the old file or the complete new one."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tracker.errors import TrackerError


@contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """Yields a path beside `path` to write to. Afterwards that file replaces `path`; after a failure it is removed.

    Raises TrackerError for an error of the file system.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        os.replace(partial, path)
    except OSError as error:
        raise TrackerError(f"{path}: {error.strerror or error}") from error
    finally:
        partial.unlink(missing_ok=True)
