"""How fast the visit log grows, by the times of its last lines, and when its disk will be full therefore."""

from datetime import UTC, datetime
from pathlib import Path

from tracker.core.log_line import parse_line
from tracker.errors import MalformedMessage

SAMPLE_BYTES = 1 << 20


def growth(log: Path, now: datetime) -> float:
    """Bytes a second since the first of the last lines; 0 if the log is empty, cannot be read, or has other lines."""
    try:
        with log.open("rb") as file:
            start = max(0, log.stat().st_size - SAMPLE_BYTES)
            file.seek(start)
            if start:
                file.readline()  # the rest of a line
            sample = file.read()
        seconds = (now - parse_line(sample.partition(b"\n")[0]).time).total_seconds()
    except (OSError, MalformedMessage):
        return 0.0
    return len(sample) / max(1.0, seconds)


def full_in(free: int, log: Path) -> str:
    """The text for a disk that has `free` bytes free; "" if the log does not grow."""
    rate = growth(log, datetime.now(UTC))
    if not rate:
        return ""
    seconds = free / rate
    for unit, length in (("days", 86_400), ("hours", 3_600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"; as fast as the log grows now, it is full in {seconds / length:.0f} {unit}"
    return "; as fast as the log grows now, it is full within two minutes"
