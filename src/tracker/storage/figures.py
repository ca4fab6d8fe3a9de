"""Figures that no event on a visit's path would update: what the ledger lacks, and the room on the log's disk."""

import asyncio
import logging
import os
from concurrent.futures import Executor
from pathlib import Path

from tracker import telemetry
from tracker.errors import AppendFailed
from tracker.storage.ledger import Ledger

log = logging.getLogger("tracker.figures")

FIGURES_SECONDS = 10.0


async def watch(ledger: Ledger, path: Path, executor: Executor) -> None:
    """Read the figures every ten seconds until cancelled. One that cannot be read keeps no other from being read."""
    while True:
        try:
            # In the writer's thread, which alone may use the ledger.
            gaps = await asyncio.get_running_loop().run_in_executor(executor, ledger.gaps)
            telemetry.MISSING_BYTES.set(gaps.size)
            telemetry.GAPPED_JOURNALS.set(gaps.journals)
        except AppendFailed as error:
            log.warning("gaps_unread error=%s; the gauges of missing bytes keep their last values", error)
        try:
            disk = await asyncio.to_thread(os.statvfs, path.parent)
            telemetry.LOG_FREE_BYTES.set(disk.f_bavail * disk.f_frsize)
        except OSError as error:
            log.warning("free_space_unread error=%s; the gauge of free space keeps its last value", error)
        await asyncio.sleep(FIGURES_SECONDS)
