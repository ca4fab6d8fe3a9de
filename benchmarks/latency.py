"""How long a visit takes from its answer to its durable line, seen from outside.

The line says when the pixel answered. That it is durable the storage says: its count of appended visits grows after the
fdatasync only. The two clocks are one machine's; a visit is late by one look at most.
"""

import threading
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

LOOK_SECONDS = 0.01


class LatencyWatch:
    """Follows a log from its present end on; use as a context. `ages` are in seconds, one a visit."""

    def __init__(self, log: Path, appended: Callable[[], float]) -> None:
        self.ages: list[float] = []
        self._log = log
        self._appended = appended
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> "LatencyWatch":
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
        """In seconds; `share` between 0 and 1."""
        ordered = sorted(self.ages)
        return ordered[min(len(ordered) - 1, int(len(ordered) * share))]

    def _watch(self) -> None:
        while not self._ended.wait(LOOK_SECONDS):
            durable = int(self._appended() - self._before)
            now = time.time()
            for _ in range(durable - len(self.ages)):
                line = self._file.readline()
                if not line.endswith(b"\n"):
                    break
                answered = datetime.fromisoformat(line[:32].decode("ascii"))
                self.ages.append(now - answered.timestamp())
