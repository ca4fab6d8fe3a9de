"""The time, CPU time and memory of a report of a long log, beside GoAccess, `wc -l` and a plain scan by DuckDB.

The log is invented, and the same each time for a number of lines: half a million visitors, some busier than others,
twenty thousand pages by Zipf's law, fifteen hundred user agents, two months. All programs read it from the page cache,
one after the other; memory is the peak of the resident set.
"""

import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import accumulate
from pathlib import Path

from benchmarks.bench import Bench, Values

FULL_LINES = 10_000_000
COMPARED = 0.3
SHARES = (0.1, COMPARED, 1.0)
GOACCESS = (
    "--log-format=%dT%t.%^|%U|%u|%h", "--date-format=%Y-%m-%d", "--time-format=%H:%M:%S", "--no-global-config",
    "--no-progress",
)  # fmt: skip
BARE_SCAN = (
    'import duckdb, sys; print(duckdb.execute("SELECT count(*), max(c0), max(c1), max(c2), max(c3) FROM read_csv(?, '
    "delim='|', quote='', escape='', header=false, auto_detect=false, "
    "columns={c0: 'VARCHAR', c1: 'VARCHAR', c2: 'VARCHAR', c3: 'VARCHAR'})\", [sys.argv[1]]).fetchall())"
)


@dataclass(frozen=True, slots=True)
class Cost:
    seconds: float
    cpu_seconds: float
    peak_mib: float


def reports(bench: Bench) -> Values:
    """A report of a whole log, of a third and of a tenth of it; of the third, also by other programs."""
    values: Values = {}
    logs: dict[float, Path] = {}
    page = bench.home / "report.html"
    for share in SHARES:
        lines = max(100, int(FULL_LINES * bench.share * share))
        logs[share] = made_log(bench.home, lines)
        cost = measure(report(logs[share], page))
        name = f"report of {share:.0%}"
        values |= {f"{name}: CPU a line": cost.cpu_seconds / lines * 1e6} | _values(name, cost)
    log = str(logs[COMPARED])
    others = {"wc": ["wc", "-l", log], "scan": [sys.executable, "-c", BARE_SCAN, log]}
    if shutil.which("goaccess"):
        others["goaccess"] = ["goaccess", log, *GOACCESS, "-o", str(page)]
    else:
        bench.note_missing("goaccess")
    for name, command in others.items():
        values |= _values(name, measure(command))
    return values


def _values(name: str, cost: Cost) -> Values:
    return {f"{name}: time": cost.seconds, f"{name}: peak": cost.peak_mib}


def report(log: Path, page: Path) -> list[str]:
    return [sys.executable, "-m", "tracker.cli", "report", str(log), "--html", str(page)]


def measure(command: Sequence[str]) -> Cost:
    """Run the command to its end. Raises CalledProcessError."""
    begin = time.perf_counter()
    running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(running.pid, 0)
    seconds = time.perf_counter() - begin
    running.returncode = os.waitstatus_to_exitcode(status)
    if running.returncode != 0:
        raise subprocess.CalledProcessError(running.returncode, command)
    # ru_maxrss is in KiB on Linux, in bytes on macOS.
    peak = usage.ru_maxrss / (1024 if sys.platform == "linux" else 1024 * 1024)
    return Cost(seconds, usage.ru_utime + usage.ru_stime, peak)


def made_log(folder: Path, lines: int) -> Path:
    """Make the log in another process: memory of this process counts in the peak memory of the children it starts."""
    log = folder / f"visits-{lines}.log"
    if not log.exists():
        subprocess.run([sys.executable, "-m", "benchmarks.analysis_rows", log, str(lines)], check=True)
    return log


def make_log(log: Path, lines: int) -> None:
    chance = random.Random(lines)
    begin, step = datetime(2026, 9, 1, tzinfo=UTC), 60 * 86_400 / lines
    pages, visitors = list(_pages(chance)), _visitors(chance)
    weights = list(accumulate(1 / (rank + 1) for rank in range(len(pages))))
    partial = log.with_suffix(".partial")
    with partial.open("w", encoding="ascii") as file:
        for start in range(0, lines, 100_000):
            second, text = -1, ""
            seen = chance.choices(pages, cum_weights=weights, k=min(100_000, lines - start))
            for number, page in enumerate(seen, start):
                at = number * step
                if int(at) != second:
                    second = int(at)
                    text = (begin + timedelta(seconds=second)).isoformat()[:19]
                visitor = visitors[int(chance.random() ** 2 * len(visitors))]
                file.write(f"{text}.{int((at - second) * 1e6):06d}+00:00|{page}|{visitor}\n")
    partial.rename(log)


def _pages(chance: random.Random) -> Iterator[str]:
    sites = ("example.com", "www.example.org", "blog.example.net", "shop.example.com:8443")
    words = ("blog", "news", "docs", "a", "pricing", "2026", "tracker", "about", r"caf\xC3\xA9")
    for number in range(20_000):
        path = "/".join(chance.choices(words, k=chance.randint(1, 4)))
        query = "" if chance.random() < 0.8 else rf"?utm_source=x{chance.randint(1, 50)}&q=a\x7Cb"
        yield f"https://{chance.choice(sites)}/{path}/{number}{query}"


def _visitors(chance: random.Random) -> list[str]:
    """The two last columns, of people and of a few bots and mail proxies."""
    systems = ("Windows NT 10.0; Win64; x64", "Macintosh; Intel Mac OS X 10_15_7", "X11; Linux x86_64")
    engine = "AppleWebKit/537.36 (KHTML, like Gecko) Chrome"
    agents = [
        f"Mozilla/5.0 ({chance.choice(systems)}) {engine}/{version}.0.{build}.0 Safari/537.36"
        for version in range(90, 150)
        for build in range(24)
    ]
    agents += [
        "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)", "curl/8.5.0", "null", "Mozilla/5.0",
        "Mozilla/5.0 (Windows NT 5.1; rv:11.0) Gecko Firefox/11.0 (via ggpht.com GoogleImageProxy)",
    ]  # fmt: skip
    return [f"{agent}|{_address(chance)}" for agent in chance.choices(agents, k=500_000)]


def _address(chance: random.Random) -> str:
    if chance.random() < 0.7:
        return ".".join(str(chance.randint(1, 223)) for _ in range(4))
    return "2001:db8:" + ":".join(f"{chance.randint(1, 65_535):x}" for _ in range(6))


if __name__ == "__main__":
    make_log(Path(sys.argv[1]), int(sys.argv[2]))
