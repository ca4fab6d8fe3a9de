"""The recorder: puts a worker's visits into its journal, and a new journal in place of one that fails.

Whatever happens here, the GIF leaves; a visit that could not be recorded is discarded and counted with its reason.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import ParamSpec, TypeVar

from tracker.config import OutboxConfig
from tracker.core.visit import split_lines
from tracker.pixel.control import HEADERS_CUT, HEADERS_UNTRUSTED, refused_connection, refused_request
from tracker.pixel.journal import Journal

log = logging.getLogger("tracker.pixel.recorder")

CHECK_SECONDS = 1.0

P = ParamSpec("P")
T = TypeVar("T")


class Recorder:
    """Owns the worker's journal. `room` is how many bytes the outbox may still grow by, as main last said.

    What is discarded is counted in `counts`, by reason. What is accepted is in the journal, where main counts it.
    """

    def __init__(self, *, config: OutboxConfig, room: int, counts: MutableMapping[str, int] | None = None) -> None:
        self.room = room
        self.accepted = 0
        self.discarded = Counter[str]() if counts is None else counts
        self._config = config
        self._journal: Journal | None = None
        # One thread: nothing closes or syncs a file while something else syncs it, cancelled or not.
        self._disk = ThreadPoolExecutor(1, thread_name_prefix="journal")
        self._replacing = asyncio.Lock()
        self._dirty = False
        self._trouble: str | None = None

    @property
    def recording(self) -> bool:
        return self._journal is not None and not self._journal.sealed and self.room > 0

    def record(self, lines: bytes, visits: int = 1) -> None:
        """Append the lines of so many visits, with one write; afterwards their answers may leave. Never raises."""
        journal = self._journal
        if journal is None or journal.sealed:
            self.discard("outbox_io", visits)
        elif len(lines) > self.room:
            if visits == 1:
                self.discard("outbox_full")
            else:  # as many as there is room for
                for line in split_lines(lines):
                    self.record(line)
        else:
            try:
                kept = journal.append(lines)
            except OSError as error:
                self._report(f"append failed: {error.strerror}")
                self.discard("outbox_io", visits)
                return
            self.room -= kept
            self._dirty = True
            if kept < len(lines):
                self._report("append failed: short write")
                lost = lines.count(b"\n", kept)
                self.discard("outbox_io", lost)
                visits -= lost
            self.accepted += visits

    def discard(self, reason: str, visits: int = 1) -> None:
        self.discarded[reason] += visits

    def count_refused_request(self, status: int) -> None:
        self.discarded[refused_request(status)] += 1

    def count_refused_connection(self, reason: str) -> None:
        self.discarded[refused_connection(reason)] += 1

    def count_untrusted_header(self) -> None:
        self.discarded[HEADERS_UNTRUSTED] += 1

    def count_cut_header(self) -> None:
        self.discarded[HEADERS_CUT] += 1

    async def open(self) -> None:
        """Make the first journal; without one, visits are answered and discarded until `run` gets one."""
        await self._replace(None)

    async def run(self) -> None:
        """Sync every `fsync_interval`, look after the files every second; for as long as the worker lives."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(_every(self._config.fsync_interval, self.sync))
            tasks.create_task(_every(CHECK_SECONDS, self.check))

    async def sync(self) -> None:
        """Make durable what was recorded so far, or begin a new journal where that fails."""
        journal = self._journal
        if journal is None or not self._dirty:
            return
        self._dirty = False
        try:
            await self._call(journal.sync)
        except OSError as error:
            self._report(f"fsync failed: {error.strerror}")
            await self._replace(journal)
        else:
            self._trouble = None

    async def check(self) -> None:
        """See whether the journal is still good, and begin a new one where it is not."""
        journal = self._journal
        try:
            problem = "sealed" if journal is None or journal.sealed else journal.check()
        except OSError as error:
            self._report(f"segment failed: {error.strerror}")
            return
        if problem is not None:
            if journal is not None and not journal.sealed:
                self._report(f"journal {journal.path.name} {problem}")
            await self._replace(journal)

    async def close(self) -> None:
        """Make all durable and leave the journal to the publisher. No visit may be recorded afterwards."""
        journal, self._journal = self._journal, None
        if journal is not None:
            await self._let_go(journal)
        self._disk.shutdown()

    async def _replace(self, old: Journal | None) -> None:
        """Begin a new journal, then let the old one go: nothing is discarded in between unless the disk refuses."""
        async with self._replacing:
            if self._journal is not old:
                return
            try:
                directory = Path(self._config.dir)
                self._journal = await self._call(Journal.create, directory, self._config.segment_bytes)
            except OSError as error:
                self._report(f"no new journal: {error.strerror}")
                self._journal = None
            if old is not None:
                await self._let_go(old)

    async def _let_go(self, journal: Journal) -> None:
        """Leave a journal to the publisher, with all durable that can be: it may be long until SNS has it."""
        if not journal.failed:
            try:
                await self._call(journal.sync)
            except OSError as error:
                self._report(f"fsync failed: {error.strerror}")
        await self._call(journal.close)

    async def _call(self, function: Callable[P, T], *arguments: P.args, **options: P.kwargs) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._disk, partial(function, *arguments, **options))

    def _report(self, trouble: str) -> None:
        if trouble != self._trouble:
            log.error("outbox_io %s; answers go on, what cannot be recorded is discarded and counted", trouble)
        self._trouble = trouble


async def _every(seconds: float, step: Callable[[], Awaitable[None]]) -> None:
    while True:
        await asyncio.sleep(seconds)
        await step()
