"""The cost of the archive: CPU time, memory and size a visit, and a report of Parquet against one of the text.

The log is that of `benchmarks/analysis_rows.py`, in the order of its times, as a closed log of one day would be: its
two months are pressed into a day, because each day of a closed log has an object of its own.
"""

import random
import sys
from pathlib import Path

import duckdb

from benchmarks.analysis_rows import made_log, measure, report
from benchmarks.bench import Bench, Values

FULL_LINES = 3_000_000
# What does not grow with the log. The first array makes pyarrow import pandas, where it is installed, as for the tests:
# that takes a second, and 60 MiB of the peak. The extra `archive` does not have it.
START = "import tracker.archive.objects, pyarrow; pyarrow.array([])"
MAKE = (
    f"{START}; import sys, threading; from pathlib import Path; from tracker.archive.lines import ClosedLog; "
    "from tracker.archive.objects import make_objects; log = ClosedLog(Path(sys.argv[1])); "
    "made = make_objects(log, Path(sys.argv[2]), threading.Event()); "
    "made.objects[0].file.rename(Path(sys.argv[2], 'visits.parquet'))"
)


def archive(bench: Bench) -> Values:
    """The objects of one closed log, without the time of S3."""
    lines = max(100, int(FULL_LINES * bench.share))
    log = _one_day(made_log(bench.home, lines))
    start = measure([sys.executable, "-c", START])
    made = measure([sys.executable, "-c", MAKE, str(log), str(bench.home)])
    file = bench.home / "visits.parquet"
    page = bench.home / "report.html"
    text, parquet = measure(report(log, page)), measure(report(file, page))
    return {
        "CPU a visit": (made.cpu_seconds - start.cpu_seconds) / lines * 1e6,
        "peak": made.peak_mib,
        "bytes a visit": file.stat().st_size / lines,
        "text bytes a visit": log.stat().st_size / lines,
        "report of text: CPU": text.cpu_seconds,
        "report of Parquet: CPU": parquet.cpu_seconds,
        "report of text: time": text.seconds,
        "report of Parquet: time": parquet.seconds,
        "export of text: CPU": measure(_export(log)).cpu_seconds,
        "export of Parquet: CPU": measure(_export(file)).cpu_seconds,
    } | _sizes(file, lines)


def _export(log: Path) -> list[str]:
    return [sys.executable, "-m", "tracker.cli", "export", str(log), "--to", "csv"]


def _one_day(log: Path) -> Path:
    """The same lines, all of one day and in the order of their times, which are as irregular as those of visitors."""
    day = log.with_suffix(".day")
    if not day.exists():
        chance, at = random.Random(log.name), 0
        with log.open("rb") as source, day.open("wb") as target:
            for line in source:
                at += round(chance.expovariate(1 / 28_000))  # microseconds
                second, micro = divmod(at, 1_000_000)
                hour, rest = divmod(second % 86_400, 3_600)
                clock = f"2026-11-24T{hour:02}:{rest // 60:02}:{rest % 60:02}.{micro:06}+00:00"
                target.write(clock.encode() + line[32:])
    return day


def _sizes(file: Path, lines: int) -> Values:
    """The bytes a visit of each column, from the metadata of the file."""
    sums = duckdb.execute(
        "SELECT path_in_schema, sum(total_compressed_size)::BIGINT FROM parquet_metadata(?) GROUP BY ALL", [str(file)]
    ).fetchall()
    return {f"bytes a visit: {column}": size / lines for column, size in sums}
