"""Finds what was kept elsewhere: in files, in folders of files, and in outboxes. Nothing that is read is changed."""

import gzip
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from tracker.operations.json_objects import NoObject, json_objects
from tracker.operations.kept_messages import Kept, KeptMessages, Unusable
from tracker.operations.kept_outbox import is_outbox, journal_messages, unused_outbox
from tracker.pixel import outbox_files

_GZIP = b"\x1f\x8b"


Found = Iterator[tuple[str, Kept | Unusable]]


def read(paths: Iterable[Path]) -> Found:
    """The messages of files, of folders with files, and of outboxes, each with the name of its file or folder."""
    for path in paths:
        yield from _read_folder(path) if path.is_dir() else _read_file(path)


def _read_folder(path: Path) -> Found:
    """An outbox, a journal of an outbox, or a folder with such folders and files. Links to folders are not followed."""
    try:
        inside = sorted(path.iterdir())
        is_journal, is_whole_outbox = outbox_files.is_journal(outbox_files.journal_id(path)), is_outbox(path)
    except OSError as error:
        yield str(path), Unusable(str(path), f"it cannot be read: {error.strerror}", could_not_read=True)
        return
    if is_journal or is_whole_outbox:
        with unused_outbox(path.parent if is_journal else path) as journals:
            for journal in [path] if is_journal else journals:
                yield from ((str(journal), each) for each in journal_messages(journal))
            refused = outbox_files.refused_lines(path)
            if refused.exists():
                yield from _read_file(refused)
        return
    for each in inside:
        if each.is_dir() and not each.is_symlink():
            yield from _read_folder(each)
        elif each.exists() and not each.is_file():  # opening a pipe would wait for ever
            yield str(each), Unusable(str(each), "a link to a folder, a pipe or a device")
        else:
            yield from _read_file(each)


def _read_file(path: Path) -> Found:
    name = str(path)
    if outbox_files.is_segment(path):  # its lines belong to a journal, and would get another one as a file of lines
        yield name, Unusable(name, "a file of a journal: name the journal's folder, or the outbox")
        return
    messages = KeptMessages(name)
    try:
        with path.open("rb") as file:
            is_compressed = file.peek(len(_GZIP)).startswith(_GZIP)
            source = gzip.GzipFile(fileobj=file) if is_compressed else file
            try:
                for found in json_objects(source):
                    if isinstance(found, NoObject):
                        yield name, Unusable(f"{name}:{found.line}", found.problem)
                    else:
                        yield from ((name, each) for each in messages.add(found))
            except (EOFError, zlib.error, gzip.BadGzipFile) as error:
                yield name, Unusable(name, f"not a whole gzip file: {error}")
    except OSError as error:
        yield name, Unusable(name, f"it cannot be read: {error.strerror}", could_not_read=True)
    yield from ((name, each) for each in messages.flush())
