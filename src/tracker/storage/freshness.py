"""How fresh the visit log is: the time from each visit's answer to its durable line, without a look at each line.

Lines of one message are in the order of their answers, and a batch is a few messages: between two lines near each other
that fall into one bucket of the histogram, all do. So a line in a hundred is looked at, and more where buckets meet.
"""

from datetime import datetime

from tracker.telemetry import WeightedHistogram

STRIDE_BYTES = 16_384

_TIME_BYTES = len("2026-11-23T07:09:24.932706+00:00")


def observe(histogram: WeightedHistogram, lines: bytes | bytearray, durable_at: float) -> None:
    """Count every line of an append, durable since `durable_at` (seconds since 1970). Its sum is interpolated."""
    begin = 1 if lines.startswith(b"\n") else 0  # it ends a line that somebody else left open
    while begin < len(lines):
        end = lines.find(b"\n", min(begin + STRIDE_BYTES, len(lines) - 1)) + 1
        _observe_run(histogram, lines, begin, end, durable_at)
        begin = end


def _observe_run(
    histogram: WeightedHistogram, lines: bytes | bytearray, begin: int, end: int, durable_at: float
) -> None:
    last = lines.rfind(b"\n", begin, end - 1) + 1 or begin
    oldest, newest = _age(lines, begin, durable_at), _age(lines, last, durable_at)
    if last == begin or histogram.bucket(oldest) == histogram.bucket(newest):
        histogram.observe((oldest + newest) / 2, lines.count(b"\n", begin, end))
        return
    middle = lines.rfind(b"\n", begin, (begin + end) // 2) + 1 or lines.find(b"\n", begin) + 1
    _observe_run(histogram, lines, begin, middle, durable_at)
    _observe_run(histogram, lines, middle, end, durable_at)


def _age(lines: bytes | bytearray, at: int, durable_at: float) -> float:
    answered_at = datetime.fromisoformat(lines[at : at + _TIME_BYTES].decode("ascii")).timestamp()
    return max(0.0, durable_at - answered_at)  # two hosts, two clocks
