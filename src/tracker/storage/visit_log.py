"""The visit log. Only this module decides which file is the log, and when another file becomes it.

The writer appends through it and calls `prepare` before each append, and once a second when it is idle. `prepare`
changes the file in these cases, in this order:

1. An earlier change was interrupted, for example because no descriptor was free: open the new file now.
2. A SIGHUP has requested a reopening, because somebody has renamed the log (logrotate's `create`). The file that has
   the log's name now becomes the log. If there is none, an empty one is created.
3. A rotation is due: the log becomes a closed log, and an empty one becomes the log.

In all cases the ledger records the change first (`tracker.storage.rotation`), and then the new file is opened. Nothing
is appended in between, because `prepare` is repeated until it succeeds.
"""

import logging
import time
from collections.abc import Callable
from pathlib import Path

from tracker.config import Rotate
from tracker.errors import AppendPaused
from tracker.owner_thread import OwnerThread
from tracker.storage.ledger import Ledger
from tracker.storage.log_file import LogFile, error_between_appends, open_log_file
from tracker.storage.rotation import Rotation

log = logging.getLogger(__name__)


class VisitLog:
    """The log `file` that is open, its ledger, and its rotation; `open_visit_log` makes one.

    `on_closed` is called with every closed log.
    """

    def __init__(
        self,
        *,
        path: Path,
        file: LogFile,
        thread: OwnerThread,
        ledger: Ledger,
        rotation: Rotation,
        on_closed: Callable[[Path], None],
    ) -> None:
        self.file = file
        self.rotation = rotation
        self._path = path
        self._thread = thread
        self._ledger = ledger
        self._on_closed = on_closed
        self._reopen_requested = False
        self._must_open = False  # whether the ledger has recorded another file as the log than the open one

    @property
    def ends_mid_line(self) -> bool:
        """Whether the next append has to begin with a newline, because another program left a line unfinished."""
        return self.file.ends_mid_line

    async def append(self, data: bytes | bytearray) -> None:
        """Write `data` at the log's end. Raises what `LogFile.append` raises."""
        await self.file.append(self._end(), data)

    async def sync(self) -> None:
        """Make every append so far durable. Raises AppendFailed, after which the process has to end."""
        await self.file.sync()

    def request_reopen(self) -> None:
        """Let the next `prepare` continue with the file that has the log's name at that time."""
        self._reopen_requested = True

    async def prepare(self) -> None:
        """Make sure that the open file is the log to append to, and rotate it if that is due.

        Raises AppendPaused, after which it is to be called again before the next append, and AppendFailed.
        """
        if self._must_open:
            await self._open()
        if self._reopen_requested:
            await self._reopen()
        if self.rotation.is_due(self.file.status()):
            await self._rotate()

    async def close(self) -> None:
        await self.file.close()

    async def _reopen(self) -> None:
        self._reopen_requested = False
        try:
            await self._thread.call(self._ledger.checkpoint)
            await self.file.check(self._end(), may_be_moved=True)
            if await self._thread.call(self.rotation.follow):
                await self._open()
        except AppendPaused:
            self._reopen_requested = True
            raise
        log.info(
            "log_reopened path=%s bytes=%d; Visits are appended to the file that has this name.",
            self._path,
            self._end(),
        )

    async def _rotate(self) -> None:
        if self._ledger.rotating is None:
            await self.file.check(self._end())
        closed = await self._thread.call(self.rotation.rotate)
        if closed is None:
            return
        log.info("log_rotated file=%s; This is a closed log now. Visits are appended to a new file.", closed)
        self._on_closed(closed)
        await self._open()

    async def _open(self) -> None:
        """Open the file that the ledger has recorded as the log, and close the previous one."""
        self._must_open = True
        try:
            opened = await open_log_file(self._path, self._thread)
        except OSError as error:
            raise error_between_appends(error, f"{self._path} cannot be opened") from error
        previous, self.file = self.file, opened
        self._must_open = False
        await previous.close()

    def _end(self) -> int:
        size = self._ledger.size
        assert size is not None, "recovery has recorded a log in the ledger"
        return size


async def open_visit_log(
    *,
    path: Path,
    mode: int,
    rotate: Rotate,
    thread: OwnerThread,
    ledger: Ledger,
    on_closed: Callable[[Path], None],
    clock: Callable[[], float] = time.time,
) -> VisitLog:
    """Open the log `path`; recovery has made sure that it exists. Raises OSError."""
    rotation = Rotation(path=path, mode=mode, config=rotate, ledger=ledger, clock=clock)
    file = await open_log_file(path, thread)
    return VisitLog(path=path, file=file, thread=thread, ledger=ledger, rotation=rotation, on_closed=on_closed)
