"""The monitor of the outbox: reads the directory once a second, and before each answer of `/metrics`.

One update does this, in this order:

1. Open the outbox if it is not open yet: its disk may have been full, failing or read-only at the start.
2. Scan the directory. Journals whose worker has ended are adopted; the publisher publishes them.
3. Divide what is left of `outbox.max_bytes` among the workers, as their new quotas.
4. Pass the counts of the workers and of the journals on to the accounting, and set the metrics.

An error of the disk is logged, and the next update tries again.
"""

import asyncio
import logging
import os
from datetime import UTC, datetime

from tracker import telemetry
from tracker.errors import TrackerError
from tracker.pixel.accounting import Accounting
from tracker.pixel.outbox import Outbox
from tracker.pixel.worker_pool import WorkerPool

log = logging.getLogger(__name__)

UPDATE_SECONDS = 1.0  # between two updates
DRAIN_UPDATE_SECONDS = 0.1  # between two updates during a stop
ALARM_SHARE = 0.8  # of outbox.max_bytes


class OutboxMonitor:
    """Keeps the quotas of the workers and the metrics of the outbox up to date."""

    def __init__(self, *, outbox: Outbox, workers: WorkerPool, accounting: Accounting) -> None:
        self._outbox = outbox
        self._workers = workers
        self._accounting = accounting
        self._updating: asyncio.Task[None] | None = None
        self._logged_error: str | None = None
        self._disk_free: int | None = None  # bytes; None while the outbox cannot be read

    def readiness(self) -> dict[str, object]:
        """What `/readyz` reports of the outbox. It is nearly full above `ALARM_SHARE` of `outbox.max_bytes`."""
        return {
            "directory": str(self._outbox.directory),
            "bytes": self._outbox.size,
            "waiting_bytes": self._outbox.waiting,
            "nearly_full": self._outbox.size > self._max_bytes * ALARM_SHARE,
            "disk_free_bytes": self._disk_free,
        }

    @property
    def _max_bytes(self) -> int:
        return self._workers.config.outbox.max_bytes

    async def run(self, stopping: asyncio.Event) -> None:
        """Update every second, and more often once `stopping` is set; runs until it is cancelled."""
        while True:
            await self.update()
            await asyncio.sleep(DRAIN_UPDATE_SECONDS if stopping.is_set() else UPDATE_SECONDS)

    async def update(self) -> None:
        """Update once, and return when an update that began after this call has ended.

        Two updates never run at the same time, so a disk that hangs blocks one thread and not one more at each call. If
        this is cancelled, the update goes on.
        """
        while (running := self._updating) is not None and not running.done():
            await asyncio.shield(running)
        self._updating = asyncio.create_task(self._update())
        await asyncio.shield(self._updating)

    async def _update(self) -> None:
        outbox = self._outbox
        try:
            free = self._disk_free = await asyncio.to_thread(self._scan)
        except (OSError, TrackerError) as error:  # HeldByAnother too, if the outbox could not be opened at the start
            if str(error) != self._logged_error:
                log.error(
                    "outbox_failed error=%s; The outbox cannot be read or opened. Requests are still answered. The "
                    "pixel tries again every second. Check the disk and the permissions of outbox.dir.",
                    error,
                )
            self._logged_error, self._disk_free = str(error), None
        else:
            self._logged_error = None
            self._workers.set_quota(self._max_bytes - outbox.size)
            telemetry.OUTBOX_FREE_BYTES.set(free)
        self._workers.count()
        removed, outbox.removed = outbox.removed, []
        self._accounting.count_removed(removed)
        self._accounting.count_lines(outbox.known())
        telemetry.OUTBOX_BYTES.set(outbox.size)
        telemetry.OUTBOX_MAX_BYTES.set(self._max_bytes)
        telemetry.WAITING_BYTES.set(outbox.waiting)
        age = (datetime.now(UTC) - outbox.oldest).total_seconds() if outbox.oldest else 0.0
        telemetry.OUTBOX_AGE.set(max(0.0, age))

    def _scan(self) -> int:
        """Open the outbox if necessary and scan it; return the bytes that are free on its disk. Blocks on the disk."""
        self._outbox.open()
        if adopted := self._outbox.scan():
            telemetry.ADOPTED.inc(adopted)
            log.info(
                "journals_adopted count=%d; The workers that wrote these journals have ended. "
                "The visits that are left in them are published now.",
                adopted,
            )
        disk = os.statvfs(self._outbox.directory)
        return disk.f_bavail * disk.f_frsize
