"""Parquet files of ours as logs: objects of the archive, copied to this machine, and exports.

A folder is searched for `*.parquet`. A folder or a file below `date=YYYY-MM-DD` has the visits of this UTC day only, so
it is not opened when the day lies outside of --since and --until. The columns `time`, `page`, `user_agent` and `ip` are
read; in the archive there are `log` and `line`, too.
"""

import os
import re
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path

from tracker.analysis.text import counted
from tracker.errors import TrackerError
from tracker.visit_log_files import closed_name

SUFFIX = ".parquet"

_DAY = re.compile(r"date=(\d{4}-\d\d-\d\d)")


class ParquetFiles:
    """The Parquet files among the names of logs, without those that are not needed. Raises TrackerError."""

    def __init__(self, names: Sequence[str], since: datetime | None, until: datetime | None) -> None:
        """Names that are neither a folder with Parquet files nor one of them are left to others, in `others`."""
        self.paths: list[str] = []
        self.others: list[str] = []
        self.skipped: list[str] = []
        """Why a file is not read, as sentences for people."""
        self.rows = 0
        """Of all these files, once the database has read them."""
        self.permissions = 0o666
        """Those that all of these files have."""
        texts = {closed_name(Path(name)) for name in names if not name.endswith(SUFFIX)}
        seen = set[tuple[int, int]]()
        outside = twice = 0
        for name in names:
            found = _found_in(name)
            if found is None:
                self.others.append(name)
            for path in found or ():
                day = _day_of(path)
                if day is not None and not _overlaps(day, since, until):
                    outside += 1
                elif Path(path).name.removesuffix(SUFFIX) in texts:
                    twice += 1
                elif (identity := ((status := _status(path)).st_dev, status.st_ino)) in seen:
                    self.skipped.append(f"{path}: the same file as another one given")
                else:
                    seen.add(identity)
                    self.permissions &= status.st_mode
                    self.paths.append(path)
        if outside:
            self.skipped.append(f"{counted(outside, 'Parquet file')} of days outside of --since and --until")
        if twice:
            self.skipped.append(f"{counted(twice, 'Parquet file')} of closed logs that are given as text too")


def _found_in(name: str) -> list[str] | None:
    """The Parquet files that a name of the command line stands for; None when it is no name of Parquet files."""
    if Path(name).is_dir():
        paths = list(_below(name))
        return paths or None
    return [name] if name.endswith(SUFFIX) else None


def _below(folder: str) -> Iterator[str]:
    def failed(error: OSError) -> None:
        if error.filename == folder:
            return  # a shell's `visits.log*` also names the folder of the ledger
        raise TrackerError(f"{error.filename}: {error.strerror}") from error

    for path, folders, files in os.walk(folder, onerror=failed):
        folders[:] = sorted(each for each in folders if not each.startswith(("_", ".")))
        yield from (str(Path(path) / file) for file in sorted(files) if file.endswith(SUFFIX))


def _day_of(path: str) -> date | None:
    found = _DAY.fullmatch(Path(path).parent.name)
    try:
        return None if found is None else date.fromisoformat(found[1])
    except ValueError:
        return None


def _overlaps(day: date, since: datetime | None, until: datetime | None) -> bool:
    begin = datetime.combine(day, time(), UTC)
    if until is not None and begin >= until:
        return False
    return since is None or day == date.max or begin + timedelta(days=1) > since


def _status(path: str) -> os.stat_result:
    try:
        return os.stat(path)
    except OSError as error:
        raise TrackerError(f"{path}: {error.strerror}") from error
