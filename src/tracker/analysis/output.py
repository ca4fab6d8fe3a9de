"""Files that are replaced in one step: a reader of the path gets the old file or the complete new one."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tracker.errors import TrackerError


@contextmanager
def replaced(path: Path, mode: int) -> Iterator[Path]:
    """Yields a new file beside `path` to write to. Afterwards that file replaces `path`; after a failure it is removed.

    Nobody can know its name before, and only its owner may read it until it is complete and has the permissions `mode`.
    Raises TrackerError for an error of the file system, and for a device or a pipe, which a file must not replace.
    """
    if path.exists() and not path.is_file():
        raise TrackerError(f"{path}: expected the name of a file, not of a directory, a device or a pipe")
    try:
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent)
    except OSError as error:
        raise TrackerError(f"{path}: {error.strerror or error}") from error
    os.close(descriptor)
    partial = Path(name)
    try:
        yield partial
        partial.chmod(mode)
        os.replace(partial, path)
    except OSError as error:
        raise TrackerError(f"{path}: {error.strerror or error}") from error
    finally:
        partial.unlink(missing_ok=True)
