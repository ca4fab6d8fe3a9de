"""Outages of millions of visits, with what each process needs of memory before, during and after.

A real load (wrk) hits the pixel while SNS is away, until so many visits wait in the outbox; then SNS comes back and all
of it goes through. Then the same while storage is away, and SQS holds the backlog. Resident memory is read every 0.1 s.
"""

import re
import shutil
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.launched import Launched
from tests.system.processes import Service
from tests.system.stack import FakeStack
from tests.system.wire import LOOPBACK, wait_for

CHROME = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/120.0.0.0 Safari/537.36"
PATIENCE = 3600.0
WORKERS = 2


class Outages:
    """Both outages, one after the other, on one log."""

    def __init__(self, home: Path, visits: int) -> None:
        self._stack = FakeStack(home)
        self._visits = visits
        self._accepted = 0

    def run(self) -> bool:
        """Prints the figures; whether the log has what was accepted."""
        if shutil.which("wrk") is None:
            print("the outages need wrk, which is not installed")
            return False
        stack = self._stack
        try:
            pixel = stack.start_pixel({"workers": WORKERS, "outbox": {"max_bytes": 8 << 30}, "sns": {"linger": 0.2}})
            wait_for(lambda: len(pixel.workers()) == WORKERS, "all workers")
            storage = stack.start_storage()
            return self._sns_away(pixel, storage) and self._storage_away(pixel, storage)
        finally:
            stack.destroy()

    def _sns_away(self, pixel: Service, storage: Service) -> bool:
        memory = Memory({**_pixel(pixel), "storage": storage.pid})
        with memory.watching("before"), _load(pixel):
            self._wait_accepted(pixel, self._visits // 20)
        self._stack.sns.down()
        with memory.watching("during"), _load(pixel):
            self._wait_accepted(pixel, self._visits)
        self._stack.sns.up()
        with memory.watching("after"):
            lines = self._drain(pixel)
        return self._report("SNS away", memory, lines)

    def _storage_away(self, pixel: Service, storage: Service) -> bool:
        storage.stop()
        memory = Memory(_pixel(pixel))
        with memory.watching("before"), _load(pixel):
            self._wait_accepted(pixel, self._visits // 20)
        with memory.watching("during"), _load(pixel):
            self._wait_accepted(pixel, self._visits)
        depth = self._stack.aws.depth(self._stack.queue_url)
        storage = self._stack.start_storage()
        memory.add("storage", storage.pid)
        with memory.watching("after"):
            lines = self._drain(pixel)
        print(f"\n{depth} messages were waiting in the queue")
        return self._report("storage away", memory, lines)

    def _wait_accepted(self, pixel: Service, more: int) -> None:
        wanted = pixel.metric("tracker_pixel_visits_accepted") + more
        while pixel.metric("tracker_pixel_visits_accepted") < wanted:
            time.sleep(0.2)

    def _drain(self, pixel: Service) -> int:
        """Waits until the log has everything; its lines."""
        self._accepted = -1
        while (accepted := int(pixel.metric("tracker_pixel_visits_accepted"))) != self._accepted:
            self._accepted = accepted
            time.sleep(2.0)  # workers report twice a second
        assert pixel.metric("tracker_pixel_visits_discarded") == 0
        wait_for(lambda: self._lines_at_least(self._accepted), "everything in the log", timeout=PATIENCE)
        self._stack.wait_queue()
        return self._count_lines()

    def _lines_at_least(self, count: int) -> bool:
        time.sleep(1.0)  # counting takes a while itself
        return self._count_lines() >= count

    def _count_lines(self) -> int:
        with self._stack.log_path.open("rb") as log:
            return sum(block.count(b"\n") for block in iter(lambda: log.read(1 << 20), b""))

    def _report(self, outage: str, memory: "Memory", lines: int) -> bool:
        print(f"\n{outage}: {self._accepted:,} visits accepted in all, {lines:,} lines in the log")
        print("| process | before | during | after |\n|---|---|---|---|")
        for name in memory.pids:
            peaks = [memory.peaks[name].get(phase) for phase in ("before", "during", "after")]
            print(f"| {name} | " + " | ".join(f"{peak / 1024:.1f} MiB" if peak else "" for peak in peaks) + " |")
        return lines == self._accepted


class Memory:
    """The largest resident size of each process in each phase, in KiB."""

    def __init__(self, pids: dict[str, int]) -> None:
        self.pids = pids
        self.peaks: dict[str, dict[str, int]] = defaultdict(dict)

    def add(self, name: str, pid: int) -> None:
        self.pids[name] = pid

    @contextmanager
    def watching(self, phase: str) -> Iterator[None]:
        done = threading.Event()
        thread = threading.Thread(target=self._watch, args=(phase, done))
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def _watch(self, phase: str, done: threading.Event) -> None:
        while True:
            for name, pid in self.pids.items():
                found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
                self.peaks[name][phase] = max(self.peaks[name].get(phase, 0), int(found[1]) if found else 0)
            if done.wait(0.1):
                return


def _pixel(pixel: Service) -> dict[str, int]:
    return {"pixel main": pixel.pid, **{f"pixel worker {n}": pid for n, pid in enumerate(pixel.workers(), 1)}}


@contextmanager
def _load(pixel: Service) -> Iterator[None]:
    """Visitors for as long as the block lasts."""
    headers = ["-H", f"User-Agent: {CHROME}", "-H", "Referer: https://site.example/a/page"]
    url = f"http://{LOOPBACK}:{pixel.port}/track"
    home = pixel.config.parent
    with Launched(["wrk", "-t1", "-c64", "-d24h", *headers, url], output_file=home / "wrk.out", home=home):
        yield
