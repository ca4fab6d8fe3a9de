"""What a report of a long log costs: time, processor and memory, next to GoAccess, `wc -l` and DuckDB's bare scan.

    python benchmarks/analysis.py                # ten million lines; a few minutes and 3 GB of disk
    python benchmarks/analysis.py --lines 1000000

The log is made up, the same for each number of lines: half a million visitors, some busier than others, twenty thousand
pages by Zipf's law, fifteen hundred user agents, two months. All programs read it from the page cache, one after the
other, each once a round, and the best round counts; memory is the peak of the resident set.
"""

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import accumulate
from pathlib import Path

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
    processor_seconds: float
    peak_mib: float


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lines", type=int, default=10_000_000)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="where the log is made, and taken from when it is there")
    parser.add_argument("--make", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.make is not None:
        make_log(options.make, options.lines)
        return 0
    with tempfile.TemporaryDirectory() as made:
        compare(options.folder or Path(made), options.lines, options.rounds)
    return 0


def compare(folder: Path, lines: int, rounds: int) -> None:
    parts = [max(1, lines // 10), max(1, lines * 3 // 10), lines]
    logs = {count: made_log(folder, count) for count in parts}
    page = folder / "report.html"
    commands = {
        "wc -l": ["wc", "-l", str(logs[lines])],
        "DuckDB, bare scan": [sys.executable, "-c", BARE_SCAN, str(logs[lines])],
        **{f"tracker report, {count:,} lines": report(log, page) for count, log in logs.items()},
    }
    if shutil.which("goaccess"):
        commands["goaccess"] = ["goaccess", str(logs[lines]), *GOACCESS, "-o", str(page)]
    best: dict[str, Cost] = {}
    for _ in range(rounds):
        for name, command in commands.items():
            cost = measure(command)
            best[name] = min(best.get(name, cost), cost, key=lambda each: each.seconds)
    print(f"{lines:,} lines, {logs[lines].stat().st_size / 1e6:,.0f} MB\n")
    print(f"| {'':<34} | {'seconds':>8} | {'processor s':>11} | {'µs a line':>9} | {'peak MiB':>8} |")
    print(f"|{'-' * 36}|{'-' * 9}:|{'-' * 12}:|{'-' * 10}:|{'-' * 9}:|")
    for name, cost in best.items():
        each = next((count for count in parts if f"{count:,}" in name), lines)
        print(
            f"| {name:<34} | {cost.seconds:8.1f} | {cost.processor_seconds:11.1f} "
            f"| {cost.seconds / each * 1e6:9.2f} | {cost.peak_mib:8.0f} |"
        )


def report(log: Path, page: Path) -> list[str]:
    return [sys.executable, "-m", "tracker.cli", "report", str(log), "--html", str(page)]


def measure(command: Sequence[str]) -> Cost:
    """Runs it to its end. Raises CalledProcessError."""
    begin = time.perf_counter()
    running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(running.pid, 0)
    seconds = time.perf_counter() - begin
    running.returncode = os.waitstatus_to_exitcode(status)
    if running.returncode != 0:
        raise subprocess.CalledProcessError(running.returncode, command)
    # Kilobytes, but on macOS bytes.
    peak = usage.ru_maxrss / (1024 if sys.platform == "linux" else 1024 * 1024)
    return Cost(seconds, usage.ru_utime + usage.ru_stime, peak)


def made_log(folder: Path, lines: int) -> Path:
    """Made by another process: a child's peak memory is at least what its parent had when it began."""
    log = folder / f"visits-{lines}.log"
    if not log.exists():
        subprocess.run([sys.executable, __file__, "--make", log, "--lines", str(lines)], check=True)
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
    sys.exit(main())
