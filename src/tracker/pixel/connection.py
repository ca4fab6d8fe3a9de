"""One visitor's connection: how the bytes of each read are answered.

A read is what one `data_received` brings. A head is a request line with its headers, up to the empty line.

1. A read that consists of whole, plain requests only goes to the fast path, if no bytes of an earlier read are left.
2. Any other read is divided into heads. An incomplete head is kept until the rest of it comes. A complete head is
   answered at once. The fast path is tried again with the next read.
3. A body is counted and dropped, never decoded. If it is long, or its length is not known, the answer says
   ``Connection: close``.
4. After its last answer the server may have to expect more bytes (a body, or the rest of a refused request). It then
   closes its half of the connection, and drops what comes for LINGER_SECONDS. If it closed the whole connection at
   once, the connection would be reset, and a visitor or proxy that is still sending would lose the answer.
5. A connection that is idle for `http.keepalive_timeout` is closed. An incomplete head is then answered with 408.

Nothing is awaited between a request and its answer. When the visitor closes their half of the connection, all requests
before that have been answered.

At most PIPELINED requests of one read are answered in one pass of the event loop. What is left is answered in later
passes, one connection in each pass. So a pass stays short, however much is sent. It must be short because libuv accepts
one connection in each pass.
"""

import asyncio
import logging
import re
from typing import TYPE_CHECKING, cast

from tracker.core.discards import NOT_READING
from tracker.pixel.answers import LAST_GET, NOT_ALLOWED, NOT_FOUND, PIXEL, REFUSALS, Answer, Form
from tracker.pixel.connections import Connections
from tracker.pixel.fast_path import PIPELINED
from tracker.pixel.limits import BODY_BYTES, HEAD_BYTES, LINGER_BYTES, LINGER_SECONDS, WRITE_BYTES, too_large

if TYPE_CHECKING:
    from tracker.pixel.fallback import Request

log = logging.getLogger(__name__)

_EMPTY_LINES = re.compile(rb"[\r\n]*")


class Connection(asyncio.Protocol):
    """One visitor's connection."""

    __slots__ = (
        "_admitted",
        "_body",
        "_connections",
        "_continues_later",
        "_dropped",
        "_idle",
        "_lingering",
        "_searched",
        "_timer",
        "answered_at",
        "leftover",
        "peer",
        "transport",
        "writing_paused",
    )

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self._idle = True  # no bytes are left of a head or a body, and the visitor has read all answers
        self.leftover = b""  # an incomplete head, or requests that are not answered yet
        self._searched = 0  # up to where `leftover` was searched for the end of a head
        self._body = 0  # bytes still to come of the body of a request that was answered
        self._continues_later = False  # whether `go_on` will be called in a later pass
        self._lingering = False  # the last answer was sent, and our half is closed
        self._dropped = 0  # bytes read after the last answer
        self.writing_paused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self._admitted = self._connections.admit()
        if not self._admitted:
            self.transport.abort()
            return
        self.transport.set_write_buffer_limits(WRITE_BYTES)
        address = transport.get_extra_info("peername")
        # There is no address if the connection was reset while it was accepted.
        self.peer = self._connections.collector.peer(address[0] if address else None)
        loop = asyncio.get_running_loop()
        self.answered_at = loop.time()
        self._timer = loop.call_at(self.answered_at + self._connections.keepalive_timeout, self._close_if_idle)
        self._connections.open.add(self)

    def data_received(self, read: bytes) -> None:
        try:
            if self._idle and self._connections.collect(self, read):
                return
            if self._lingering:
                self._drop(read)
            else:
                self._read(read)
        except Exception:
            log.exception(
                "request_failed status=%d; This is a bug: report it. The visitor was answered with this status.", 500
            )
            self._refuse(500)

    def eof_received(self) -> None:
        # This is called after all reads, and not while reading is paused: only an incomplete head can be left.
        self._connections.answer()  # then the transport sends what was written, and closes

    def pause_writing(self) -> None:
        self.writing_paused = True
        self._idle = False
        self.transport.pause_reading()

    def resume_writing(self) -> None:
        self.writing_paused = False
        self._continue_later()

    def connection_lost(self, error: Exception | None) -> None:
        if self._admitted:
            self._timer.cancel()
            self._connections.open.discard(self)
            self._connections.on_lost()

    def go_on(self) -> None:
        """Answer more of the requests that were read. Once all of them are answered, resume reading."""
        self._continues_later = False
        if not (self.writing_paused or self.transport.is_closing()):
            self.data_received(b"")
        if not (self.writing_paused or self._continues_later or self.transport.is_closing()):
            self.transport.resume_reading()

    def _continue_later(self) -> None:
        if not self._continues_later:
            self._continues_later = True
            self._connections.continue_later(self)

    def _read(self, read: bytes) -> None:
        """Answer `leftover` and then `read`: at most PIPELINED requests, and only while the visitor reads answers."""
        data = self.leftover + read
        searched, self._searched = self._searched, 0
        at = requests = 0
        while requests < PIPELINED and not (self.writing_paused or self._lingering or self.transport.is_closing()):
            if self._body:  # drop the part of it that has come
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
            self.leftover = b""
            return
        self.leftover = data[at:]
        self._idle = not (self.leftover or self._body or self.writing_paused)
        if len(self.leftover) > HEAD_BYTES:  # on Linux RECEIVE_BYTES prevents such a long read
            self.leftover = b""
            self._connections.recorder.count_refused_connection(NOT_READING)
            self.transport.close()  # after what was written is sent
        elif self.leftover and requests == PIPELINED and not self.writing_paused:
            self.transport.pause_reading()
            self._continue_later()

    def _answer(self, head: bytes) -> None:
        """Answer the request of one whole head, and record it if it is a visit."""
        self._connections.answer()  # the earlier requests of this connection come first
        if (status := too_large(head)) is not None:
            self._refuse(status)
            return
        request = self._connections.fallback.read(head)
        if request is None:
            self._refuse(400)
            return
        answers = self._answers_to(request)
        read_past = request.body is not None and request.body <= BODY_BYTES
        keep_alive = request.keep_alive and read_past and not self._connections.draining
        answer = answers[Form(request.method == "HEAD", keep_alive, request.http11)]
        if answer.status != 200:
            self._connections.recorder.count_refused_request(answer.status)
        self.answered_at = asyncio.get_running_loop().time()
        self.transport.write(answer.render())
        if keep_alive:
            self._body = request.body or 0
        elif request.body == 0:
            self.transport.close()
        else:
            self._linger()

    def _answers_to(self, request: "Request") -> dict[Form, Answer]:
        """Record the visit if the request is one, and return the answer in each form."""
        if not request.target_is_pixel:
            return NOT_FOUND
        if request.method not in ("GET", "HEAD"):
            return NOT_ALLOWED
        if request.method == "GET":
            line = self._connections.collector.journal_line(self.peer, request.fields)
            if line is not None:
                self._connections.record([line])
        return PIXEL

    def _check_unfinished(self, head: bytes) -> None:
        """Refuse an incomplete head at once if it cannot become a valid one."""
        if len(head) > HEAD_BYTES:
            self._refuse(too_large(head) or 431)
        elif (head and not head[:1].isalpha()) or head.endswith(b"\n\n"):
            self._refuse(400)  # for example TLS, or lines without CR, which the parser refuses

    def _refuse(self, status: int) -> None:
        """Send a refusal, which is the last answer of this connection."""
        if self.transport.is_closing() or self._lingering:
            return
        self._connections.answer()
        self._connections.recorder.count_refused_request(status)
        self.transport.write(REFUSALS[status][LAST_GET].render())
        self._linger()

    def _drop(self, read: bytes) -> None:
        self._dropped += len(read)
        if self._dropped > LINGER_BYTES:
            self.transport.abort()

    def _linger(self) -> None:
        """Close our half of the connection after the last answer, and drop what comes for LINGER_SECONDS."""
        self._lingering = True
        self._idle = False
        self.leftover = b""
        self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(LINGER_SECONDS, self.transport.abort)
        self.transport.write_eof()

    def _close_if_idle(self) -> None:
        loop = asyncio.get_running_loop()
        until = self.answered_at + self._connections.keepalive_timeout
        if loop.time() < until:
            self._timer = loop.call_at(until, self._close_if_idle)
        elif self.leftover and not (self.writing_paused or self.transport.is_closing()):
            self._refuse(408)
        else:
            if self.writing_paused and not self.transport.is_closing():
                self._connections.recorder.count_refused_connection(NOT_READING)
            self.transport.abort()  # close() waits for a visitor who does not read, and may have been called
