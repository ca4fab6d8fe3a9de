"""End-to-end latency: the time from each visit's answer to its durable line, without reading every line.

The lines of one message are in the order of their answers, and a batch has a few messages. If the first, the middle and
the last line of a range fall into one bucket of the histogram, all lines between them are counted there. Otherwise the
range is bisected. So about one line in thirty is read, and more of them where two buckets meet.

A stranger may publish visits in any order. Then every line is read, which takes 5 microseconds a line. That is why the
writer calls `observe` in its thread and not on the event loop.
"""

from datetime import datetime

from tracker.collectors import WeightedHistogram

STRIDE_BYTES = 16_384  # an append is divided into ranges of about this size
OLDEST_SECONDS = 30 * 86_400.0  # an older visit counts as this old, so that one wrong time does not distort the mean

_TIME_BYTES = len("2026-11-23T07:09:24.932706+00:00")


def observe(histogram: WeightedHistogram, lines: bytes | bytearray, durable_at: float) -> None:
    """Count every line of an append that became durable at `durable_at` (seconds since 1970).

    The histogram's counts are exact for lines in order. Its sum is interpolated between the lines that are read.
    """
    begin = 1 if lines.startswith(b"\n") else 0  # that newline ends a line that another program left unfinished
    while begin < len(lines):
        end = lines.find(b"\n", min(begin + STRIDE_BYTES, len(lines) - 1)) + 1
        _observe_run(histogram, lines, begin, end, durable_at)
        begin = end


def _observe_run(
    histogram: WeightedHistogram, lines: bytes | bytearray, begin: int, end: int, durable_at: float
) -> None:
    last = lines.rfind(b"\n", begin, end - 1) + 1 or begin
    middle = lines.rfind(b"\n", begin, (begin + end) // 2) + 1 or lines.find(b"\n", begin) + 1
    ages = [_age(lines, at, durable_at) for at in dict.fromkeys((begin, min(middle, last), last))]
    if len({histogram.bucket(age) for age in ages}) == 1:
        histogram.observe((ages[0] + ages[-1]) / 2, lines.count(b"\n", begin, end))
        return
    _observe_run(histogram, lines, begin, middle, durable_at)
    _observe_run(histogram, lines, middle, end, durable_at)


def _age(lines: bytes | bytearray, at: int, durable_at: float) -> float:
    answered_at = datetime.fromisoformat(lines[at : at + _TIME_BYTES].decode("ascii")).timestamp()
    return min(max(0.0, durable_at - answered_at), OLDEST_SECONDS)  # not negative: the clocks of two hosts differ
