"""The visitors' connections of one worker: reads become visits and answers.

    read ─▶ PlainRequests.find ─▶ Collector.line ─▶ (end of the loop's pass) Recorder.record ─▶ GIF      fast path
      └──▶ one head at a time ─▶ Fallback.read ─▶ Collector.line ─▶ Recorder.record ─▶ answer            fallback

1. A read that is nothing but whole, plain requests is answered by the fast path, if nothing is left over from before.
   The visits of one pass of the loop, on all connections, are one write to the journal. No GIF leaves before it.
2. Any other read is cut into heads. A head that is not complete is kept until the rest of it comes. A complete one is
   answered at once. The next read is tried by the fast path again.
3. A body is counted and dropped, never decoded. When it is long, or its length is not known, the answer says
   ``Connection: close``.
4. After the last answer of a connection on which more may be coming (a body, the rest of what was refused) the server
   closes its half, and drops what comes for a short time. Closing at once would reset the connection, and a visitor or
   a proxy that is still sending would lose the answer.

Nothing is awaited between a request and its answer. When the end of what a visitor sends is seen, all of his answers
have been written. So a visitor who closes his half right behind a request is answered like any other.

Of one read no more than PIPELINED requests are answered at once. In each pass of the loop one connection goes on with
what it has left. Passes stay short in this way, however much is sent. They must, because libuv accepts one connection
in each pass.

What one connection keeps in memory is one unfinished head or the rest of one read (HEAD_BYTES at most), and the answers
that the visitor has not read (those of WRITE_BYTES and of PIPELINED requests): below 64 KiB together.
"""

import asyncio
import logging
import re
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, cast

from tracker.core.discards import NOT_READING
from tracker.pixel.answers import LAST_GET, NOT_ALLOWED, NOT_FOUND, PIXEL, PLAIN_GET, REFUSALS, Form
from tracker.pixel.collector import Collector
from tracker.pixel.fast_lane import PIPELINED, PlainRequests
from tracker.pixel.recorder import Recorder

if TYPE_CHECKING:
    from tracker.pixel.http_lane import Fallback

log = logging.getLogger("tracker.pixel.connections")

REQUEST_LINE_BYTES = 8_190
"""A longer request line is answered with 414."""

HEADER_BYTES = 16_384 + 128
"""One header line with its name: a value of 16 KiB fits. A longer one is answered with 431."""

HEADERS_BYTES = 32_768
"""All header lines of one request together. More are answered with 431."""

HEADERS = 128
"""How many header lines one request may have. More are answered with 431."""

HEAD_BYTES = REQUEST_LINE_BYTES + HEADERS_BYTES + len(b"\r\n" * 3)

BODY_BYTES = 65_536
"""A longer body is not waited for: the answer to its head closes the connection."""

RECEIVE_BYTES = 16_384
"""The receive buffer of each connection, set on the listening socket. It bounds what one read brings: Linux doubles it,
and 24 KiB were seen at most. Without it, one read may bring 250 KB."""

WRITE_BYTES = 4_096
"""When more than this waits for a visitor to read it, nothing more is read from him."""

LINGER_SECONDS = 2.0
LINGER_BYTES = 1_048_576
"""How long, and how much, is read and dropped after the last answer; nginx sends bodies up to 1 MiB by default."""

PASS_VISITS = 256
"""So many visits are recorded and answered at once, whatever the pass has still to read."""

_EMPTY_LINES = re.compile(rb"[\r\n]*")


class Connections:
    """All connections of a worker, and what the current pass of the loop has read on them in the fast path.

    `admit` is asked once for each new connection, `on_lost` is called at the end of each that was admitted.
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
        self.plain = PlainRequests(path, ["Referer", "User-Agent", collector.ip_header, *collector.signals])
        self._path = path
        self._fallback: Fallback | None = None
        self._loop = asyncio.get_running_loop()
        self._lines: list[bytes] = []
        self._unanswered: list[tuple[Connection, int]] = []
        self._waiting: deque[Connection] = deque()

    @property
    def fallback(self) -> "Fallback":
        """The reader of all other requests; aiohttp is loaded for the first of them, the others are answered before."""
        if self._fallback is None:
            from tracker.pixel.http_lane import Fallback

            self._fallback = Fallback(
                path=self._path, ip_header=self.collector.ip_header, signals=self.collector.signals
            )
        return self._fallback

    def take(self, connection: "Connection", read: bytes) -> bool:
        """Collect the visits of a plain read, to be answered at the end of the pass. False: it is not plain."""
        requests = self.plain.find(read)
        if not requests:
            return False
        for request in requests:
            referrer, user_agent, ip, *signals = request.group(*self.plain.groups)
            line = self.collector.line(
                peer=connection.peer,
                signals=signals,
                ip_lines=(ip,) if ip else (),
                referrer=referrer,
                user_agent=user_agent,
            )
            if line is not None:
                self._lines.append(line)
        if not self._unanswered:
            self._loop.call_soon(self.answer)
        self._unanswered.append((connection, len(requests)))
        if len(self._lines) >= PASS_VISITS:
            self.answer()
        return True

    def answer(self) -> None:
        """Record what was collected, with one write; then let the GIFs leave, whatever became of it."""
        lines, self._lines = self._lines, []
        unanswered, self._unanswered = self._unanswered, []
        if lines:
            self.recorder.record(b"".join(lines), len(lines))
        gif = PIXEL[PLAIN_GET].render()
        now = self._loop.time()
        for connection, count in unanswered:
            connection.answered_at = now
            if connection.transport.is_closing():
                continue  # reset, or told already that it had its last answer
            if self.draining:
                connection.transport.write(gif * (count - 1) + PIXEL[LAST_GET].render())
                connection.transport.close()
            else:
                connection.transport.write(gif * count)

    def later(self, connection: "Connection") -> None:
        """Let a connection go on behind all others that wait for it: one of them in each pass of the loop."""
        if not self._waiting:
            self._loop.call_soon(self._let_one_go_on)
        self._waiting.append(connection)

    def _let_one_go_on(self) -> None:
        connection = self._waiting.popleft()
        if self._waiting:
            self._loop.call_soon(self._let_one_go_on)
        connection.go_on()

    def drain(self) -> None:
        """From now on the next answer of each connection says that it is the last, and it is."""
        self.draining = True

    def close(self) -> None:
        """Answer what was read and close all connections, each once its answers have left."""
        self.answer()
        for connection in self.open:
            connection.transport.close()

    def abort(self) -> None:
        """End all connections, whatever has not left."""
        for connection in self.open:
            connection.transport.abort()


class Connection(asyncio.Protocol):
    """One visitor's connection."""

    __slots__ = (
        "_admitted",
        "_all",
        "_body",
        "_dropped",
        "_held",
        "_idle",
        "_lingering",
        "_searched",
        "_timer",
        "_waiting",
        "answered_at",
        "peer",
        "transport",
        "writing_paused",
    )

    def __init__(self, connections: Connections) -> None:
        self._all = connections
        self._idle = True  # nothing is left over: no part of a head, no body, no answer that was not read
        self._held = b""  # the beginning of a head, or what was read while the visitor does not read
        self._searched = 0  # where in it the search for the end of a head goes on
        self._body = 0  # bytes still to come that belong to a request answered before
        self._waiting = False  # for its turn to go on
        self._lingering = False
        self._dropped = 0  # bytes read after the last answer
        self.writing_paused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self._admitted = self._all.admit()
        if not self._admitted:
            self.transport.abort()
            return
        self.transport.set_write_buffer_limits(WRITE_BYTES)
        address = transport.get_extra_info("peername")
        self.peer = address[0] if address else None  # none if it was reset while it was accepted
        loop = asyncio.get_running_loop()
        self.answered_at = loop.time()
        self._timer = loop.call_at(self.answered_at + self._all.keepalive_timeout, self._close_if_idle)
        self._all.open.add(self)

    def data_received(self, read: bytes) -> None:
        try:
            if self._idle and self._all.take(self, read):
                return
            if self._lingering:
                self._drop(read)
            else:
                self._read(read)
        except Exception:
            log.exception("request_failed status=500; a visitor was answered with it; the pixel has a fault, report it")
            self._refuse(500)

    def eof_received(self) -> None:
        # This comes after all reads, and not while reading is paused: nothing but an unfinished head can be left over.
        self._all.answer()  # the transport closes now, once what was written has left

    def pause_writing(self) -> None:
        self.writing_paused = True
        self._idle = False
        self.transport.pause_reading()

    def resume_writing(self) -> None:
        self.writing_paused = False
        self._wait()

    def connection_lost(self, error: Exception | None) -> None:
        if self._admitted:
            self._timer.cancel()
            self._all.open.discard(self)
            self._all.on_lost()

    def go_on(self) -> None:
        """Answer more of what was read, and read on once all of it is answered."""
        self._waiting = False
        if not (self.writing_paused or self.transport.is_closing()):
            self.data_received(b"")
        if not (self.writing_paused or self._waiting or self.transport.is_closing()):
            self.transport.resume_reading()

    def _wait(self) -> None:
        if not self._waiting:
            self._waiting = True
            self._all.later(self)

    def _read(self, read: bytes) -> None:
        """Answer what is left over and then `read`, as far as the visitor reads and the others do not have to wait."""
        data = self._held + read
        searched, self._searched = self._searched, 0
        at = requests = 0
        while requests < PIPELINED and not (self.writing_paused or self._lingering or self.transport.is_closing()):
            if self._body:
                passed = min(self._body, len(data) - at)
                self._body -= passed
                at += passed
            if (empty := _EMPTY_LINES.match(data, at)) is not None:
                at = empty.end()
            end = data.find(b"\r\n\r\n", max(at, searched)) + 4
            if end < 4:
                self._searched = max(0, len(data) - at - 3)
                self._check_unfinished(data[at:])
                break
            self._answer(data[at:end])
            at = end
            requests += 1
        if self._lingering or self.transport.is_closing():
            self._held = b""
            return
        self._held = data[at:]
        self._idle = not (self._held or self._body or self.writing_paused)
        if len(self._held) > HEAD_BYTES:  # a read is never so long where RECEIVE_BYTES has its effect
            self._held = b""
            self._all.recorder.count_refused_connection(NOT_READING)
            self.transport.close()  # once what was written has left
        elif self._held and requests == PIPELINED and not self.writing_paused:
            self.transport.pause_reading()
            self._wait()

    def _answer(self, head: bytes) -> None:
        """Answer the request of one whole head, and record it if it is a visit."""
        self._all.answer()  # what came before on this connection is answered before
        if (status := _too_large(head)) is not None:
            self._refuse(status)
            return
        request = self._all.fallback.read(head)
        if request is None:
            self._refuse(400)
            return
        if not request.target_is_pixel:
            answers = NOT_FOUND
        elif request.method == "GET":
            answers = PIXEL
            line = self._all.collector.line(
                peer=self.peer,
                signals=request.signals,
                ip_lines=request.ip_lines,
                referrer=request.referrer,
                user_agent=request.user_agent,
            )
            if line is not None:
                self._all.recorder.record(line)
        elif request.method == "HEAD":
            answers = PIXEL
        else:
            answers = NOT_ALLOWED
        read_past = request.body is not None and request.body <= BODY_BYTES
        keep_alive = request.keep_alive and read_past and not self._all.draining
        answer = answers[Form(request.method == "HEAD", keep_alive, request.http11)]
        if answer.status != 200:
            self._all.recorder.count_refused_request(answer.status)
        self.answered_at = asyncio.get_running_loop().time()
        self.transport.write(answer.render())
        if keep_alive:
            self._body = request.body or 0
        elif request.body == 0:
            self.transport.close()
        else:
            self._linger()

    def _check_unfinished(self, head: bytes) -> None:
        """Refuse the beginning of a head that cannot become a request, so that nobody waits for its end."""
        if len(head) > HEAD_BYTES:
            self._refuse(_too_large(head) or 431)
        elif (head and not head[:1].isalpha()) or head.endswith(b"\n\n"):
            self._refuse(400)  # TLS on this port, for example; or lines without CR, which the parser refuses

    def _refuse(self, status: int) -> None:
        """Answer with a refusal, which is the last answer of this connection."""
        if self.transport.is_closing() or self._lingering:
            return
        self._all.answer()
        self._all.recorder.count_refused_request(status)
        self.transport.write(REFUSALS[status][LAST_GET].render())
        self._linger()

    def _drop(self, read: bytes) -> None:
        self._dropped += len(read)
        if self._dropped > LINGER_BYTES:
            self.transport.abort()

    def _linger(self) -> None:
        """Close our half after the last answer; drop what still comes, for a while."""
        self._lingering = True
        self._idle = False
        self._held = b""
        self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(LINGER_SECONDS, self.transport.abort)
        self.transport.write_eof()

    def _close_if_idle(self) -> None:
        loop = asyncio.get_running_loop()
        until = self.answered_at + self._all.keepalive_timeout
        if loop.time() < until:
            self._timer = loop.call_at(until, self._close_if_idle)
        elif self._held and not (self.writing_paused or self.transport.is_closing()):
            self._refuse(408)
        else:
            if self.writing_paused and not self.transport.is_closing():
                self._all.recorder.count_refused_connection(NOT_READING)
            self.transport.abort()  # not close, which waits for a visitor who does not read; it may be waiting already


def _too_large(head: bytes) -> int | None:
    """With which status a head, or the beginning of one, is refused for its size; None if it is not too large."""
    request_line, _, fields = head.partition(b"\r\n")
    if len(request_line) > REQUEST_LINE_BYTES:
        return 414
    lines = fields.removesuffix(b"\r\n\r\n").split(b"\r\n")
    if len(lines) > HEADERS or len(fields) > HEADERS_BYTES + 4 or max(map(len, lines)) > HEADER_BYTES:
        return 431
    return None
