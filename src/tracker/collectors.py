"""Two kinds of metrics that prometheus_client does not have. `tracker.telemetry` declares the metrics themselves."""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from tracker.standard_error import STREAM


class WeightedHistogram(Collector):
    """A histogram that counts any number of equal observations in one call.

    One thread may observe while another one collects. Then a scrape may show only a part of that observation.
    """

    def __init__(self, name: str, help: str, buckets: Sequence[float], registry: CollectorRegistry) -> None:
        self._name, self._help = name, help
        self._bounds = [*buckets, float("inf")]
        self._counts = [0] * len(self._bounds)
        self._sum = 0.0
        registry.register(self)

    def bucket(self, value: float) -> int:
        """The index of the bucket of a value."""
        return bisect_left(self._bounds, value)

    def observe(self, value: float, count: int = 1) -> None:
        self._counts[self.bucket(value)] += count
        self._sum += value * count

    def describe(self) -> Iterable[Metric]:
        yield HistogramMetricFamily(self._name, self._help)

    def collect(self) -> Iterator[Metric]:
        below, buckets = 0, []
        for bound, count in zip(self._bounds, self._counts, strict=True):
            below += count
            buckets.append(("+Inf" if bound == float("inf") else str(float(bound)), below))
        yield HistogramMetricFamily(self._name, self._help, buckets=buckets, sum_value=self._sum)


class LogLinesDropped(Collector):
    """The number of log lines that this process and its workers could not write. `inc` adds those of the workers."""

    def __init__(self) -> None:
        self._of_workers = 0

    def inc(self, lines: int) -> None:
        self._of_workers += lines

    def collect(self) -> Iterator[Metric]:
        yield CounterMetricFamily(
            "tracker_process_log_lines_dropped",
            "Log lines dropped because standard error could not be written.",
            STREAM.dropped + self._of_workers,
        )
