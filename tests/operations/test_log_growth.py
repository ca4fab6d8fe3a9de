"""The doctor says when the disk of the log will be full."""

import re
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tracker.config import LogConfig
from tracker.core.log_line import format_line
from tracker.core.visit import Visit
from tracker.operations.findings import Level
from tracker.operations.host_checks import check_log
from tracker.operations.log_growth import SAMPLE_BYTES, growth

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)


def log_of(folder: Path, count: int, every: timedelta, now: datetime = NOW) -> Path:
    """A log whose lines are so far apart, the last of them now."""
    log = folder / "visits.log"
    visits = (Visit(now - every * number, None, "u" * 1_000, "192.0.2.1") for number in reversed(range(count)))
    log.write_bytes(b"".join(map(format_line, visits)))
    return log


@pytest.mark.parametrize("count", [100, 3_000])  # shorter and longer than a sample
def test_the_rate_is_that_of_the_last_lines(count: int, tmp_path: Path) -> None:
    log = log_of(tmp_path, count, timedelta(seconds=1))
    assert (log.stat().st_size > SAMPLE_BYTES) is (count > 1_000)
    line = log.stat().st_size / count
    assert growth(log, NOW) == pytest.approx(line, rel=0.02)


@pytest.mark.parametrize("content", [b"", b"no line of ours\n"])
def test_a_log_without_lines_has_no_rate(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "visits.log").write_bytes(content)
    assert growth(tmp_path / "visits.log", NOW) == 0
    assert growth(tmp_path / "nowhere.log", NOW) == 0


@pytest.mark.parametrize(
    ("every", "free", "words"),
    [
        (1_000, 20 << 20, r"in \d+ days"),
        (1, 20 << 20, r"in \d hours"),
        (0.05, 20 << 20, r"in \d\d minutes"),
        (0.05, 20 << 10, "within two minutes"),
    ],
)
def test_a_nearly_full_disk_is_reported_with_the_time_until_it_is_full(
    every: float, free: int, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = log_of(tmp_path, 100, timedelta(seconds=every), datetime.now(UTC))
    usage = shutil.disk_usage(tmp_path)._replace(total=10 << 30, free=free)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    [finding] = [each for each in check_log(LogConfig(path=str(log))) if "are free on the disk" in each.what]
    assert finding.level is Level.FAULT
    assert re.search(f"; as fast as the log grows now, it is full {words}$", finding.what)
