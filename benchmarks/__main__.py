"""`make bench`: measures every row beside its peers in one run, prints the table and writes docs/benchmarks.md."""

import argparse
import signal
import sys
import time

from benchmarks.bench import FULL_SECONDS, Bench
from benchmarks.processes import BenchmarkFailed
from benchmarks.report import PAGE, Report
from benchmarks.rows import GROUPS
from benchmarks.wrk import WrkMissing


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", action="append", choices=GROUPS, metavar="ROW", help=f"one of {', '.join(GROUPS)}")
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
        help="measurements of each server, of which the median is taken (default: %(default)d)",
    )
    options = parser.parse_args()
    if sys.platform != "linux":
        print("make bench needs Linux: it pins processes to cores and reads /proc", file=sys.stderr)
        return 1
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the contexts end what they started
    bench = Bench(seconds=options.seconds, turns=options.turns)
    report = Report(sizes=f"Turns of {bench.seconds:g} s, {bench.turns} of each; backlogs of {bench.backlog:,} visits.")
    try:
        for name in options.only or GROUPS:
            began = time.monotonic()
            print(f"measuring {name} ...", end=" ", file=sys.stderr, flush=True)
            report.add(GROUPS[name].title, GROUPS[name].measure(bench))
            print(f"{time.monotonic() - began:.0f} s", file=sys.stderr)
    except (BenchmarkFailed, WrkMissing, ConnectionError) as error:
        print(f"\nerror: {error}", file=sys.stderr)
        return 1
    report.missing += bench.missing
    print(report.as_text())
    if not options.only:
        PAGE.write_text(report.as_page(), encoding="utf-8")
        print(f"\nwritten to {PAGE}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
