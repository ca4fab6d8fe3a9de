"""The writer with real files and a real ledger, for the tests of the storage service."""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path

from tracker.config import Rotate
from tracker.core.delivery import Delivery
from tracker.core.log_line import parse_line
from tracker.core.message import end_marker, pack
from tracker.core.visit import encode_line, visited_at_text
from tracker.owner_thread import OwnerThread
from tracker.storage.acknowledger import Acknowledger
from tracker.storage.ledger import Ledger
from tracker.storage.recovery import open_ledger
from tracker.storage.visit_log import VisitLog, open_visit_log
from tracker.storage.writer import Writer

NEVER = Rotate()
A, B = "a" * 32, "b" * 32
SENT_MS = 1_795_417_764_932

_receipts = itertools.count(1)


def journal_line(name: str, number: int) -> bytes:
    """Line `number` of a journal, to be known again in the log; lines differ in length."""
    text = visited_at_text(SENT_MS * 1000 + number)
    return encode_line(text, f"https://example.org/{name}/{number}", "x" * (number % 3) or None, "192.0.2.1")


def lines(name: str, first: int, last: int) -> bytes:
    return b"".join(journal_line(name, number) for number in range(first, last))


def offset_of(name: str, number: int) -> int:
    return len(lines(name, 0, number))


def pages(name: str, first: int, last: int) -> list[str]:
    return [f"https://example.org/{name}/{number}" for number in range(first, last)]


def delivery(body: str, attributes: dict[str, str], *, message_id: str = "", sent_ms: int = SENT_MS) -> Delivery:
    number = next(_receipts)
    return Delivery(message_id or f"m{number}", f"r{number}", body, attributes, sent_ms, 1, 0.0)


def span(name: str, first: int, last: int, *, sent_ms: int = SENT_MS) -> Delivery:
    """A delivery of lines `first` to `last`, the latter excluded, of the journal `name`."""
    message = pack(name, offset_of(name, first), lines(name, first, last), compress=True)
    return delivery(message.body, message.attributes, sent_ms=sent_ms)


def close(name: str, last: int, *, sent_ms: int = SENT_MS) -> Delivery:
    message = end_marker(name, offset_of(name, last))
    return delivery(message.body, message.attributes, sent_ms=sent_ms)


def logged(path: Path) -> list[str]:
    """The pages of the log's visits, line by line."""
    return [parse_line(line).referrer or "" for line in path.read_bytes().splitlines()]


class _Acknowledger(Acknowledger):
    """Notes what the writer acknowledges and leaves, instead of asking SQS."""

    def __init__(self, rig: "Rig") -> None:
        self._rig = rig

    async def acknowledge(self, deliveries: Iterable[Delivery]) -> None:
        self._rig.on_acknowledge()
        self._rig.acknowledged += deliveries

    def leave(self, deliveries: Iterable[Delivery]) -> None:
        self._rig.left += deliveries


class Rig:
    """An open log with its ledger and writer; what was acknowledged and left is kept in order."""

    def __init__(self, thread: OwnerThread, ledger: Ledger, visit_log: VisitLog, closed: list[Path]) -> None:
        self.thread = thread
        self.ledger = ledger
        self.log = visit_log
        self.closed = closed
        self.acknowledged: list[Delivery] = []
        self.left: list[Delivery] = []
        self.on_acknowledge: Callable[[], None] = lambda: None
        self.stop = asyncio.Event()
        self.received: asyncio.Queue[Delivery | None] = asyncio.Queue()
        self.writer = Writer(
            received=self.received,
            ledger=ledger,
            visit_log=visit_log,
            thread=thread,
            acknowledger=_Acknowledger(self),
            stop=self.stop,
        )

    async def call(self, function: Callable[..., object], *arguments: object) -> object:
        """In the owner thread, which SQLite insists on."""
        return await self.thread.call(function, *arguments)

    async def query(self, sql: str) -> list[tuple[object, ...]]:
        rows = await self.call(lambda: self.ledger.db.execute(sql).fetchall())
        assert isinstance(rows, list)
        return rows

    async def write(self, *deliveries: Delivery) -> None:
        """All in one batch, without the commit that a clean stop makes."""
        for each in deliveries:
            self.received.put_nowait(each)
        if not deliveries:
            return
        async with asyncio.timeout(30):
            batch = await self.writer.take()
            if batch.deliveries:
                await self.log.prepare()
                await self.writer.store(batch)

    async def run(self, deliveries: Sequence[Delivery]) -> None:
        """The writer's whole life: these deliveries, then a clean stop."""
        for each in deliveries:
            self.received.put_nowait(each)
        self.received.put_nowait(None)
        await self.writer.run()


@asynccontextmanager
async def open_rig(
    path: Path, *, accept: bool = False, rotate: Rotate = NEVER, clock: Callable[[], float] = time.time
) -> AsyncIterator[Rig]:
    """Recover and open; closing is no clean stop: what is pending stays pending, as after a SIGKILL."""
    (path.parent / f"{path.name}.d").mkdir(exist_ok=True)
    with ThreadPoolExecutor(1) as executor:
        thread, closed = OwnerThread(executor), list[Path]()
        ledger = await thread.call(open_ledger, path, 0o640, accept=accept)
        try:
            visit_log = await open_visit_log(
                path=path, mode=0o640, rotate=rotate, thread=thread, ledger=ledger, on_closed=closed.append, clock=clock
            )
            try:
                yield Rig(thread, ledger, visit_log, closed)
            finally:
                await visit_log.close()
        finally:
            await thread.call(ledger.close)
