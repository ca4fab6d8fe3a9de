"""`make bench`: measures every row beside its peers in several rounds, and writes docs/benchmarks.md."""

import argparse
import signal
import sys
import tempfile
import time
from pathlib import Path
from subprocess import SubprocessError

from benchmarks.bench import FULL_SECONDS, Bench
from benchmarks.processes import BenchmarkFailed
from benchmarks.quiet import Watch, adopt_orphans
from benchmarks.report import PAGE, README, Report
from benchmarks.rows import GROUPS
from benchmarks.wrk import WrkMissing


def main() -> int:
    options = _options()
    if sys.platform != "linux":
        print("make bench needs Linux: it pins processes to cores and reads /proc", file=sys.stderr)
        return 1
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the contexts end what they started
    adopt_orphans()
    with tempfile.TemporaryDirectory(prefix="tracker-bench-") as home:
        bench = Bench(home=Path(home), seconds=options.seconds, turns=options.turns)
        sizes = f"Rounds: {options.rounds}. In each, turns of {bench.seconds:g} s, {bench.turns} of each server."
        if bench.share < 1:
            sizes += f" Backlogs, logs and the time of saturation are {bench.share:.0%} of what the rows name."
        report = Report(sizes=sizes, groups=GROUPS, missing=bench.missing)
        try:
            for number in range(1, options.rounds + 1):
                for name in options.only or GROUPS:
                    _measure(name, number, bench, report)
        finally:  # also what was measured before an interrupt
            print(report.as_text())
    if not options.only:
        PAGE.write_text(report.as_page(), encoding="utf-8")
        README.write_text(report.refreshed(README.read_text(encoding="utf-8")), encoding="utf-8")
        print(f"\nwritten to {PAGE} and {README}")
    return 1 if report.failed else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", action="append", choices=GROUPS, metavar="ROW", help=f"one of {', '.join(GROUPS)}")
    parser.add_argument(
        "--rounds", type=int, default=3, help="whole runs of all rows: median and range (default: %(default)d)"
    )
    parser.add_argument(
        "--seconds",
        type=float,
        default=FULL_SECONDS,
        help="of load in a turn; shorter turns also have smaller backlogs (default: %(default)g)",
    )
    parser.add_argument(
        "--turns",
        type=int,
        default=3,
        help="measurements of each server in a round, of which the median is taken (default: %(default)d)",
    )
    return parser.parse_args()


def _measure(name: str, number: int, bench: Bench, report: Report) -> None:
    """One measurement. If it fails, the report says so, and the others go on."""
    began = time.monotonic()
    print(f"round {number}: measuring {name} ...", end=" ", file=sys.stderr, flush=True)
    try:
        with Watch() as watch:
            values = GROUPS[name].measure(bench)
    except (BenchmarkFailed, WrkMissing, SubprocessError, OSError) as error:
        report.failed.append(f"{name} (round {number}): {error}")
        print(f"failed: {error}", file=sys.stderr)
        return
    report.add(name, values, watch.noise)
    quiet = "" if watch.noise.is_quiet else ", the machine was not quiet"
    print(f"{time.monotonic() - began:.0f} s{quiet}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
