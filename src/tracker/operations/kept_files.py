"""Finds what was kept elsewhere: in files, in folders of files, and in outboxes. Nothing that is read is changed."""

import io
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tracker.decompression import DamagedFile, IncompleteFile, decompressed
from tracker.errors import TrackerError
from tracker.operations.json_objects import NoObject, json_objects
from tracker.operations.kept_messages import Kept, KeptMessages, Unusable
from tracker.operations.kept_outbox import is_outbox, journal_messages, unused_outbox
from tracker.pixel import outbox_files

_UTF_16 = "text in UTF-16, as PowerShell writes it: convert it first, with iconv -f UTF-16 -t UTF-8"
_SEGMENT = (
    "a file of a journal: name the journal's folder, or the outbox. The name of the folder must be the journal's id, "
    "32 hexadecimal digits"
)
_START_BYTES = 512
# Files that hold messages in a form that is not read here: where such a file has which bytes, and what to do.
_UNREAD = {
    (0, b"PK\x03\x04"): "a zip archive: unpack it first",
    (257, b"ustar"): "a tar archive: unpack it first",
    (0, b"\xff\x06\x00\x00sNaPpY"): "compressed by Snappy: unpack it first",
    (0, b"\xff\xfe"): _UTF_16,
    (0, b"\xfe\xff"): _UTF_16,
}

Found = Iterator[tuple[str, Kept | Unusable]]


def read(paths: Iterable[Path]) -> Found:
    """The messages of files, of folders with files, and of outboxes, each with the name of its file or folder."""
    for path in paths:
        yield from _read_folder(path) if path.is_dir() else _read_file(path)


def _read_folder(path: Path) -> Found:
    """An outbox, a journal of an outbox, or a folder with such folders and files. Links to folders are not followed."""
    try:
        inside = sorted(path.iterdir())
        is_journal = outbox_files.is_journal(outbox_files.journal_id(path))
        if is_journal or is_outbox(path):
            yield from _read_outbox(path.parent if is_journal else path, [path] if is_journal else None)
            return
    except OSError as error:
        yield _unread(path, error)
        return
    for each in inside:
        if each.is_dir() and not each.is_symlink():
            yield from _read_folder(each)
        elif each.exists() and not each.is_file():  # opening a pipe would wait for ever
            yield str(each), Unusable(str(each), "a link to a folder, a pipe or a device")
        else:
            yield from _read_file(each)


def _read_outbox(path: Path, journals: Sequence[Path] | None) -> Found:
    """An outbox, or some of its journals. Raises OSError."""
    try:
        with unused_outbox(path) as all_journals:
            for journal in all_journals if journals is None else journals:
                yield from ((str(journal), each) for each in journal_messages(journal))
            refused = outbox_files.refused_lines(path)
            if journals is None and refused.exists():
                yield from _read_file(refused)
    except TrackerError as error:
        yield str(path), Unusable(str(path), str(error), could_not_read=True)


def _read_file(path: Path) -> Found:
    name = str(path)
    if outbox_files.is_segment(path):  # its lines belong to a journal, and would get another one as a file of lines
        yield name, Unusable(name, _SEGMENT)
        return
    messages = KeptMessages(name)
    try:
        with path.open("rb") as file:
            source = io.BufferedReader(decompressed(file))
            if problem := _unread_form(source):
                yield name, Unusable(name, problem)
                return
            for found in json_objects(source):
                if isinstance(found, NoObject):
                    yield name, Unusable(f"{name}:{found.line}", found.problem)
                else:
                    yield from ((name, each) for each in messages.add(found))
    except (IncompleteFile, DamagedFile) as error:
        yield name, Unusable(name, str(error))
    except (OSError, TrackerError) as error:
        yield _unread(path, error)
    yield from ((name, each) for each in messages.flush())


def _unread(path: Path, error: OSError | TrackerError) -> tuple[str, Unusable]:
    reason = error.strerror if isinstance(error, OSError) else error
    return str(path), Unusable(str(path), f"it cannot be read: {reason}", could_not_read=True)


def _unread_form(source: "io.BufferedReader[Any]") -> str | None:
    """Which form a file has, and what to do, if it is one of those that are not read; else None."""
    start = source.peek(_START_BYTES)
    return next((text for (at, bytes_), text in _UNREAD.items() if start.startswith(bytes_, at)), None)
