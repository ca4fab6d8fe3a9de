"""A standard error that never blocks the thread that writes to it.

The reader of standard error may stop reading: a log driver that stalls, a terminal that is stopped with Ctrl-S. As soon
as the pipe is full, write(2) blocks. O_NONBLOCK is no solution: it is set on the open file description, which other
processes share. Therefore:

1. `write` puts the text into a bounded queue and returns at once. Event loops and the writer's thread call it.
2. One daemon thread takes whole lines from the queue and writes them to the descriptor. Only this thread may block.
3. Lines for which the queue has no room, and lines that the system refuses (closed pipe, full disk), are dropped and
   counted.
4. When the thread has written all that was queued, it reports the number of lines dropped since the last report.
5. At the end of the process `drain` waits for the thread, at most one second.

A service replaces `sys.stderr` by `STREAM`, so that log lines, tracebacks, warnings and `print` are all written like
this.
"""

import atexit
import io
import os
import select
import sys
import threading
from collections import deque
from collections.abc import Callable

QUEUE_BYTES = 256 * 1024
DRAIN_SECONDS = 1.0


class StandardError(io.TextIOBase):
    """A text stream onto `descriptor`. `dropped` is the number of lines dropped since the start of the process.

    `report` is called, in the stream's own thread, with the number of lines dropped since its last call.
    """

    encoding = "utf-8"

    def __init__(self, descriptor: int = 2) -> None:
        self.dropped = 0
        self.report: Callable[[int], None] = self._report
        self._descriptor = descriptor
        self._unfinished = b""  # text whose newline has not been written yet: print() writes it by itself
        self._chunks: deque[bytes] = deque()  # of whole lines; the first one stays here until it is written
        self._queued = 0  # bytes
        self._unreported = 0  # dropped lines
        self._torn = False  # whether only a part of the last line was written
        # Its lock is reentrant, because the garbage collector may run a finalizer that writes while the lock is held.
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def write(self, text: str) -> int:
        """Queue `text` or drop it; never blocks, never raises."""
        with self._changed:
            whole, newline, self._unfinished = (self._unfinished + _encoded(text)).rpartition(b"\n")
            self._put(whole + newline)
            if len(self._unfinished) > QUEUE_BYTES:
                self._put(self._unfinished)
                self._unfinished = b""
        return len(text)

    def drain(self, seconds: float = DRAIN_SECONDS) -> bool:
        """Wait at most `seconds` until everything is written. Returns whether it is."""
        with self._changed:
            self._put(self._unfinished)
            self._unfinished = b""
            return self._changed.wait_for(lambda: not self._chunks, seconds)

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)

    def writable(self) -> bool:
        return True

    def _put(self, data: bytes) -> None:
        if not data:
            return
        if self._queued + len(data) > QUEUE_BYTES or not self._has_thread():
            self._drop(data)
            return
        self._chunks.append(data)
        self._queued += len(data)
        self._changed.notify_all()

    def _drop(self, data: bytes) -> None:
        lines = max(1, data.count(b"\n"))
        self.dropped += lines
        self._unreported += lines

    def _has_thread(self) -> bool:
        if self._thread is None:
            thread = threading.Thread(target=self._run, name="standard-error", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # the system gives no more threads; the next line tries again
                return False
            self._thread = thread
        return True

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._chunks)
                data = self._chunks[0]
            written = self._write(data)
            count = 0
            with self._changed:
                self._chunks.popleft()
                self._queued -= len(data)
                if not written:
                    self._drop(data)
                elif not self._chunks:
                    count, self._unreported = self._unreported, 0
                self._changed.notify_all()
            if count:
                self.report(count)

    def _write(self, data: bytes) -> bool:
        """Write all of `data`; blocks until that is done. Returns False when the system refuses it."""
        rest = whole = memoryview(b"\n" + data if self._torn else data)
        while rest:
            try:
                rest = rest[os.write(self._descriptor, rest) :]
            except BlockingIOError:  # another process that shares the open file description has set O_NONBLOCK
                select.select([], [self._descriptor], [])
            except OSError:
                self._torn = self._torn or len(rest) < len(whole)
                return False
        self._torn = not data.endswith(b"\n")
        return True

    def _report(self, count: int) -> None:
        self.write(f"log_lines_dropped count={count}\n")


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "backslashreplace")


STREAM = StandardError()


def install() -> None:
    """Replace `sys.stderr` by `STREAM`. At the end of the process, Python waits until the queued lines are written."""
    sys.stderr = STREAM
    atexit.register(STREAM.drain)
