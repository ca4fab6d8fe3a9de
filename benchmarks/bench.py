"""What every measurement receives: how much to measure, and its servers."""

import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from benchmarks.servers import Server, Servers
from benchmarks.wrk import Hits, wrk

CONNECTIONS = 64
FULL_SECONDS = 3.0
FULL_BACKLOG = 2_000_000

T = TypeVar("T")


@dataclass(kw_only=True)
class Bench:
    """`seconds` is the length of a turn of load, `turns` their number for a server. Backlogs shrink with `seconds`."""

    seconds: float = FULL_SECONDS
    turns: int = 3
    missing: list[str] = field(default_factory=list)

    @property
    def share(self) -> float:
        """The share of the full size, for measurements whose size is not in seconds."""
        return min(1.0, self.seconds / FULL_SECONDS)

    @property
    def backlog(self) -> int:
        """Visits of a long outage."""
        return int(FULL_BACKLOG * self.share)

    def note_missing(self, peer: str) -> None:
        """Note a program to compare with that is not installed here. The report says so."""
        if peer not in self.missing:
            self.missing.append(peer)

    @contextmanager
    def servers(self) -> Iterator[Servers]:
        with tempfile.TemporaryDirectory(prefix="tracker-bench-") as home, Servers(Path(home)) as servers:
            yield servers

    def interleave(self, measures: dict[str, Callable[[], T]]) -> dict[str, list[T]]:
        """Run all measures one after the other, as often as there are turns. So a slow time of the machine hits all."""
        results: dict[str, list[T]] = {name: [] for name in measures}
        for _ in range(self.turns):
            for name, measure in measures.items():
                results[name].append(measure())
        return results


@dataclass(frozen=True)
class Turn:
    hits: Hits
    cpu_us: float  # for one hit, by all processes of the server, until all its work was done
    main_us: float  # the part of cpu_us that the main process took


def load(server: Server, *, seconds: float, cores: set[int], connections: int = CONNECTIONS) -> Turn:
    """One turn of wrk, and what it cost the server."""
    process = server.process
    before, main_before = process.cpu_seconds(), process.cpu_seconds(alone=True)
    hits = wrk(server.url, seconds=seconds, connections=connections, cores=cores)
    server.wait_done(hits.requests)
    spent, main_spent = process.cpu_seconds() - before, process.cpu_seconds(alone=True) - main_before
    return Turn(hits, spent / hits.requests * 1e6, main_spent / hits.requests * 1e6)


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def over(one: float | None, other: float | None) -> float | None:
    """`one` divided by `other`; None if either was not measured."""
    # The clock of /proc has ticks of 10 ms, so little work may count as zero.
    return None if one is None or other is None else one / max(other, 1e-9)
