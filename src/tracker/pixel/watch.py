"""The watch over the outbox: every second, and before each look at the metrics, what is in it and what that means.

It adopts journals whose worker is gone, shares the room that is left out among the workers, and counts. Whatever the
disk does, it only says so and tries again.
"""

import asyncio
import logging
import os
from datetime import UTC, datetime

from tracker import telemetry
from tracker.errors import TrackerError
from tracker.pixel.accounting import Accounting
from tracker.pixel.outbox import Outbox
from tracker.pixel.supervisor import Supervisor

log = logging.getLogger("tracker.pixel.watch")

WATCH_SECONDS = 1.0
DRAIN_WATCH_SECONDS = 0.1


class Watch:
    """`max_bytes` bounds the outbox; it may be changed."""

    def __init__(self, *, outbox: Outbox, supervisor: Supervisor, accounting: Accounting, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._outbox = outbox
        self._supervisor = supervisor
        self._accounting = accounting
        self._looking: asyncio.Task[None] | None = None
        self._trouble: str | None = None

    async def run(self, stopping: asyncio.Event) -> None:
        """Look every second, more often once `stopping` is set, for as long as it is let."""
        while True:
            await self.look()
            await asyncio.sleep(DRAIN_WATCH_SECONDS if stopping.is_set() else WATCH_SECONDS)

    async def look(self) -> None:
        """Look once, from now on. Looks never overlap, and one that hangs with the disk holds no other thread."""
        while (running := self._looking) is not None and not running.done():
            await asyncio.shield(running)
        self._looking = asyncio.create_task(self._look())
        await asyncio.shield(self._looking)

    async def _look(self) -> None:
        outbox = self._outbox
        try:
            free = await asyncio.to_thread(self._scan)
        except (OSError, TrackerError) as error:  # HeldByAnother too, where the first open failed
            if str(error) != self._trouble:
                log.error("outbox_unusable %s; tried again every second", error)
            self._trouble = str(error)
        else:
            self._trouble = None
            self._supervisor.allow(self.max_bytes - outbox.size)
            telemetry.OUTBOX_FREE_BYTES.set(free)
        self._supervisor.count()
        gone, outbox.gone = outbox.gone, []
        self._accounting.gone(gone)
        self._accounting.found(outbox.known())
        telemetry.OUTBOX_BYTES.set(outbox.size)
        telemetry.OUTBOX_MAX_BYTES.set(self.max_bytes)
        telemetry.WAITING_BYTES.set(outbox.waiting)
        age = (datetime.now(UTC) - outbox.oldest).total_seconds() if outbox.oldest else 0.0
        telemetry.OUTBOX_AGE.set(max(0.0, age))

    def _scan(self) -> int:
        """Blocks on the disk; bytes free on it."""
        self._outbox.open()
        if adopted := self._outbox.scan():
            telemetry.ADOPTED.inc(adopted)
            log.info("journals_adopted count=%d", adopted)
        disk = os.statvfs(self._outbox.directory)
        return disk.f_bavail * disk.f_frsize
