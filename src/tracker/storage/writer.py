"""The writer: turns deliveries into lines of the visit log. No other stage decides when a delivery is acknowledged.

1. `take` collects the waiting deliveries into a batch. The batch unpacks each one and leaves out what is stored.
2. `VisitLog.prepare` makes sure that the open file is the log, and rotates it if that is due.
3. `store` commits, appends, syncs and acknowledges, in this order.

While one batch is synced, the next deliveries wait, so that batches grow with the load. When no delivery arrives for a
second, a checkpoint clears the pending append.

When nothing can be appended (AppendPaused), the step is tried again every second, and the deliveries stay in flight.
During a stop the step is tried once more, and what is not appended is given back to SQS.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from functools import partial

from prometheus_client import Counter

from tracker import telemetry
from tracker.core.delivery import Delivery
from tracker.errors import AppendPaused, ConflictingMessage, MalformedMessage
from tracker.lifecycle import wait_for_event
from tracker.owner_thread import OwnerThread
from tracker.storage import latency
from tracker.storage.acknowledger import Acknowledger
from tracker.storage.batch import Batch
from tracker.storage.ledger import Ledger
from tracker.storage.visit_log import VisitLog

log = logging.getLogger(__name__)

IDLE_SECONDS = 1.0
RETRY_SECONDS = 1.0
REMEMBERED_REFUSED = 10_000  # MessageIds, about 1 MB; SQS delivers each again until maxReceiveCount is reached


class Writer:
    """Writes one batch after the other until it takes a None. It uses the ledger and the log in their owner thread."""

    def __init__(
        self,
        *,
        received: asyncio.Queue[Delivery | None],
        ledger: Ledger,
        visit_log: VisitLog,
        thread: OwnerThread,
        acknowledger: Acknowledger,
        stop: asyncio.Event,
    ) -> None:
        self._received = received
        self._ledger = ledger
        self._log = visit_log
        self._thread = thread
        self._acknowledger = acknowledger
        self._stop = stop
        self._closed = False
        self._refused: dict[str, Counter] = {}  # MessageId -> its counter: MALFORMED or CONFLICTING; oldest first
        self._paused_by = ""  # the cause of the pause that was logged
        self.paused: str | None = None  # the reason while nothing can be appended

    async def run(self) -> None:
        while not self._closed:
            batch = await self.take()
            if batch.deliveries:
                await self.retry_while_paused(partial(self.store, batch))
        await self.retry_while_paused(self.checkpoint)

    async def take(self) -> Batch:
        """Wait for a delivery, and return a batch of it and of all others that wait then, until the batch is full.

        After the last delivery, which a None in the queue follows, the batch may be empty.
        """
        batch = Batch(ledger=self._ledger)
        delivery = await self._next()
        while delivery is not None:
            await self.retry_while_paused(partial(self._add, batch, delivery), prepare=False)
            if batch.is_full or self._received.empty():
                return batch
            delivery = self._received.get_nowait()
        self._closed = True
        return batch

    async def store(self, batch: Batch) -> None:
        """Commit, append, fdatasync, acknowledge. On this order rests the promise that each visit is stored once.

        1. The commit merges the previous append, which is durable, and records this one as pending. If the process dies
           after the commit, the log may have this append or not; it has all earlier ones.
        2. The append and the fdatasync make the lines durable. Nothing has been deleted from SQS so far, so if the
           process dies, SQS delivers the messages again, and the ledger shows what of them is stored.
        3. Only then are the deliveries acknowledged, which deletes their messages from SQS.
        """
        batch.append.begin_line(self._log.ends_mid_line)
        await self._thread.call(self._ledger.begin, batch.append)
        if batch.append.data:
            await self._log.append(batch.append.data)
            await self._log.sync()
            self._ledger.durable()
            await self._thread.call(latency.observe, telemetry.LATENCY, batch.append.data, time.time())
        telemetry.APPENDED.inc(batch.visits)
        telemetry.DUPLICATES.inc(batch.duplicates)
        await self._acknowledger.acknowledge(batch.deliveries)

    async def checkpoint(self) -> None:
        """Merge and clear the pending append."""
        if self._ledger.pending is not None:
            await self._thread.call(self._ledger.checkpoint)

    async def retry_while_paused(self, step: Callable[[], Awaitable[None]], *, prepare: bool = True) -> None:
        """Call `step` until it succeeds: once a second while it raises AppendPaused, but only once during a stop.

        With `prepare`, each call of `step` is preceded by `VisitLog.prepare`, which may raise AppendPaused too.
        """
        while True:
            try:
                if prepare:
                    await self._log.prepare()
                await step()
                break
            except AppendPaused as error:
                self._pause(error)
                if await wait_for_event(self._stop, RETRY_SECONDS):
                    return  # what is not appended is given back to SQS
        if self.paused is not None:
            log.info("storage_resumed; Visits are appended again.")
            self.paused, self._paused_by = None, ""

    async def _next(self) -> Delivery | None:
        """Wait for the next delivery without a limit. After each second without one, make a checkpoint.

        Before the checkpoint the log is prepared, so a rotation or a SIGHUP takes effect while no visits arrive.
        """
        while True:
            try:
                async with asyncio.timeout(IDLE_SECONDS):
                    return await self._received.get()
            except TimeoutError:
                await self.retry_while_paused(self.checkpoint)

    async def _add(self, batch: Batch, delivery: Delivery) -> None:
        """Add a delivery to the batch, or leave it to SQS if it is malformed or conflicting.

        A message that was refused once is refused again without being read, because SQS delivers it up to a hundred
        times, and reading the most expensive message takes a second.
        """
        if (counter := self._refused.get(delivery.message_id)) is None:
            try:
                await self._thread.call(batch.add, delivery)
                return
            except MalformedMessage as error:
                counter = telemetry.MALFORMED
                log.warning(
                    "message_malformed id=%s reason=%s; This message does not have the expected form. It is left to "
                    "SQS, which moves it to the dead-letter queue after some receives.",
                    *(delivery.message_id, error),
                )
            except ConflictingMessage as error:
                counter = telemetry.CONFLICTING
                log.warning(
                    "conflict_found id=%s reason=%s; Other bytes are stored for the same range of this journal. "
                    "The message is left to SQS, which moves it to the dead-letter queue. Look for two copies of one "
                    "outbox, or for somebody who publishes to the topic.",
                    *(delivery.message_id, error),
                )
            self._refused[delivery.message_id] = counter
            if len(self._refused) > REMEMBERED_REFUSED:
                del self._refused[next(iter(self._refused))]
        counter.inc()
        self._acknowledger.leave([delivery])

    def _pause(self, error: AppendPaused) -> None:
        if self._paused_by != error.event:
            log.error(
                "append_paused cause=%s error=%s; No visit can be appended. Nothing is deleted from SQS, and storage "
                "tries again every second. Fix what the error names.",
                *(error.event, error),
            )
        self.paused, self._paused_by = str(error), error.event
