"""`<log>.d/erased.log`: what `tracker erase` has removed, as JSON lines, without any data of the persons.

An entry is written and synced before the file or the object that it names is replaced or deleted. So no erasure is
without an entry. After a crash in between, the command is given again, and there are two entries.

The entry of a closed log has its digests before and after. The archive knows the log by the first one, so the archiver
looks it up here.
"""

import os
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import msgspec

from tracker.core.printable import printable
from tracker.files import make_directory, sync_directory
from tracker.visit_log_files import closed_name, erased_log_path

SHOWN_ENTRIES = 10


class Entry(msgspec.Struct):
    """`lines` of `file` were removed, by the time `time`: so many because of an address, a user agent or a page.

    `file` is a closed log, or a version of an object of the archive, which has no digests here. Characters that are not
    printable are escaped in it.
    """

    time: str
    file: str
    lines: int
    ip: int
    agent: int
    page: int
    before: str = ""
    after: str = ""


def append(log: Path, entry: Entry) -> None:
    """Add one entry, durably. Raises OSError."""
    path = erased_log_path(log)
    make_directory(path.parent, 0o750)
    is_new = not path.exists()
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o640)
    try:
        if is_new:  # root may have called: the service's user has to be able to add to the file, too
            owner = path.parent.stat()
            os.fchown(descriptor, owner.st_uid, owner.st_gid)
        data = msgspec.json.encode(entry) + b"\n"
        size = os.fstat(descriptor).st_size
        if size and os.pread(descriptor, 1, size - 1) != b"\n":
            data = b"\n" + data  # a full disk has taken half of the entry before
        if os.write(descriptor, data) != len(data):
            raise OSError(f"{path}: the entry could not be written as a whole")
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    sync_directory(path.parent)


def entries(log: Path) -> Iterator[Entry]:
    """All entries, the oldest first. A line that is none, such as half of one after a full disk, is left out."""
    try:
        with erased_log_path(log).open("rb") as file:
            for line in file:
                try:
                    yield msgspec.json.decode(line, type=Entry)
                except (msgspec.DecodeError, UnicodeDecodeError):
                    continue
    except FileNotFoundError:
        return


def digests(log: Path, closed: Path, digest: str) -> set[str]:
    """The digests that the closed log may have had before lines of it were erased, and its `digest` now.

    Raises OSError.
    """
    found, name = {digest}, printable(closed_name(closed))
    for entry in reversed(list(entries(log))):
        if entry.after in found and closed_name(Path(entry.file)) == name:
            found.add(entry.before)
    return found


def summary(log: Path) -> list[str]:
    """Lines for `tracker audit`: how much was erased, and the latest entries. Empty if nothing was. Raises OSError."""
    count = lines = 0
    latest: deque[Entry] = deque(maxlen=SHOWN_ENTRIES)
    for entry in entries(log):
        count, lines = count + 1, lines + entry.lines
        latest.append(entry)
    if not count:
        return []
    return [
        f"erased on request: {lines} lines, in {count} changes of files and objects",
        *(f"  {each.time} {each.file}: {each.lines} lines" for each in latest),
    ]
