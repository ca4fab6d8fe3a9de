"""`make load`: wrk against a running pixel, then the proof that the visit log grew by exactly the visits it accepted.

1. The pixel must have accepted as many visits as wrk got answers, or up to one more for each connection, because an
   answer may be on its way when wrk stops.
2. Storage must have appended exactly the visits that the pixel accepted, and the log must have as many new lines.

Nobody else may visit the pixel in the meantime, and the log must not be rotated.
"""

import argparse
import os
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks.latency import LatencyMonitor
from benchmarks.processes import BenchmarkFailed, get, metric, wait_for
from benchmarks.servers import ACCEPTED, APPENDED
from benchmarks.wrk import Hits, WrkMissing, wrk
from tracker.config import PixelConfig, StorageConfig, load_pixel, load_storage
from tracker.errors import ConfigurationError
from tracker.operations.service_checks import address

IDLE_SECONDS = 120.0  # within which the counts must stop growing
QUIET_SECONDS = 1.5  # longer than the workers need to report their counts to main
DISCARDED = "tracker_pixel_visits_discarded"


class Counts:
    """The counts of the two services, from their `/metrics`."""

    def __init__(self, pixel_admin: str, storage_admin: str) -> None:
        self._pixel_admin = pixel_admin
        self._storage_admin = storage_admin

    def pixel(self, name: str) -> int:
        return _count(self._pixel_admin, "pixel", name)

    def appended(self) -> int:
        return _count(self._storage_admin, "storage", APPENDED)


def _count(url: str, service: str, name: str) -> int:
    parts = urlsplit(url)
    try:
        return int(metric(get(parts.port or 80, "/metrics", parts.hostname or "127.0.0.1"), name))
    except OSError as error:
        raise BenchmarkFailed(
            f"no {service} answers at {url} ({error}): start one, for instance with make run"
        ) from error


def main() -> int:
    options = _options()
    counts = Counts(options.pixel_admin, options.storage_admin)
    try:
        _wait_quiet(counts)
        accepted, discarded, appended = counts.pixel(ACCEPTED), counts.pixel(DISCARDED), counts.appended()
        lines = _LineCount(options.log)
        with LatencyMonitor(options.log, counts.appended) as monitor:
            hits = wrk(options.url, seconds=options.seconds, connections=options.connections, threads=options.threads)
            _wait_quiet(counts)
            accepted = counts.pixel(ACCEPTED) - accepted
            _wait_appended(counts, appended + accepted)
            lines.refuse_rotation()
            wait_for(
                lambda: len(monitor.latencies) >= accepted or counts.appended() > appended + accepted, "the log's lines"
            )
        appended = counts.appended() - appended
        grown = lines.grown()
        discarded = counts.pixel(DISCARDED) - discarded
    except (BenchmarkFailed, WrkMissing, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    _print_result(hits, monitor, accepted, discarded, appended, grown)
    found = problems(hits, options.connections, accepted, discarded, appended, grown)
    for problem in found:
        print(f"NOT PROVEN: {problem}", file=sys.stderr)
    if not found:
        print(f"proven: {accepted:,} visits accepted, {grown:,} lines more in {options.log}")
    return 1 if found else 0


def _options() -> argparse.Namespace:
    pixel, storage = _configured()
    parser = argparse.ArgumentParser(prog="python -m benchmarks.load", description=__doc__)
    parser.add_argument("--url", default=f"{address(pixel.http.host, pixel.http.port)}{pixel.http.path}")
    parser.add_argument("--pixel-admin", default=address(pixel.admin.host, pixel.admin.port), metavar="URL")
    parser.add_argument("--storage-admin", default=address(storage.admin.host, storage.admin.port), metavar="URL")
    parser.add_argument("--log", type=Path, default=Path(storage.log.path), help="the visit log (default: %(default)s)")
    parser.add_argument("--seconds", type=int, default=10, help="of load (default: %(default)d)")
    parser.add_argument("--connections", type=int, default=64, help="of wrk (default: %(default)d)")
    parser.add_argument("--threads", type=int, default=1, help="of wrk (default: %(default)d)")
    return parser.parse_args()


def _configured() -> tuple[PixelConfig, StorageConfig]:
    """The configuration of `make run`, which gives the defaults."""
    try:
        return (
            load_pixel(Path("config/pixel.yaml"), os.environ),
            load_storage(Path("config/storage.yaml"), os.environ),
        )
    except ConfigurationError as error:
        raise SystemExit(f"error: {error}") from None


class _LineCount:
    """Counts the lines that were appended to a log since this was created."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._before = log.stat()

    def refuse_rotation(self) -> None:
        now = self._log.stat()
        if now.st_ino != self._before.st_ino or now.st_size < self._before.st_size:
            raise BenchmarkFailed(f"{self._log} was rotated meanwhile: run storage without log.rotate for this proof")

    def grown(self) -> int:
        lines = 0
        with self._log.open("rb") as file:
            file.seek(self._before.st_size)
            while chunk := file.read(1 << 20):
                lines += chunk.count(b"\n")
        return lines


def _wait_quiet(counts: Counts) -> None:
    """Wait until neither count grows: nobody visits, and no visit is on its way."""
    deadline = time.monotonic() + IDLE_SECONDS
    before = None
    while (now := (counts.pixel(ACCEPTED), counts.appended())) != before:
        if time.monotonic() > deadline:
            raise BenchmarkFailed("the counts do not stop growing: somebody else visits this pixel")
        before = now
        time.sleep(QUIET_SECONDS)


def _wait_appended(counts: Counts, wanted: int) -> None:
    try:
        wait_for(lambda: counts.appended() >= wanted, "storage to append all", IDLE_SECONDS)
    except BenchmarkFailed:
        pass  # `problems` reports what is missing


def _print_result(
    hits: Hits, monitor: LatencyMonitor, accepted: int, discarded: int, appended: int, grown: int
) -> None:
    print(f"hits      {hits.requests:,} in {hits.seconds:.1f} s, {hits.rate:,.0f} a second")
    print(f"answers   median {hits.p50 * 1e3:.2f} ms, p99 {hits.p99 * 1e3:.2f} ms, longest {hits.max * 1e3:.2f} ms")
    if monitor.latencies:
        print(
            f"latency   median {monitor.percentile(0.5):.2f} s, p99 {monitor.percentile(0.99):.2f} s "
            "from the answer to the durable line"
        )
    print(f"counted   {accepted:,} accepted, {discarded:,} discarded, {appended:,} appended, {grown:,} lines")


def problems(hits: Hits, connections: int, accepted: int, discarded: int, appended: int, grown: int) -> list[str]:
    """The parts of the proof that failed, as sentences for people."""
    problems = []
    if hits.refused or hits.broken:
        problems.append(f"wrk saw {hits.refused:,} answers with an error status and {hits.broken:,} broken connections")
    if discarded:
        problems.append(f"the pixel discarded {discarded:,} visits")
    if not hits.requests <= accepted <= hits.requests + connections:
        problems.append(
            f"the pixel accepted {accepted:,} visits, expected {hits.requests:,} to {hits.requests + connections:,}: "
            "somebody else may have visited it"
        )
    if not accepted == appended == grown:
        problems.append(
            f"{accepted:,} visits were accepted, {appended:,} appended, and the log has {grown:,} lines more"
        )
    return problems


if __name__ == "__main__":
    sys.exit(main())
