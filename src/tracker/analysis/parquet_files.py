"""Parquet files of ours as logs: objects of the archive, copied to this machine, and exports.

1. A folder is searched for `*.parquet`, also behind symbolic links. As in Spark and DuckDB, folders that begin with `_`
   or `.` are left out, except `_malformed`, whose files have the lines that are no visits.
2. A file below `date=YYYY-MM-DD` has the visits of this UTC day only, so it is not opened when the day lies outside of
   --since and --until.
3. Of a closed log that is given as text too, the text is read.
4. The columns `time`, `page`, `user_agent` and `ip` are read; in the archive there are `log` and `line`, too.
"""

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path

from tracker.analysis.text import counted
from tracker.errors import TrackerError
from tracker.visit_log_files import GZIP_SUFFIX, closed_name

SUFFIX = ".parquet"
MALFORMED = "_malformed"
"""The folder in which the archive has the malformed lines of each closed log."""

_DAY = re.compile(r"date=(\d{4}-\d\d-\d\d)")


class ParquetFiles:
    """The Parquet files among the names of logs, without those that are not needed. Raises TrackerError."""

    def __init__(self, names: Sequence[str], since: datetime | None, until: datetime | None) -> None:
        """Names that are neither a folder with Parquet files nor one of them are left to others, in `others`."""
        self.paths: list[str] = []
        self.refused: list[str] = []
        """The files with malformed lines. They are read as text, and count as what they are."""
        self.others: list[str] = []
        self.skipped: list[str] = []
        """Why a file is not read, as sentences for people."""
        self.rows = 0
        """Of all these files, the malformed ones included, once the database has read them."""
        self.malformed = 0
        """Rows without a time of the calendar or without an address, which neither the archive nor an export has."""
        self.permissions = 0o666
        """Those that all of these files have."""
        found = {name: _found_in(name) for name in dict.fromkeys(names)}
        self.others = [name for name in names if found[name] is None]
        paths = self._of_days([path for each in found.values() for path in each or ()], since, until)
        for path in self._without_texts(self._different(paths)):
            (self.paths if path.endswith(SUFFIX) else self.refused).append(path)

    def _of_days(self, paths: Sequence[str], since: datetime | None, until: datetime | None) -> list[str]:
        """Step 2."""
        needed = [path for path in paths if (day := _day_of(path)) is None or _overlaps(day, since, until)]
        if outside := len(paths) - len(needed):
            self.skipped.append(f"{counted(outside, 'Parquet file')} of days outside of --since and --until")
        return needed

    def _different(self, paths: Sequence[str]) -> list[str]:
        """Each file once, however many names of it are given."""
        different: dict[tuple[int, int], str] = {}
        for path in paths:
            try:
                status = os.stat(path)
            except OSError as error:
                raise TrackerError(f"{path}: {error.strerror}") from error
            if (status.st_dev, status.st_ino) in different:
                self.skipped.append(f"{path}: the same file as another one given")
            else:
                different[status.st_dev, status.st_ino] = path
                self.permissions &= status.st_mode
        return list(different.values())

    def _without_texts(self, paths: Sequence[str]) -> list[str]:
        """Step 3. A closed log has one file in a folder, so a second one there is of another storage's log."""
        texts = Counter(closed_name(name) for name in dict.fromkeys(self.others))
        left, skipped = list[str](), Counter[tuple[str, str]]()
        for path in paths:
            folder, name = Path(path).parent.name, closed_name(path).removesuffix(SUFFIX)
            if name not in texts:
                left.append(path)
                continue
            skipped[folder, name] += 1
            if skipped[folder, name] > texts[name]:
                raise TrackerError(
                    f"{path}: a closed log of this name is given as text, and another Parquet file of it; two "
                    "storages have logs of this name. Expected the text of both or of none"
                )
        if skipped:
            self.skipped.append(f"{counted(skipped.total(), 'file')} of the archive, of closed logs given as text too")
        return left


def _found_in(name: str) -> list[str] | None:
    """The files of the archive that a name of the command line stands for; None when it is no name of such files."""
    if Path(name).is_dir():
        return list(_below(name)) or None
    return [name] if name.endswith(SUFFIX) else None


def _below(folder: str) -> Iterator[str]:
    def failed(error: OSError) -> None:
        if error.filename == folder:
            return  # a shell's `visits.log*` also names the folder of the ledger
        raise TrackerError(f"{error.filename}: {error.strerror}") from error

    seen = set[str]()  # so that links to folders make no circle
    for path, folders, files in os.walk(folder, onerror=failed, followlinks=True):
        seen.add(os.path.realpath(path))
        folders[:] = sorted(
            each
            for each in folders
            if (each == MALFORMED or not each.startswith(("_", "."))) and os.path.realpath(f"{path}/{each}") not in seen
        )
        suffix = GZIP_SUFFIX if Path(path).name == MALFORMED else SUFFIX
        yield from (str(Path(path) / file) for file in sorted(files) if file.endswith(suffix))


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
