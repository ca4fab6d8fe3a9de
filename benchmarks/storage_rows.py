"""Storage: the CPU time of a visit from the reply of SQS to the durable line, and the memory during a backlog."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks.bench import Bench, median
from benchmarks.processes import BenchmarkFailed
from benchmarks.report import Row
from benchmarks.servers import Servers
from tracker.storage.pending import Append
from tracker.storage.recovery import open_ledger
from tracker.visit_log_files import ledger_directory

TURN_SHARE = 0.2  # of the full backlog, which is enough to measure CPU time
SPARSE_BYTES = 10 << 30
MANY_JOURNALS = 100_000


@dataclass(frozen=True)
class Drained:
    cpu_us: float  # for one visit
    peak: int  # bytes of memory


def drain(servers: Servers, visits: int, prepare: Callable[[Path], None] = lambda log: None) -> Drained:
    """Let a new storage write a backlog, and measure it. `prepare` makes the log and the ledger that it starts with."""
    folder = servers.log_directory()
    log = folder / "visits.log"
    prepare(log)
    size = log.stat().st_size if log.exists() else 0
    aws = servers.aws(keep=True)
    storage = servers.storage(aws.endpoint, folder)
    before = storage.process.cpu_seconds()
    aws.add_backlog(visits)
    appended = "tracker_storage_visits_appended"
    storage.process.wait_until(  # rarely, because each poll of /metrics costs as much as a thousand visits
        lambda: storage.metric(appended) >= visits, f"{visits} visits are durable", 300.0, pause=0.25
    )
    drained = Drained((storage.process.cpu_seconds() - before) / visits * 1e6, storage.process.memory(peak=True))
    storage.process.destroy()
    aws.process.destroy()
    if (lines := _lines(log, size)) != visits:
        raise BenchmarkFailed(f"{lines} lines of {visits} visits")
    log.unlink()
    return drained


def _lines(log: Path, start: int) -> int:
    with log.open("rb") as file:
        file.seek(start)
        return sum(chunk.count(b"\n") for chunk in iter(partial(file.read, 1 << 20), b""))


def backlog(bench: Bench) -> list[Row]:
    """CPU time a visit, and peak memory, through a long backlog."""
    with bench.servers() as servers:
        drained = drain(servers, bench.backlog)
    note = f"a backlog of {bench.backlog:,} visits in the longest spans, from 50,000 addresses"
    return [
        Row(
            what="CPU a visit, from SQS reply to durable line",
            value=drained.cpu_us,
            unit="µs",
            least=6,
            aim=3,
            note=note,
        ),
        Row(what="peak memory through the backlog", value=drained.peak / 1e6, unit="MB", digits=0, least=120, aim=85),
    ]


def growth(bench: Bench) -> list[Row]:
    """Whether a visit costs more when log or ledger are large."""
    prepared: dict[str, Callable[[Path], None]] = {
        "empty log and ledger": lambda log: None,
        "log of 10 GiB (sparse)": _sparse_log,
        f"ledger of {MANY_JOURNALS:,} journals": _large_ledger,
    }
    with bench.servers() as servers:
        visits = int(bench.backlog * TURN_SHARE)
        turns = bench.interleave({name: partial(drain, servers, visits, of) for name, of in prepared.items()})
    return [
        Row(what=f"CPU a visit: {name}", value=median([turn.cpu_us for turn in of]), unit="µs")
        for name, of in turns.items()
    ]


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
