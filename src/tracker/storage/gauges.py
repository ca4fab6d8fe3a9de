"""Gauges that are updated every ten seconds: the bytes that are missing, and the free space of the log's disk."""

import asyncio
import logging
import os
from pathlib import Path

from tracker import telemetry
from tracker.errors import AppendFailed
from tracker.owner_thread import OwnerThread
from tracker.storage.ledger import Ledger

log = logging.getLogger(__name__)

UPDATE_SECONDS = 10.0


async def update(ledger: Ledger, path: Path, thread: OwnerThread) -> None:
    """Update the gauges every ten seconds, until cancelled. If one of them cannot be read, the others still are."""
    while True:
        try:
            # Called in the writer's thread, because no other thread may use the ledger.
            gaps = await thread.call(ledger.gaps)
            telemetry.MISSING_BYTES.set(gaps.size)
            telemetry.GAPPED_JOURNALS.set(gaps.journals)
        except AppendFailed as error:
            log.warning(
                "ledger_read_failed error=%s; The ledger could not be read. The gauges of missing bytes keep their "
                "last values. Storage tries again within ten seconds.",
                error,
            )
        try:
            disk = await asyncio.to_thread(os.statvfs, path.parent)
            telemetry.LOG_FREE_BYTES.set(disk.f_bavail * disk.f_frsize)
        except OSError as error:
            log.warning(
                "free_space_read_failed error=%s; The free space of the log's disk could not be read. Its gauge keeps "
                "its last value. Storage tries again within ten seconds.",
                error,
            )
        await asyncio.sleep(UPDATE_SECONDS)
