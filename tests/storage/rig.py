"""The writer with real files and a real ledger, for the tests of the storage service."""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path

from tracker.aws import Delivery
from tracker.config import Rotate
from tracker.core.log_line import parse_line
from tracker.core.message import end_marker, pack
from tracker.core.visit import encode_line, visited_at_text
from tracker.storage.ledger import Ledger
from tracker.storage.receiver import Handover
from tracker.storage.recovery import open_ledger
from tracker.storage.rotation import Rotation
from tracker.storage.visit_log import VisitLog, open_log
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


class Rig:
    """An open log with its ledger and writer; what was acknowledged and left is kept in order."""

    def __init__(self, executor: ThreadPoolExecutor, ledger: Ledger, visit_log: VisitLog, rotation: Rotation) -> None:
        self.rotation = rotation
        self.executor = executor
        self.ledger = ledger
        self.log = visit_log
        self.acknowledged: list[Delivery] = []
        self.left: list[Delivery] = []
        self.on_acknowledge: Callable[[], None] = lambda: None
        self.stop = asyncio.Event()
        self.reopen = asyncio.Event()
        self.rotated: list[Path] = []
        self.handover: Handover = asyncio.Queue()
        self.writer = self.new_writer()

    def new_writer(self) -> Writer:
        return Writer(
            ledger=self.ledger,
            visit_log=self.log,
            rotation=self.rotation,
            executor=self.executor,
            handover=self.handover,
            acknowledge=self._acknowledge,
            leave=self.left.extend,
            stop=self.stop,
            reopen=self.reopen,
            rotated=self.rotated.append,
        )

    async def _acknowledge(self, deliveries: Iterable[Delivery]) -> None:
        self.on_acknowledge()
        self.acknowledged += deliveries

    async def call(self, function: Callable[..., object], *arguments: object) -> object:
        """In the writer's thread, which SQLite insists on."""
        return await asyncio.get_running_loop().run_in_executor(self.executor, function, *arguments)

    async def query(self, sql: str) -> list[tuple[object, ...]]:
        rows = await self.call(lambda: self.ledger._db.execute(sql).fetchall())
        assert isinstance(rows, list)
        return rows

    async def write(self, *deliveries: Delivery) -> None:
        """All in one batch, without the commit that a clean stop makes."""
        for each in deliveries:
            self.handover.put_nowait(each)
        if not deliveries:
            return
        async with asyncio.timeout(30):
            batch = await self.writer._take()
            if batch.deliveries:
                await self.writer._tend_log()
                await self.writer._store(batch)

    async def run(self, deliveries: Sequence[Delivery]) -> None:
        """The writer's whole life: these deliveries, then a clean stop."""
        for each in deliveries:
            self.handover.put_nowait(each)
        self.handover.put_nowait(None)
        await self.writer.run()


@asynccontextmanager
async def open_rig(
    path: Path, *, accept: bool = False, rotate: Rotate = NEVER, clock: Callable[[], float] = time.time
) -> AsyncIterator[Rig]:
    """Recover and open; closing is no clean stop: what is pending stays pending, as after a SIGKILL."""
    loop = asyncio.get_running_loop()
    (path.parent / f"{path.name}.d").mkdir(exist_ok=True)
    with ThreadPoolExecutor(1) as executor:
        ledger = await loop.run_in_executor(executor, lambda: open_ledger(path, 0o640, accept=accept))
        try:
            visit_log = await open_log(path, executor)
            try:
                rotation = Rotation(path=path, mode=0o640, config=rotate, ledger=ledger, clock=clock)
                yield Rig(executor, ledger, visit_log, rotation)
            finally:
                await visit_log.close()
        finally:
            await loop.run_in_executor(executor, ledger.close)
