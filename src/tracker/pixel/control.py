"""What main and a worker exchange: lines over a socket pair, and numbers in shared memory.

1. Main writes one line with `Hello`, as JSON, when the worker has been started.
2. The worker writes the line `ANSWERING` once it answers requests.
3. Main writes lines with `Command`, as JSON: a new quota once a second, and at the end a stop request.
4. When a process ends, the system closes its end of the socket pair. The other then reads the end of the stream.

The worker counts in shared memory (`Counts`). Main can read it after the worker has been killed, so no count is lost.
"""

import mmap
import os
import sys
import tempfile
from collections.abc import Iterator, MutableMapping

import msgspec

from tracker.config import PixelConfig
from tracker.core.discards import HEADERS, NOT_RECORDED, REFUSED_CONNECTIONS, REFUSED_STATUSES

BACKLOG = 4096  # connections not accepted yet; each worker's listen(2) sets it again on the inherited socket

ANSWERING = b"answering\n"

HEARTBEATS = "heartbeats"  # incremented each second by the worker's loop; main replaces a worker whose heartbeats stop
LOG_LINES_DROPPED = "log_lines_dropped"
NOT_RECORDING = "not_recording"  # 1 while the worker's visits cannot be recorded


class Hello(msgspec.Struct, frozen=True):
    """Main to worker, once, as the first line."""

    config: PixelConfig
    quota: int  # bytes this worker may add to the outbox until it receives another quota


class Command(msgspec.Struct, frozen=True):
    """Main to worker: a new quota, or a stop request."""

    quota: int | None = None  # bytes, in place of the last quota
    drain: float | None = None  # seconds in which to finish the requests that have begun


def refused_request(status: int) -> str:
    """The name in `Counts` of the number of requests refused with `status`."""
    return f"refused_request_{status}"


def refused_connection(reason: str) -> str:
    """The name in `Counts` of the number of connections closed for `reason`."""
    return f"refused_connection_{reason}"


def encode(document: Hello | Command) -> bytes:
    """The line that carries `document`."""
    return msgspec.json.encode(document) + b"\n"


class Counts(MutableMapping[str, int]):
    """Numbers of a worker since its start, in shared memory. The worker alone writes them; main reads them."""

    _NAMES = (
        *NOT_RECORDED,
        *map(refused_request, REFUSED_STATUSES),
        *map(refused_connection, REFUSED_CONNECTIONS),
        *HEADERS,
        LOG_LINES_DROPPED,
        HEARTBEATS,
        NOT_RECORDING,
    )
    _SIZE = 8 * len(_NAMES)

    def __init__(self, descriptor: int) -> None:
        self._page = mmap.mmap(descriptor, self._SIZE)
        self._cells = memoryview(self._page).cast("Q")
        self._index = {name: index for index, name in enumerate(self._NAMES)}

    @classmethod
    def create(cls) -> int:
        """A descriptor of new memory, all zeros, for main and the worker to map. Raises OSError."""
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
        self._cells[self._index[name]] = value  # one write of eight bytes: main never reads half of a number

    def __delitem__(self, name: str) -> None:
        raise TypeError("the names are fixed")

    def __iter__(self) -> Iterator[str]:
        return iter(self._NAMES)

    def __len__(self) -> int:
        return len(self._NAMES)

    def close(self) -> None:
        self._cells.release()
        self._page.close()
