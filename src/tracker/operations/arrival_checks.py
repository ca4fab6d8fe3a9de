"""Checks that storage has what SNS has accepted: whether a journal has lost its latest messages.

The ledger cannot see that by itself. It learns of a gap from a later message of the same journal, or from the end
marker. If a filter drops all messages of a journal, or all from a certain time on, there is none.

1. The committed offset of each journal of the outbox is read: SNS has accepted everything before it.
2. The ledger is read until it has each journal up to this offset, or until the time is over. On a system without a
   backlog that takes less than a second.
3. What is lacking then may still wait in the queue, behind a backlog, or be held by a storage that cannot write. If
   neither is so, it is not on its way.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import aiohttp

from tracker.aws import open_client
from tracker.config import PixelConfig, StorageConfig
from tracker.errors import TrackerError
from tracker.operations.findings import Finding, fault, ok
from tracker.operations.lookups import find_queue
from tracker.operations.remedies import Setup
from tracker.operations.service_checks import fetch
from tracker.operations.wanted_settings import number
from tracker.pixel.outbox_files import committed_offset, journals
from tracker.storage.ledger_reader import stored_ends
from tracker.visit_log_files import ledger_path

POLL_SECONDS = 0.5
SHOWN = 3  # journals


async def check_arrival(
    pixel: PixelConfig, storage: StorageConfig, setup: Setup, within: float
) -> AsyncIterator[Finding]:
    """Nothing is found while it is not known which journals the queue should receive, or if a file cannot be read.

    The checks of the subscription, the outbox and the log report that.
    """
    ledger = ledger_path(Path(storage.log.path))
    until = time.monotonic() + within
    try:
        accepted = await asyncio.to_thread(_accepted, Path(pixel.outbox.dir), setup)
        lacking = await asyncio.to_thread(_lacking, ledger, accepted)
        while lacking and time.monotonic() < until:
            await asyncio.sleep(POLL_SECONDS)
            lacking = await asyncio.to_thread(_lacking, ledger, accepted)
    except (OSError, TrackerError):
        return
    if lacking:
        yield _judge(lacking, await _waiting(storage), setup)
    elif accepted:
        yield ok("arrival", f"storage has what SNS had accepted of {len(accepted)} journals")


def _accepted(outbox: Path, setup: Setup) -> dict[str, int]:
    """The committed offsets of the journals whose visits should reach the queue."""
    if setup.expects is None:
        return {}
    offsets = {journal.name: committed_offset(journal) for journal in journals(outbox)}
    return {journal: offset for journal, offset in offsets.items() if offset and setup.expects(journal)}


def _lacking(ledger: Path, accepted: Mapping[str, int]) -> dict[str, tuple[int, int]]:
    """For each journal whose latest bytes the ledger does not have: where they begin and end."""
    ends = stored_ends(ledger, accepted) if accepted else {}
    return {journal: (end, accepted[journal]) for journal, end in ends.items() if end < accepted[journal]}


async def _waiting(config: StorageConfig) -> int:
    """About how many messages wait: in the queue, and in flight while storage cannot write.

    A storage that can write stores those in flight at once, so they cannot be what is lacking.
    """
    async with open_client("sqs", config.sqs.client_region, config.sqs.client_endpoint) as sqs:
        found = await find_queue(sqs, config.sqs.queue)
    names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesDelayed"]
    try:
        can_write = (await fetch(config.admin, "/readyz"))[0] == 200
    except (aiohttp.ClientError, OSError):
        can_write = False
    if not can_write:
        names.append("ApproximateNumberOfMessagesNotVisible")
    return sum(number(found[1], name) or 0 for name in names) if found else 0


def _judge(lacking: Mapping[str, tuple[int, int]], waiting: int, setup: Setup) -> Finding:
    total = sum(end - start for start, end in lacking.values())
    what = f"{total} bytes of {len(lacking)} journals that SNS has accepted are not stored"
    if waiting:
        return ok("arrival", f"{what} yet; about {waiting} messages wait in the queue: look again when they are stored")
    shown = [f"{journal} [{start}, {end})" for journal, (start, end) in sorted(lacking.items())[:SHOWN]]
    return fault(
        "arrival",
        f"{what}, and no message waits in the queue: {', '.join(shown)}{', …' if len(lacking) > SHOWN else ''}",
        why="a filter or a policy kept their messages out, or they are in a dead-letter queue, or the ledger is newer "
        "than these journals (--accept-log), and the visits may be in the log",
        fix=f"{setup.keep_outbox}fix what the findings above name; redrive the dead-letter queue",
    )
