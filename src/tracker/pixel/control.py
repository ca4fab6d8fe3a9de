"""What main and a worker tell each other.

Over their socket pair, one JSON document a line: main greets and commands, the worker says once that it answers. The
socket also says who is gone: each end closes when its process ends. What a worker counts is in a page of memory that
both have mapped, so that nothing it counted is lost with it, however it ends.
"""

import mmap
import os
import sys
import tempfile
from collections.abc import Iterator, MutableMapping

import msgspec

from tracker.config import PixelConfig
from tracker.core.discards import NOT_RECORDED, REFUSED_CONNECTIONS, REFUSED_STATUSES

BACKLOG = 4096  # connections not accepted yet; a worker's listen(2) sets it anew on the socket it inherits

ANSWERING = b"answering\n"

HEADERS_CUT = "headers_cut"
HEADERS_UNTRUSTED = "headers_untrusted"
BEATS = "beats"  # incremented each second by the worker's loop; main replaces a worker whose beats stop
LOG_LINES_DROPPED = "log_lines_dropped"
NOT_RECORDING = "not_recording"  # 1 while the worker's visits cannot be recorded


class Hello(msgspec.Struct, frozen=True):
    """Main's first words to a worker."""

    config: PixelConfig
    room: int  # bytes this worker may add to the outbox until it hears again


class Command(msgspec.Struct, frozen=True):
    """Main to worker: a new allowance of bytes, or the wish to stop within `drain` seconds."""

    room: int | None = None
    drain: float | None = None


def refused_request(status: int) -> str:
    """The name of the count of requests refused with `status`."""
    return f"refused_request_{status}"


def refused_connection(reason: str) -> str:
    """The name of the count of connections closed for `reason`."""
    return f"refused_connection_{reason}"


def encode(document: Hello | Command) -> bytes:
    return msgspec.json.encode(document) + b"\n"


class Counts(MutableMapping[str, int]):
    """Numbers of a worker, from its start on, in shared memory: it alone writes, main reads, even after its death."""

    _NAMES = (
        *NOT_RECORDED,
        *map(refused_request, REFUSED_STATUSES),
        *map(refused_connection, REFUSED_CONNECTIONS),
        HEADERS_CUT,
        HEADERS_UNTRUSTED,
        LOG_LINES_DROPPED,
        BEATS,
        NOT_RECORDING,
    )
    _SIZE = 8 * len(_NAMES)

    def __init__(self, descriptor: int) -> None:
        self._page = mmap.mmap(descriptor, self._SIZE)
        self._cells = memoryview(self._page).cast("Q")
        self._index = {name: index for index, name in enumerate(self._NAMES)}

    @classmethod
    def create(cls) -> int:
        """A descriptor of new, empty memory, for both to map. Raises OSError."""
        if sys.platform == "linux":
            descriptor = os.memfd_create("tracker-counts")
        else:
            with tempfile.TemporaryFile() as file:
                descriptor = os.dup(file.fileno())
        os.ftruncate(descriptor, cls._SIZE)
        return descriptor

    def __getitem__(self, name: str) -> int:
        return self._cells[self._index[name]]

    def __setitem__(self, name: str, value: int) -> None:
        self._cells[self._index[name]] = value  # eight bytes at once: main never sees half of them

    def __delitem__(self, name: str) -> None:
        raise TypeError("the names are fixed")

    def __iter__(self) -> Iterator[str]:
        return iter(self._NAMES)

    def __len__(self) -> int:
        return len(self._NAMES)

    def close(self) -> None:
        self._cells.release()
        self._page.close()
