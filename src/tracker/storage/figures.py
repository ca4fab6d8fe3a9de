"""Figures that nothing on a visit's path would tell: what the ledger lacks, and the room on the log's disk."""

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
    """Look every ten seconds, in the writer's thread, which alone may use the ledger; for as long as it is let."""
    loop = asyncio.get_running_loop()
    while True:
        try:
            telemetry.MISSING_BYTES.set(await loop.run_in_executor(executor, ledger.missing_bytes))
            disk = await asyncio.to_thread(os.statvfs, path.parent)
            telemetry.LOG_FREE_BYTES.set(disk.f_bavail * disk.f_frsize)
        except (AppendFailed, OSError) as error:
            log.warning("figures_unread error=%s", error)
        await asyncio.sleep(FIGURES_SECONDS)
