"""Storage: the CPU time of a start and of a visit, and the memory during a backlog."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks.bench import Bench, Values
from benchmarks.processes import BenchmarkFailed
from benchmarks.servers import APPENDED, Servers, Service
from tracker.storage.pending import Append
from tracker.storage.recovery import open_ledger
from tracker.visit_log_files import ledger_directory

TURN_SHARE = 0.2  # of the full backlog, which is enough to measure CPU time
SPARSE_BYTES = 10 << 30
MANY_JOURNALS = 100_000


@dataclass(frozen=True)
class Drained:
    start: float  # CPU seconds from the start of the process until its first visit was durable
    cpu_us: float  # for one visit after the first
    peak: int  # bytes of memory


def drain(servers: Servers, visits: int, prepare: Callable[[Path], None] = lambda log: None) -> Drained:
    """Let a new storage write one visit, then a backlog, and measure both.

    `prepare` makes the log and the ledger that it starts with. What is loaded with the first visit counts as start.
    """
    folder = servers.directory("storage")
    log = folder / "visits.log"
    prepare(log)
    size = log.stat().st_size if log.exists() else 0
    aws = servers.aws(keep=True)
    storage = servers.storage(aws.endpoint, folder)
    aws.add_backlog(1)
    _wait_durable(storage, 1, pause=0.02)
    started = storage.process.cpu_seconds()
    aws.add_backlog(visits)
    _wait_durable(storage, visits + 1, pause=0.25)  # each poll of /metrics costs as much as a thousand visits
    cpu_us = (storage.process.cpu_seconds() - started) / visits * 1e6
    drained = Drained(started, cpu_us, storage.process.memory(peak=True))
    storage.process.destroy()
    aws.process.destroy()
    if (lines := _lines(log, size)) != visits + 1:
        raise BenchmarkFailed(f"{lines} lines of {visits + 1} visits")
    log.unlink()
    return drained


def _wait_durable(storage: Service, visits: int, pause: float) -> None:
    storage.process.wait_until(lambda: storage.metric(APPENDED) >= visits, f"{visits} visits are durable", 300.0, pause)


def _lines(log: Path, start: int) -> int:
    with log.open("rb") as file:
        file.seek(start)
        return sum(chunk.count(b"\n") for chunk in iter(partial(file.read, 1 << 20), b""))


def backlog(bench: Bench) -> Values:
    """CPU time of a start and of a visit, and peak memory, through a long backlog."""
    with bench.servers() as servers:
        drained = drain(servers, bench.backlog)
    return {"start": drained.start, "visit": drained.cpu_us, "peak": drained.peak / 1e6}


def growth(bench: Bench) -> Values:
    """Whether a visit costs more when log or ledger are large."""
    prepared: dict[str, Callable[[Path], None]] = {
        "small": lambda log: None,
        "log": _sparse_log,
        "ledger": _large_ledger,
    }
    with bench.servers() as servers:
        visits = int(bench.backlog * TURN_SHARE)
        return {name: drain(servers, visits, prepare).cpu_us for name, prepare in prepared.items()}


def _sparse_log(log: Path) -> None:
    with log.open("wb") as file:
        file.seek(SPARSE_BYTES - 1)
        file.write(b"\n")


def _large_ledger(log: Path) -> None:
    """Make a ledger of many journals, by one append as the writer makes it, in which each journal has one line."""
    ledger_directory(log).mkdir()
    ledger = open_ledger(log, 0o640, accept=False)
    journals = [f"{number:032x}" for number in range(MANY_JOURNALS)]
    append = Append(
        data=bytearray(b"\n" * MANY_JOURNALS),
        ranges={journal: [(0, 100)] for journal in journals},
        latest_ms=dict.fromkeys(journals, 1),
    )
    ledger.begin(append)
    log.write_bytes(append.data)
    ledger.durable()
    ledger.checkpoint()
    ledger.close()
