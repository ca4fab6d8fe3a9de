"""Measures the end-to-end latency: the time from the answer of a visit to its durable line, seen from outside.

1. The line holds the time of the answer.
2. Storage's count of appended visits, in /metrics, grows after the fdatasync. So it shows how many lines are durable.
3. The monitor reads the count every 10 ms, and then so many new lines of the log. So a latency is at most about 10 ms
   too long.

Pixel, storage and monitor must be on one machine, so that there is one clock.
"""

import threading
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

POLL_SECONDS = 0.01


class LatencyMonitor:
    """A context that reads a log from its present end on. `latencies` has one number of seconds for each visit."""

    def __init__(self, log: Path, appended: Callable[[], float]) -> None:
        self.latencies: list[float] = []
        self._log = log
        self._appended = appended
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._poll)

    def __enter__(self) -> "LatencyMonitor":
        self._file = self._log.open("rb")
        self._file.seek(0, 2)
        self._before = self._appended()
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()
        self._file.close()

    def percentile(self, share: float) -> float:
        """The latency in seconds that `share` (between 0 and 1) of the visits did not exceed."""
        ordered = sorted(self.latencies)
        return ordered[min(len(ordered) - 1, int(len(ordered) * share))]

    def _poll(self) -> None:
        while not self._ended.wait(POLL_SECONDS):
            durable = int(self._appended() - self._before)
            now = time.time()
            for _ in range(durable - len(self.latencies)):
                line = self._file.readline()
                if not line.endswith(b"\n"):
                    break
                answered = datetime.fromisoformat(line[:32].decode("ascii"))
                self.latencies.append(now - answered.timestamp())
