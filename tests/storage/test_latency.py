"""The histogram of latency is that of every single line, found with a look at a few."""

import random
from itertools import pairwise

import pytest
from prometheus_client import CollectorRegistry

from tracker.collectors import WeightedHistogram
from tracker.core.log_line import format_line
from tracker.core.visit import Visit, utc_time, visited_at_text
from tracker.storage.latency import OLDEST_SECONDS, STRIDE_BYTES, observe
from tracker.telemetry import LATENCY_BUCKETS

NOW_US = 1_795_417_764_932_000


def histogram() -> WeightedHistogram:
    return WeightedHistogram("x_seconds", "Help.", LATENCY_BUCKETS, CollectorRegistry())


def log_line(age_us: int) -> bytes:
    visit = Visit(utc_time(visited_at_text(NOW_US - age_us)), "https://example.org/" + "x" * (age_us % 90), None, "::1")
    return format_line(visit)


def counts(histogram: WeightedHistogram) -> list[float]:
    """The number of observations in each bucket."""
    [family] = histogram.collect()
    below = [sample.value for sample in family.samples if sample.name.endswith("_bucket")]
    return [here - lower for lower, here in pairwise([0, *below])]


def counted(lines: bytes) -> list[float]:
    result = histogram()
    observe(result, lines, NOW_US / 1e6)
    return counts(result)


@pytest.mark.parametrize("span_seconds", [0.05, 1, 30, 100_000])
def test_every_line_is_in_its_bucket(span_seconds: float) -> None:
    chance = random.Random(3)
    spans = [
        sorted((chance.randrange(int(span_seconds * 1e6)) for _ in range(count)), reverse=True) for count in (1, 700, 2)
    ]
    expected = histogram()
    for span in spans:
        for age_us in span:
            expected.observe(age_us / 1e6)
    lines = b"".join(log_line(age_us) for span in spans for age_us in span)
    found = counted(lines)
    assert sum(found) == 703
    # Where one message ends and the next begins, lines of the same stride may be taken for each other.
    in_two_strides = 2 * STRIDE_BYTES // len(log_line(0))
    assert sum(abs(a - b) for a, b in zip(found, counts(expected), strict=True)) <= 2 * in_two_strides


def test_a_message_between_two_of_another_age_is_seen() -> None:
    expected = histogram()
    expected.observe(0.05, 2)
    expected.observe(100)
    assert counted(log_line(50_000) + log_line(100_000_000) + log_line(50_000)) == counts(expected)


def test_the_newline_of_somebody_elses_line_is_no_visit() -> None:
    assert sum(counted(b"\n" + log_line(5))) == 1


def test_a_clock_behind_the_pixels_counts_as_no_time() -> None:
    assert counted(log_line(-5_000_000))[0] == 1


@pytest.mark.parametrize("year", [1, 1000, 1969, 9999])
def test_a_visit_of_an_absurd_year_does_not_set_the_mean(year: int) -> None:
    result = histogram()
    line = format_line(Visit(utc_time(f"{year:04}-01-01T00:00:00Z"), None, None, "::1"))
    observe(result, line + log_line(0) * 9, NOW_US / 1e6)
    assert sum(counts(result)) == 10
    [family] = result.collect()
    assert all(sample.value <= OLDEST_SECONDS for sample in family.samples if sample.name == "x_seconds_sum")


def test_nothing_is_nothing() -> None:
    assert sum(counted(b"")) == 0
