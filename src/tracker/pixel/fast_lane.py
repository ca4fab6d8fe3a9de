"""The fast lane: answers reads that are nothing but whole, plain requests for the pixel, without an HTTP library.

    read ─▶ PlainRequests.find ─▶ Collector.line ─▶ (end of the loop's pass) Recorder.record ─▶ GIF

Every connection begins here. Its first read that is anything else, by a byte, goes to aiohttp unchanged, and so does
all that follows on that connection: nothing is ever half read, queued or handled on a connection that is answered here.
What is plain is what aiohttp answers in the same way; tests/pixel/test_lanes.py holds the two against each other.

The visits read in one pass of the loop are one write to the journal, and none of their GIFs leaves before it.
"""

import asyncio
import re
from collections.abc import Callable
from typing import cast

from tracker.pixel.answers import LAST_GET, PIXEL, PLAIN_GET
from tracker.pixel.collector import Collector
from tracker.pixel.recorder import Recorder

READ_BYTES = 8190
"""A longer read is not plain. It is aiohttp's limit of one line, so no line here can be over it."""

HEADERS = 64
"""More of them are not plain; aiohttp allows 128."""

PASS_VISITS = 256
"""So many visits are recorded and answered at once, whatever the pass has still to read."""

# Headers that change what aiohttp makes of a request or its connection, by their beginnings.
_ODD = "connection content- etag max-forwards proxy-connection sec-websocket server transfer-encoding"

# How most headers of browsers begin; tried first, for speed alone.
_COMMON = r"(?:[Aa]ccept|[Ss]ec-(?:ch-|[Ff]etch-))"

_NAME = r"[0-9A-Za-z-]"
_VALUE = r"(?! )[ -~]++(?<! )"


class PlainRequests:
    """Recognises `GET <path>[?query] HTTP/1.1` with a `Host` and headers in printable ASCII, none of them odd.

    `wanted` are the headers to read, in any case; one of them, or a `Host`, that is there twice is not plain.
    """

    def __init__(self, path: str, wanted: list[str]) -> None:
        names = list(dict.fromkeys(name.lower() for name in ("Host", *wanted)))
        self.groups = tuple(names.index(name.lower()) + 1 for name in wanted)
        # (?(1)(?!)) fails where group 1 is set: the header has been there.
        once = [f"{_any_case(name)}: (?({group})(?!))({_VALUE})" for group, name in enumerate(names, 1)]
        others = [*map(_any_case, _ODD.split()), *(f"{_any_case(name)}:" for name in names)]
        lines = [*once, _any_case("connection: keep-alive")]
        if not any(re.match(_COMMON, name) for name in names):
            lines.insert(0, f"{_COMMON}{_NAME}*+: {_VALUE}")
            others.append(_COMMON)
        # No line is matched by two of them: what does not match must not be tried in 2^64 ways.
        lines.append(f"(?!{'|'.join(others)}){_NAME}++: {_VALUE}")
        target = re.escape(path) + r"(?:\?[!-~]*+)?"
        if any(name.startswith(odd) for odd in _ODD.split() for name in names):
            target = "(?!)"  # a header to read is an odd one: nothing is plain
        headers = rf"(?:(?:{'|'.join(lines)})\r\n){{1,{HEADERS}}}(?(1)|(?!))"
        self._match = re.compile(rf"GET {target} HTTP/1\.1\r\n{headers}\r\n").match

    def find(self, read: bytes) -> list[re.Match[str]]:
        """The requests that make up `read`, in order; none if there is anything else in it."""
        length = len(read)
        if length > READ_BYTES:
            return []
        text = read.decode("latin-1")
        requests = []
        end = 0
        while end < length:
            request = self._match(text, end)
            if request is None:
                return []
            requests.append(request)
            end = request.end()
        return requests


def _any_case(text: str) -> str:
    return "".join(f"[{char.upper()}{char}]" if char.isalpha() else char for char in text)


class FastLane:
    """The connections that never were anything but plain, and what the pass of the loop has read on them so far."""

    def __init__(
        self,
        *,
        path: str,
        collector: Collector,
        recorder: Recorder,
        keepalive_timeout: float,
        admit: Callable[[], bool],
        on_lost: Callable[[], None],
        successor: Callable[[], asyncio.Protocol],
    ) -> None:
        self.admit = admit
        self.on_lost = on_lost
        self.connections: set[FastConnection] = set()
        self.keepalive_timeout = keepalive_timeout
        self._requests = PlainRequests(path, ["Referer", "User-Agent", collector.ip_header, *collector.signals])
        self._collector = collector
        self._recorder = recorder
        self._successor = successor
        self._loop = asyncio.get_running_loop()
        self._lines: list[bytes] = []
        self._unanswered: list[tuple[FastConnection, int]] = []
        self._draining = False

    def take(self, connection: "FastConnection", read: bytes) -> bool:
        """Collect the visits of a plain read, to be answered at the end of the pass. False: it is not plain."""
        requests = self._requests.find(read)
        if not requests:
            return False
        for request in requests:
            referrer, user_agent, ip, *signals = request.group(*self._requests.groups)
            line = self._collector.line(
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
            self._recorder.record(b"".join(lines), len(lines))
        gif = PIXEL[PLAIN_GET].render()
        now = self._loop.time()
        for connection, count in unanswered:
            connection.answered_at = now
            if connection.transport.is_closing():
                continue  # reset, or told already that it had its last answer
            if self._draining:
                connection.transport.write(gif * (count - 1) + PIXEL[LAST_GET].render())
                connection.transport.close()
            else:
                connection.transport.write(gif * count)

    def hand_over(self, connection: "FastConnection", read: bytes) -> None:
        """From `read` on, this is aiohttp's connection. What came before is answered before."""
        self.answer()
        transport, successor = connection.transport, self._successor()
        connection.leave()
        transport.set_protocol(successor)
        successor.connection_made(transport)
        if connection.writing_paused:
            successor.pause_writing()
        successor.data_received(read)

    def drain(self) -> None:
        """From now on the next answer of each connection says that it is the last, and it is."""
        self._draining = True

    def close(self) -> None:
        """Answer what was read and close all connections, each once its answers have left."""
        self.answer()
        for connection in self.connections:
            connection.transport.close()


class FastConnection(asyncio.Protocol):
    """A visitor's connection for as long as it is plain."""

    __slots__ = ("_admitted", "_lane", "_timer", "answered_at", "peer", "transport", "writing_paused")

    def __init__(self, lane: FastLane) -> None:
        self._lane = lane
        self.writing_paused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self._admitted = self._lane.admit()
        if not self._admitted:
            self.transport.abort()
            return
        address = transport.get_extra_info("peername")
        self.peer = address[0] if address else None  # none if it was reset while it was accepted
        loop = asyncio.get_running_loop()
        self.answered_at = loop.time()
        self._timer = loop.call_at(self.answered_at + self._lane.keepalive_timeout, self._close_if_idle)
        self._lane.connections.add(self)

    def data_received(self, read: bytes) -> None:
        # A visitor who sends on without reading is aiohttp's: it stops reading from him.
        if self.writing_paused or not self._lane.take(self, read):
            self._lane.hand_over(self, read)

    def eof_received(self) -> None:
        self._lane.answer()  # the transport closes now, once what was written has left

    def pause_writing(self) -> None:
        self.writing_paused = True

    def resume_writing(self) -> None:
        self.writing_paused = False

    def connection_lost(self, error: Exception | None) -> None:
        if self._admitted:
            self.leave()
            self._lane.on_lost()

    def leave(self) -> None:
        """No connection of the fast lane any more."""
        self._timer.cancel()
        self._lane.connections.discard(self)

    def _close_if_idle(self) -> None:
        loop = asyncio.get_running_loop()
        until = self.answered_at + self._lane.keepalive_timeout
        if loop.time() < until:
            self._timer = loop.call_at(until, self._close_if_idle)
        else:
            self.transport.abort()  # not close, which would wait for a visitor who does not read
