"""What every measurement receives: how much to measure, and its servers. And what most of them do: a turn of load."""

import statistics
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from benchmarks.processes import CLIENT
from benchmarks.servers import Server, Servers
from benchmarks.wrk import Hits, wrk

CONNECTIONS = 64
FULL_SECONDS = 2.0
FULL_BACKLOG = 2_000_000

T = TypeVar("T")
Values = dict[str, float]
"""What a measurement found, by name. `benchmarks.rows` shows them."""


@dataclass(kw_only=True)
class Bench:
    """`seconds` is the length of a turn of load, `turns` their number for a server. Backlogs shrink with `seconds`.

    `home` is a directory for files that the rounds share.
    """

    home: Path
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
        with tempfile.TemporaryDirectory(dir=self.home) as home, Servers(Path(home)) as servers:
            yield servers

    def peers(self, servers: Servers, *names: str) -> dict[str, Server]:
        """Those of the peers that are installed, running."""
        found = {name: servers.peer(name) for name in names}
        for name in names:
            if found[name] is None:
                self.note_missing(name)
        return {name: server for name, server in found.items() if server is not None}

    def interleave(self, measures: Mapping[str, Callable[[], T]]) -> dict[str, list[T]]:
        """Run all measures one after the other, as often as there are turns. So a slow time of the machine hits all."""
        results: dict[str, list[T]] = {name: [] for name in measures}
        for _ in range(self.turns):
            for name, measure in measures.items():
                results[name].append(measure())
        return results

    def loads(self, measures: Mapping[str, Callable[[], "Turn"]]) -> Values:
        """Interleave turns of load. The values of each are CPU time a hit, main's share of it, and hits a second."""
        values = {}
        for name, turns in self.interleave(measures).items():
            values[f"CPU a hit: {name}"] = median([turn.cpu_us for turn in turns])
            values[f"main: {name}"] = median([turn.main_us for turn in turns])
            values[f"hits a second: {name}"] = median([turn.hits.rate for turn in turns])
        return values


@dataclass(frozen=True)
class Turn:
    hits: Hits
    cpu_us: float  # for one hit, by all processes of the server, until all its work was done
    main_us: float  # the part of cpu_us that the main process took


def load(
    server: Server,
    *,
    seconds: float,
    cores: set[int] = CLIENT,
    connections: int = CONNECTIONS,
    mix: str = "mixed",
) -> Turn:
    """One turn of wrk, and what it cost the server."""
    process = server.process
    before, main_before = process.cpu_seconds(), process.cpu_seconds(alone=True)
    hits = wrk(server.url, seconds=seconds, connections=connections, cores=cores, mix=mix)
    server.wait_done(hits.requests)
    spent, main_spent = process.cpu_seconds() - before, process.cpu_seconds(alone=True) - main_before
    return Turn(hits, spent / hits.requests * 1e6, main_spent / hits.requests * 1e6)


def median(values: Sequence[float]) -> float:
    return statistics.median(values)
