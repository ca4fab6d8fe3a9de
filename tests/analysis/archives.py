"""The archive of closed logs as a folder, as a copy of the bucket has it."""

import shutil
import tempfile
import threading
from pathlib import Path

from tracker.archive.lines import ClosedLog
from tracker.archive.objects import make_objects


def archive_of(closed: Path, folder: Path | None = None) -> Path:
    """Add the objects of a closed log to the archive `folder`; if not given, `archive` beside the log."""
    folder = folder or closed.parent / "archive"
    with ClosedLog(closed) as log, tempfile.TemporaryDirectory() as made:
        for each in make_objects(log, Path(made), threading.Event()).objects:
            target = folder / each.name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(each.file, target)
    return folder
