"""The recorder: appends a worker's visits to its journal, and replaces a journal that fails.

1. `record` appends the lines of one or more visits with one write. It raises nothing: a visit that cannot be recorded
   is discarded and counted with its reason, and its GIF is sent all the same.
2. The quota is how many bytes this worker may still append. Main sets it every second. Visits that exceed it are
   discarded as `outbox_full`.
3. Every `outbox.fsync_interval` seconds a thread makes durable what was appended.
4. Every second the journal's files are checked: somebody may have removed, replaced or cut them.
5. After a failed fsync, a failed check or a failed cut the journal is replaced. The new journal is made first. Then the
   old one is synced, unless an fsync of it has failed, and closed. The publisher publishes what is left of it.
6. While no new journal can be made, visits are discarded as `outbox_io`. Step 4 tries again every second.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tracker.config import OutboxConfig
from tracker.core.discards import HEADERS_CUT, HEADERS_MISSING, HEADERS_UNTRUSTED
from tracker.core.visit import split_lines
from tracker.files import room_for
from tracker.owner_thread import OwnerThread
from tracker.pixel.control import refused_connection, refused_request
from tracker.pixel.journal import Journal

log = logging.getLogger(__name__)

CHECK_SECONDS = 1.0
NEEDED_BYTES = 65_536  # about one write: a disk with less free space is called full


class Recorder:
    """Records the visits of one worker. `quota` is in bytes.

    `journal` is where visits are appended, None while no journal can be made. `counts` are the numbers that main reads:
    visits discarded, by reason, and requests and connections refused. Accepted visits are not among them: main counts
    the lines of the journal. `accepted` is how many visits were appended.
    """

    def __init__(self, *, config: OutboxConfig, quota: int, counts: MutableMapping[str, int] | None = None) -> None:
        self.quota = quota
        self.accepted = 0
        self.counts = Counter[str]() if counts is None else counts
        self._config = config
        self.journal: Journal | None = None
        # One thread, so that no file is closed while it is synced, even if the call that awaits the sync is cancelled.
        self._disk = OwnerThread(ThreadPoolExecutor(1, thread_name_prefix="journal"))
        self._replacing = asyncio.Lock()
        self._unsynced = False
        self._logged_error: str | None = None

    @property
    def recording(self) -> bool:
        """Whether visits can be recorded now."""
        return self.journal is not None and not self.journal.sealed and self.quota > 0

    def record(self, lines: bytes, visits: int = 1) -> None:
        """Append `lines`, which are those of `visits` visits. When this returns, their answers may be sent.

        Raises nothing.
        """
        journal = self.journal
        if journal is None or journal.sealed:
            self.discard("outbox_io", visits)
        elif len(lines) > self.quota:
            if visits == 1:
                self.discard("outbox_full")
            else:  # record as many as the quota allows
                for line in split_lines(lines):
                    self.record(line)
        else:
            try:
                kept = journal.append(lines)
            except OSError as error:
                self._report(f"append failed: {error.strerror}")
                self.discard("outbox_io", visits)
                return
            self.quota -= kept
            self._unsynced = True
            if kept < len(lines):
                self._report("append failed: short write")
                lost = lines.count(b"\n", kept)
                self.discard("outbox_io", lost)
                visits -= lost
            self.accepted += visits

    def discard(self, reason: str, visits: int = 1) -> None:
        """Count visits that are answered and not recorded."""
        self.counts[reason] += visits

    def count_refused_request(self, status: int) -> None:
        """Count a request that was refused with this status."""
        self.counts[refused_request(status)] += 1

    def count_refused_connection(self, reason: str) -> None:
        """Count a connection that was closed without an answer."""
        self.counts[refused_connection(reason)] += 1

    def count_untrusted_header(self) -> None:
        """Count a client IP header that is ignored, because the peer is not a trusted proxy."""
        self.counts[HEADERS_UNTRUSTED] += 1

    def count_missing_header(self) -> None:
        """Count a visit whose peer is a trusted proxy and names no client, so that the proxy's address is recorded."""
        self.counts[HEADERS_MISSING] += 1

    def count_cut_header(self) -> None:
        """Count a referrer or user agent that was cut to its maximum length."""
        self.counts[HEADERS_CUT] += 1

    async def open(self) -> None:
        """Make the first journal. If that fails, visits are discarded until `run` can make one."""
        await self._replace(None)

    async def run(self) -> None:
        """Sync and check the journal regularly. Runs until it is cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(_every(self._config.fsync_interval, self.sync))
            tasks.create_task(_every(CHECK_SECONDS, self.check))

    async def sync(self) -> None:
        """Make durable what was recorded so far. If that fails, replace the journal."""
        journal = self.journal
        if journal is None or not self._unsynced:
            return
        self._unsynced = False
        try:
            await self._disk.call(journal.sync)
        except OSError as error:
            self._report(f"fsync failed: {error.strerror}")
            await self._replace(journal)
        else:
            self._logged_error = None

    async def check(self) -> None:
        """Check the journal's files, and replace the journal if anything is wrong with them."""
        journal = self.journal
        try:
            problem = "sealed" if journal is None or journal.sealed else journal.check()
        except OSError as error:
            self._report(f"no new segment: {error.strerror}")
            return
        if problem is not None:
            if journal is not None and not journal.sealed:
                self._report(f"journal {journal.path.name}: {problem}")
            await self._replace(journal)

    async def close(self) -> None:
        """Make all visits durable and leave the journal to the publisher. Record nothing afterwards."""
        journal, self.journal = self.journal, None
        if journal is not None:
            await self._close_journal(journal)
        self._disk.executor.shutdown()

    async def _replace(self, old: Journal | None) -> None:
        """Begin a new journal, then close the old one. No visit is discarded in between unless the disk fails."""
        async with self._replacing:
            if self.journal is not old:
                return
            try:
                directory = Path(self._config.dir)
                self.journal = await self._disk.call(Journal.create, directory, self._config.segment_bytes)
            except OSError as error:
                self._report(f"no new journal: {error.strerror}")
                self.journal = None
            if old is not None:
                await self._close_journal(old)

    async def _close_journal(self, journal: Journal) -> None:
        """Sync and close a journal, so that the publisher adopts it.

        The sync is needed because it may take hours until SNS has its visits.
        """
        if not journal.failed:
            try:
                await self._disk.call(journal.sync)
            except OSError as error:
                self._report(f"fsync failed: {error.strerror}")
        await self._disk.call(journal.close)

    def _report(self, error: str) -> None:
        if error != self._logged_error:
            log.error(
                "recording_failed error=%s; Requests are still answered. Visits that cannot be recorded are discarded "
                "and counted as outbox_io. The recorder tries again every second. Check the disk of outbox.dir.",
                error + room_for(Path(self._config.dir), NEEDED_BYTES),
            )
        self._logged_error = error


async def _every(seconds: float, step: Callable[[], Awaitable[None]]) -> None:
    while True:
        await asyncio.sleep(seconds)
        await step()
