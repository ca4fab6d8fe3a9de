"""Storage under the SQLite method: whichever call fails, or is the last one of the process, every visit is one line.

Appending and recovery are scenarios of `tests.seam.method`; one more is one more entry of `SCENARIOS`. What was
acknowledged is never sent again here, so it has to be in the log; what was not is sent again, as SQS does.
"""

import asyncio
import gzip
import itertools
import threading
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from tests.seam import faults
from tests.seam.faults import Fault
from tests.seam.method import LONG, SEED, Inline, Scenario, World, begin, live, stage, stumble, sweep, telling
from tests.storage import rig as rig_module
from tests.storage.rig import NEVER, A, B, Rig, close, delivery, open_rig, pages, span
from tracker.config import Rotate
from tracker.core.delivery import Delivery
from tracker.core.log_line import parse_line
from tracker.storage import writer as module
from tracker.storage.compressor import compress
from tracker.storage.ledger_start import only_writer
from tracker.visit_log_files import closed_logs

pytestmark = [pytest.mark.slow, pytest.mark.unmeasured]

LOG = "logs/visits.log"
LEGACY_VISIT = '{"Referer":"https://legacy.example/1","IpAddress":"192.0.2.9","VisitedAt":"2023-12-10T22:22:43Z"}'

# Each is one batch: fresh, overlapping, repeated, without our attributes, closing.
BATCHES: list[list[tuple[str, int, int]]] = [
    [(A, 0, 3)],
    [(A, 2, 5), (B, 0, 2)],
    [("legacy", 0, 0), (A, 0, 5)],
    [(B, 1, 6), ("close", 0, 5)],
]
VISITS = sorted([*pages(A, 0, 5), *pages(B, 0, 6), "https://legacy.example/1"])


def delivered(what: tuple[str, int, int]) -> Delivery:
    name, first, last = what
    if name == "legacy":
        return delivery(LEGACY_VISIT, {}, message_id="legacy-1")
    return close(A, last) if name == "close" else span(name, first, last)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RETRY_SECONDS", 0.001)
    monkeypatch.setattr(rig_module, "ThreadPoolExecutor", Inline)


async def store(root: Path, world: World, batches: Iterable[int], rotate: Rotate = NEVER) -> None:
    """A life of the service: recovers, takes these batches one by one, and stops cleanly."""
    with only_writer(root / LOG):
        async with asyncio.timeout(60), open_rig(root / LOG, rotate=rotate) as rig:
            for batch in batches:
                await _take(rig, batch, world)
            await rig.run([])


async def _take(rig: Rig, batch: int, world: World) -> None:
    rig.on_acknowledge = lambda: world.note("acknowledged", batch)
    deliveries = list(map(delivered, BATCHES[batch]))
    for each in deliveries:
        rig.received.put_nowait(each)
    taken = await rig.writer.take()
    assert taken.deliveries == deliveries
    await rig.writer.retry_while_paused(lambda: rig.writer.store(taken))


def referrers(log: Path) -> list[str]:
    """Of every line of the log and of the files it was rotated to, which hold whole lines only."""
    files = [*closed_logs(log), log]
    contents = [gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes() for file in files]
    assert all(content.endswith(b"\n") for content in contents[:-1])
    assert contents[-1].endswith(b"\n") or not contents[-1]
    return [parse_line(line).referrer or "" for content in contents for line in content.splitlines()]


class Appending:
    """All batches into a new log."""

    rotate = NEVER
    foreign: Sequence[str] = (
        *("logs/visits.log.1", "logs/visits.log.torn", "logs/visits.log.d/ledger.sqlite.bak"),
        *("logs/visits.log.d.old/ledger.sqlite", "logs/other.log"),
    )

    def setup(self, root: Path, world: World) -> None:
        """Nothing is there yet."""

    async def run(self, root: Path, world: World) -> None:
        await store(root, world, waiting(world), self.rotate)

    async def check(self, root: Path, world: World) -> None:
        """SQS delivers what was not acknowledged, and then once more what was stored without a word."""
        assert_ended_by_a_failed_sync(world)
        left = waiting(world)
        for _ in range(2):
            await store(root, world, left, self.rotate)
            assert sorted(referrers(root / LOG)) == VISITS


class Rotating(Appending):
    """Each batch into a file of its own."""

    rotate = Rotate(max_bytes=1)


class Compressing(Rotating):
    """The files put aside become smaller ones, after each life."""

    async def run(self, root: Path, world: World) -> None:
        await store(root, world, waiting(world)[:2], self.rotate)
        _compress(root)

    async def check(self, root: Path, world: World) -> None:
        await store(root, world, [])  # a rotation ends before what it put aside is compressed
        _compress(root)
        await super().check(root, world)


def _compress(root: Path) -> None:
    for file in closed_logs(root / LOG):
        if file.suffix != ".gz":
            compress(file, threading.Event())


class Recovering(Appending):
    """The same on what an earlier process left, which died by `fault` at its `at`-th call; one batch is taken."""

    def __init__(self, fault: Fault, at: int) -> None:
        self._fault = fault
        self._at = at

    def setup(self, root: Path, world: World) -> None:
        begin(root, world)
        assert live(Appending(), root, world, self._fault, self._at)

    async def run(self, root: Path, world: World) -> None:
        await store(root, world, waiting(world)[:1])


def waiting(world: World) -> list[int]:
    """The batches that are still in SQS."""
    acknowledged = world.all("acknowledged")
    return [batch for batch in range(len(BATCHES)) if batch not in acknowledged]


def assert_ended_by_a_failed_sync(world: World) -> None:
    """After a failed fdatasync of the log the process ends, and nothing is deleted in between."""
    notes = world.everything()
    for at, note in enumerate(notes):
        if note == ("sync failed", LOG):
            assert notes[at + 1][0] == "ended"


SCENARIOS: dict[str, Scenario] = {
    "appending": Appending(),
    "rotating": Rotating(),
    "compressing": Compressing(),
    "recovering from none of an append": Recovering(replace(faults.KILL, calls=faults.WRITES), 4),
    "recovering from half an append": Recovering(faults.TEAR, 4),
    "recovering from a whole append": Recovering(replace(faults.TEAR, keeps=lambda count: count), 4),
}
RECOVERIES = ["recovering from half an append", "recovering from a whole append"]
RUNS = [
    *(("appending", fault) for fault in (faults.KILL, faults.TEAR, faults.EIO, faults.SHORT, faults.TORN)),
    *((name, fault) for name in RECOVERIES for fault in (faults.KILL, faults.EIO)),
    *(("rotating", faults.EIO), ("compressing", faults.KILL)),
]
if LONG:
    RUNS = [(name, fault) for name in SCENARIOS for fault in faults.EVERY]


@pytest.mark.parametrize(("name", "fault"), RUNS, ids=str)
def test_whichever_call_fails_or_is_the_last_every_visit_is_one_line(name: str, fault: Fault) -> None:
    assert sweep(SCENARIOS[name], fault) > 1


FULL_DISKS = [
    replace(faults.FULL_FOR_A_WHILE, name="no room for lines and names", calls=faults.WRITES | faults.MAKES),
    replace(faults.SHORT_FOR_A_WHILE, name="less and less room in the log"),
    replace(faults.FULL_FOR_A_WHILE, name="no room in the ledger", calls=faults.SQL - {"statement"}),
]


@pytest.mark.parametrize("fault", FULL_DISKS, ids=str)
@pytest.mark.parametrize("name", ["appending", "rotating"])
def test_a_full_disk_holds_storage_up_at_any_append_and_ends_it_never(name: str, fault: Fault) -> None:
    scenario = SCENARIOS[name]
    held_up = 0
    for at in itertools.count(1):
        with telling(f"{fault} at call {at}"), stage(scenario) as (root, world, seam):
            hit = live(scenario, root, world, fault, at)
            if f"open {LOG}" in seam.calls:  # it had started
                assert world.all("ended") == []
                assert world.all("acknowledged") == list(range(len(BATCHES)))
                held_up += hit
        if not hit:
            break
    assert held_up >= len(BATCHES)


@pytest.mark.parametrize("fault", [faults.EIO, faults.FULL, faults.READ_ONLY], ids=str)
def test_a_failing_disk_ends_storage_only_so_that_it_is_started_again(fault: Fault) -> None:
    for at in itertools.count(1):
        with telling(f"{fault} at call {at}"), stage(Appending()) as (root, world, _):
            if not live(Appending(), root, world, fault, at):
                break
            assert not [error for error in world.all("ended") if error.startswith("ConfigurationError")]


@pytest.mark.parametrize("seed", range(SEED, SEED + (300 if LONG else 3)))
@pytest.mark.parametrize("name", SCENARIOS)
def test_one_fault_after_another_writes_nothing_twice(name: str, seed: int) -> None:
    stumble(SCENARIOS[name], faults.EVERY, seed)
