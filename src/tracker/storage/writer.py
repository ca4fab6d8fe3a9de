"""The writer: turns deliveries into lines of the visit log, and is the only one who says that a delivery may go.

`_store` is the promise of the whole service. The order of its four steps is what makes every visit a line exactly once.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import Executor
from functools import partial
from pathlib import Path
from typing import TypeVar

from prometheus_client import Counter

from tracker import telemetry
from tracker.aws import Delivery
from tracker.errors import AppendPaused, ConflictingMessage, MalformedMessage
from tracker.lifecycle import wait_for_event
from tracker.storage import freshness
from tracker.storage.batch import Batch
from tracker.storage.ledger import Ledger
from tracker.storage.receiver import Handover
from tracker.storage.rotation import Rotation
from tracker.storage.visit_log import VisitLog

log = logging.getLogger("tracker.writer")

IDLE_SECONDS = 1.0
RETRY_SECONDS = 1.0
REMEMBERED_REFUSED = 10_000  # MessageIds, some 1 MB; SQS delivers each again until maxReceiveCount is reached

T = TypeVar("T")


class Writer:
    """One batch after the other, until the hand-over is closed; the ledger and the log in the executor's one thread.

    `acknowledge` is given the deliveries whose lines are durable, `leave` the malformed and the conflicting ones.
    `reopen`, when set, asks to go on with the file that has the log's name by then: the old one was put aside.
    `rotated` is told of each file that a rotation has put aside.
    """

    def __init__(
        self,
        *,
        ledger: Ledger,
        visit_log: VisitLog,
        rotation: Rotation,
        executor: Executor,
        handover: Handover,
        acknowledge: Callable[[Iterable[Delivery]], Awaitable[None]],
        leave: Callable[[Iterable[Delivery]], None],
        stop: asyncio.Event,
        reopen: asyncio.Event,
        rotated: Callable[[Path], None],
    ) -> None:
        self._ledger = ledger
        self._log = visit_log
        self._rotation = rotation
        self._executor = executor
        self._handover = handover
        self._acknowledge = acknowledge
        self._leave = leave
        self._stop = stop
        self._reopen = reopen
        self._rotated = rotated
        self._closed = False
        self._must_reopen = False  # the ledger has gone on with another file than the one that is open
        self._refused: dict[str, Counter] = {}  # MessageId -> what counts it: malformed or conflicting
        self._paused_by = ""  # the event that was logged
        self.paused: str | None = None  # the reason while nothing can be appended

    async def run(self) -> None:
        while not self._closed:
            batch = await self._take()
            if batch.deliveries:
                await self._with_pauses(partial(self._store, batch))
        await self._with_pauses(self._settle)

    async def _store(self, batch: Batch) -> None:
        """Commit, append, fdatasync, acknowledge: in this order and no other.

        The commit merges the append before, which is durable, and names this one as pending. A crash after it leaves
        at most this append in doubt, and nothing of it has been deleted from SQS.
        """
        batch.append.begin_line(self._log.ends_mid_line)
        await self._call(self._ledger.begin, batch.append)
        if batch.append.data:
            await self._log.append(self._log_end(), batch.append.data)
            await self._log.sync()
            self._ledger.durable()
            await self._call(freshness.observe, telemetry.FRESHNESS, batch.append.data, time.time())
        telemetry.APPENDED.inc(batch.visits)
        telemetry.DUPLICATES.inc(batch.duplicates)
        await self._acknowledge(batch.deliveries)

    async def _take(self) -> Batch:
        """All that waits, from the first delivery on; empty when the hand-over is closed."""
        batch = Batch(ledger=self._ledger)
        delivery = await self._next()
        while delivery is not None:
            await self._with_pauses(partial(self._add, batch, delivery), tend_log=False)
            if batch.is_full or self._handover.empty():
                return batch
            delivery = self._handover.get_nowait()
        self._closed = True
        return batch

    async def _next(self) -> Delivery | None:
        """The next delivery, however long it takes; each second without one settles the ledger and tends the log."""
        while True:
            try:
                async with asyncio.timeout(IDLE_SECONDS):
                    return await self._handover.get()
            except TimeoutError:
                await self._with_pauses(self._settle)

    async def _add(self, batch: Batch, delivery: Delivery) -> None:
        """Take a delivery, or leave one that is malformed or conflicting.

        What was refused once is refused again without being read: the worst message costs a second, and SQS delivers it
        a hundred times.
        """
        if (counter := self._refused.get(delivery.message_id)) is None:
            try:
                await self._call(batch.add, delivery)
                return
            except (MalformedMessage, ConflictingMessage) as error:
                if isinstance(error, ConflictingMessage):
                    counter = telemetry.CONFLICTING
                    log.warning(
                        "message_conflicting id=%s reason=%s; left to the dead-letter queue", delivery.message_id, error
                    )
                else:
                    counter = telemetry.MALFORMED
                    log.warning(
                        "message_malformed id=%s reason=%s; left to the dead-letter queue", delivery.message_id, error
                    )
            self._refused[delivery.message_id] = counter
            if len(self._refused) > REMEMBERED_REFUSED:
                del self._refused[next(iter(self._refused))]
        counter.inc()
        self._leave([delivery])

    async def _with_pauses(self, step: Callable[[], Awaitable[None]], *, tend_log: bool = True) -> None:
        """Try a step again, every second, while it raises AppendPaused; once only during a stop."""
        while True:
            try:
                if tend_log:
                    await self._tend_log()
                await step()
                break
            except AppendPaused as error:
                if self._paused_by != error.event:
                    log.error(
                        "append_paused cause=%s error=%s; nothing is deleted, tried again every second",
                        error.event,
                        error,
                    )
                self.paused, self._paused_by = str(error), error.event
                if await wait_for_event(self._stop, RETRY_SECONDS):
                    return  # what is not appended is given back to the queue
        if self.paused is not None:
            log.info("storage_resumed")
            self.paused, self._paused_by = None, ""

    async def _tend_log(self) -> None:
        """Between two appends: follow the log's name if that was asked for, rotate if it is time."""
        if self._must_reopen:
            await self._open_anew()
        if self._reopen.is_set():
            self._reopen.clear()
            try:
                await self._follow()
            except AppendPaused:
                self._reopen.set()
                raise
        if self._rotation.is_due(self._log.status()):
            if self._ledger.rotating is None:
                await self._log.check(self._log_end())
            file = await self._call(self._rotation.rotate)
            if file is not None:
                log.info("log_rotated file=%s", file)
                self._rotated(file)
                await self._open_anew()

    async def _follow(self) -> None:
        await self._call(self._ledger.settle)
        await self._log.check(self._log_end(), may_be_moved=True)
        if await self._call(self._rotation.follow):
            await self._open_anew()
        log.info("log_reopened bytes=%d", self._log_end())

    async def _open_anew(self) -> None:
        """Leave the file that is open for the one that the ledger has gone on with. Nothing is appended before that."""
        self._must_reopen = True
        await self._log.reopen()
        self._must_reopen = False

    async def _settle(self) -> None:
        if not self._ledger.is_settled:
            await self._call(self._ledger.settle)

    def _log_end(self) -> int:
        size = self._ledger.size
        assert size is not None, "a ledger that took a batch has met its log"
        return size

    async def _call(self, function: Callable[..., T], *arguments: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, function, *arguments)
