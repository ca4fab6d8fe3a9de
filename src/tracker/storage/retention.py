"""Retention: removes the closed logs that `log.rotate.keep` does not keep, the oldest first, in a thread of its own.

A file is removed only if all of this is true:

1. It is a regular file whose name is that of a closed log of this log. Nobody else's file is counted or removed.
2. It is older than the kept age, or as many newer closed logs exist as are kept. A closed log that exists both plain
   and compressed counts as one.
3. It is not the file that the ledger has recorded as the log. Before a rotation is finished, the file has its new name
   already and the ledger still expects it there.
4. The archive has stored it, if there is an archive (`archive_marker`).

An error is logged, and the removal is tried again a minute later. It stops nothing else.
"""

import asyncio
import logging
import stat
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tracker import telemetry
from tracker.archive_marker import is_archived
from tracker.config import Rotate
from tracker.files import reason, sync_directory
from tracker.lifecycle import wait_for_event
from tracker.owner_thread import OwnerThread
from tracker.visit_log_files import closed_at, closed_or_reserved

log = logging.getLogger(__name__)

PERIOD_SECONDS = 60.0


class Retention:
    """Keeps the closed logs of `path` as `rotate.keep` says.

    `recorded_inode` returns the inode of the file that the ledger has recorded as the log; the retention's thread calls
    it. With `archived_only`, a closed log is removed only after it was archived.
    """

    def __init__(
        self,
        *,
        path: Path,
        rotate: Rotate,
        archived_only: bool,
        recorded_inode: Callable[[], int | None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._path = path
        self._keep = rotate.keep
        self._keep_seconds = rotate.keep_seconds
        self._archived_only = archived_only
        self._recorded_inode = recorded_inode
        self._clock = clock  # seconds since 1970
        self._added = asyncio.Event()

    def add(self, file: Path) -> None:
        """Note that `file` is a closed log now, so there may be one too many."""
        self._added.set()

    async def run(self) -> None:
        """Remove until cancelled."""
        with ThreadPoolExecutor(1, thread_name_prefix="retention") as executor:
            thread = OwnerThread(executor)
            while True:
                self._added.clear()
                try:
                    await thread.call(self.remove)
                except OSError as error:
                    self._report(self._path.parent, error)
                await wait_for_event(self._added, PERIOD_SECONDS)

    def remove(self) -> None:
        """Remove what is kept no longer. Raises OSError when the directory cannot be read or synced."""
        removed = False
        for file in self._not_kept():
            try:
                if self._archived_only and not is_archived(self._path, file):
                    continue
                file.unlink()
            except FileNotFoundError:
                continue  # somebody else removed it, or it is compressed now
            except OSError as error:
                self._report(file, error)
                continue
            removed = True
            telemetry.CLOSED_LOGS_REMOVED.inc()
            log.info("closed_log_removed file=%s keep=%s; It was not to be kept any longer.", file, self._keep)
        if removed:
            sync_directory(self._path.parent)

    def _not_kept(self) -> list[Path]:
        """The files of rules 1 to 3, the oldest first."""
        found = []
        for file in closed_or_reserved(self._path):
            try:
                status = file.lstat()
            except FileNotFoundError:
                continue
            at = closed_at(self._path, file)
            # The inode is read after the status. A rotation that has renamed the file meanwhile has recorded it before.
            if at is not None and stat.S_ISREG(status.st_mode) and status.st_size:
                found.append((at, status.st_ino == self._recorded_inode(), file))
        if self._keep_seconds is not None:
            now = self._clock()
            old = {at for at, _, _ in found if now - at.timestamp() >= self._keep_seconds}
        else:
            assert isinstance(self._keep, int)
            old = set(sorted({at for at, recorded, _ in found if not recorded})[: -self._keep])
        return [file for at, recorded, file in found if at in old and not recorded]

    def _report(self, file: Path, error: OSError) -> None:
        log.error(
            "closed_log_not_removed file=%s error=%s retry_seconds=%g; This closed log is older than log.rotate.keep "
            "says, but it could not be removed. Storage tries again. Fix what the error names.",
            *(file, reason(error), PERIOD_SECONDS),
        )
