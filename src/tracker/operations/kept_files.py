"""Finds what was kept elsewhere: in files, in folders of files, and in outboxes. Nothing that is read is changed."""

import gzip
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from tracker.operations.json_objects import NoObject, json_objects
from tracker.operations.kept_messages import Kept, KeptMessages, Unusable
from tracker.operations.kept_outbox import is_outbox, journal_messages, unused_outbox
from tracker.pixel.outbox_files import refused_lines

_GZIP = b"\x1f\x8b"


def read(paths: Iterable[Path]) -> Iterator[tuple[str, Kept | Unusable]]:
    """The messages of files, of folders with files, and of outboxes, each with the name of its file or folder."""
    for path in paths:
        if not path.is_dir():
            yield from _read_file(path)
        elif is_outbox(path):
            with unused_outbox(path) as journals:
                for journal in journals:
                    yield from ((str(journal), each) for each in journal_messages(journal))
                if refused_lines(path).exists():
                    yield from _read_file(refused_lines(path))
        else:
            yield from read(sorted(path.iterdir()))


def _read_file(path: Path) -> Iterator[tuple[str, Kept | Unusable]]:
    name = str(path)
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
