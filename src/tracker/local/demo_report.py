"""The report of the local visit log, to which the demo page links.

One report is made at a time, in a thread, however many browsers request it. All requests of the next two seconds get
the same report.
"""

import asyncio
import time
from pathlib import Path

from tracker.analysis import require_extra
from tracker.analysis.log_files import open_logs
from tracker.analysis.selection import Selection
from tracker.visit_log_files import closed_logs

REFRESH_SECONDS = 5  # after which a browser loads the page again
CACHE_SECONDS = 2.0  # for which the same report is sent


class LiveReport:
    def __init__(self, log_path: Path) -> None:
        self._log_path = log_path
        self._lock = asyncio.Lock()
        self._page = ""
        self._made_at = float("-inf")

    async def page(self) -> str:
        """The page, which reloads itself. Raises TrackerError, for example when the `analysis` extra is missing."""
        async with self._lock:
            if time.monotonic() - self._made_at >= CACHE_SECONDS:
                self._page = await asyncio.to_thread(self._render)
                self._made_at = time.monotonic()
            return self._page

    def _render(self) -> str:
        require_extra()
        from tracker.analysis.page import render
        from tracker.analysis.summary import summarise

        with open_logs(self._files()) as logs:
            return render(summarise(logs, Selection()), refresh=REFRESH_SECONDS)

    def _files(self) -> list[str]:
        """The closed logs, oldest first, and the visit log: those that exist."""
        files = [*closed_logs(self._log_path), self._log_path] if self._log_path.parent.is_dir() else []
        return [str(file) for file in files if file.is_file()]
