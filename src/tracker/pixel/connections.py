"""All visitors' connections of one worker, and the fast path that they share.

    read ─▶ FastPath.find ─▶ Collector.journal_line ─▶ (end of the pass) Recorder.record ─▶ GIF      fast path
      └──▶ one head at a time ─▶ Fallback.read ─▶ Collector.journal_line ─▶ Recorder.record ─▶ answer      fallback

A pass is one iteration of the event loop, in which it reads from every connection that has data. One write to the
journal records all visits that came on the fast path in one pass, on all connections:

1. `collect` makes the lines of a plain read's visits, without their time, and remembers its connection.
2. `answer` runs at the end of the pass, or once PASS_VISITS visits are collected. It gives all lines the current time
   and records them with one write.
3. Then `answer` sends the GIFs. No GIF is sent before its visit is recorded or discarded.

What happens to the reads of one connection is in `connection`.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from tracker.core.visit import JournalLine, encode_lines, visited_at_text
from tracker.pixel.answers import LAST_GET, PIXEL, PLAIN_GET
from tracker.pixel.collector import Collector
from tracker.pixel.fast_path import FastPath
from tracker.pixel.recorder import Recorder

if TYPE_CHECKING:
    from tracker.pixel.connection import Connection
    from tracker.pixel.fallback import Fallback

PASS_VISITS = 256
"""When this many visits are collected, they are recorded and answered, even if the pass has more to read."""


class Connections:
    """All connections of a worker, and the visits of the current pass.

    `admit` is called once for each new connection and says whether there is a place for it. `on_lost` is called at the
    end of each connection that was admitted.
    """

    def __init__(
        self,
        *,
        path: str,
        collector: Collector,
        recorder: Recorder,
        keepalive_timeout: float,
        admit: Callable[[], bool],
        on_lost: Callable[[], None],
    ) -> None:
        self.admit = admit
        self.on_lost = on_lost
        self.open: set[Connection] = set()
        self.keepalive_timeout = keepalive_timeout
        self.collector = collector
        self.recorder = recorder
        self.draining = False
        self.fast_path = FastPath(path, collector.wanted, named_page=collector.named_page)
        self._path = path
        self._fallback: Fallback | None = None
        self._loop = asyncio.get_running_loop()
        self._lines: list[JournalLine] = []  # of this pass, without their time, not recorded yet
        self._unanswered: list[tuple[Connection, int]] = []  # connections, and how many GIFs to send on each
        self._waiting: deque[Connection] = deque()  # connections that have requests left for a later pass

    @property
    def fallback(self) -> "Fallback":
        """The reader of requests that are not plain. It is made when first needed: importing aiohttp takes long."""
        if self._fallback is None:
            from tracker.pixel.fallback import Fallback

            self._fallback = Fallback(
                path=self._path,
                named_page=self.collector.named_page,
                ip_header=self.collector.ip_header,
                signals=self.collector.signals,
            )
        return self._fallback

    def collect(self, connection: "Connection", read: bytes) -> bool:
        """Collect the visits of a plain read, for the end of the pass. Return False if the read is not plain."""
        requests = self.fast_path.find(read)
        if not requests:
            return False
        for fields in requests:
            line = self.collector.journal_line(connection.peer, fields)
            if line is not None:
                self._lines.append(line)
        if not self._unanswered:
            self._loop.call_soon(self.answer)
        self._unanswered.append((connection, len(requests)))
        if len(self._lines) >= PASS_VISITS:
            self.answer()
        return True

    def answer(self) -> None:
        """Record the collected visits with one write. Then send all GIFs, also those of discarded visits."""
        lines, self._lines = self._lines, []
        unanswered, self._unanswered = self._unanswered, []
        if lines:
            self.record(lines)
        gif = PIXEL[PLAIN_GET].render()
        now = self._loop.time()
        for connection, count in unanswered:
            connection.answered_at = now
            if connection.transport.is_closing():
                continue  # reset by the visitor, or its last answer was sent
            if self.draining:
                connection.transport.write(gif * (count - 1) + PIXEL[LAST_GET].render())
                connection.transport.close()
            else:
                connection.transport.write(gif * count)

    def record(self, lines: list[JournalLine]) -> None:
        """Record the visits of these lines, all with the current time."""
        now = visited_at_text(time.time_ns() // 1000)
        for line in lines:
            line.visited_at = now
        self.recorder.record(encode_lines(lines), len(lines))

    def continue_later(self, connection: "Connection") -> None:
        """Call the connection's `go_on` in a later pass: one connection in each pass, in the order of these calls."""
        if not self._waiting:
            self._loop.call_soon(self._continue_one)
        self._waiting.append(connection)

    def _continue_one(self) -> None:
        connection = self._waiting.popleft()
        if self._waiting:
            self._loop.call_soon(self._continue_one)
        connection.go_on()

    def drain(self) -> None:
        """From now on the next answer of each connection is its last, and says so."""
        self.draining = True

    def close(self) -> None:
        """Answer what was read, and close each connection after its answers are sent."""
        self.answer()
        for connection in self.open:
            connection.transport.close()

    def abort(self) -> None:
        """End all connections at once, even if answers are not sent yet."""
        for connection in self.open:
            connection.transport.abort()
