"""Connections in memory, with and without the fast path. A test decides what arrives in each read."""

import asyncio
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import msgspec

from tracker.config import OutboxConfig, PixelConfig
from tracker.pixel.collector import Collector
from tracker.pixel.connection import Connection
from tracker.pixel.connections import Connections
from tracker.pixel.fast_path import FastPath
from tracker.pixel.known_requests import Fields
from tracker.pixel.recorder import Recorder

QUIET_PASSES = 4  # of the event loop without an answer; after these no more is expected


class Notes(Recorder):
    """A recorder that keeps the visits in memory."""

    def __init__(self) -> None:
        super().__init__(config=OutboxConfig(), quota=0)
        self.lines = b""

    def record(self, lines: bytes, visits: int = 1) -> None:
        assert lines.count(b"\n") == visits
        assert lines.endswith(b"\n")
        self.lines += lines

    def visits(self) -> list[object]:
        """The recorded visits without their times."""
        decoded: list[dict[str, object]] = [msgspec.json.decode(line) for line in self.lines.splitlines()]
        return [{key: value for key, value in visit.items() if key != "VisitedAt"} for visit in decoded]


class Wire(asyncio.Transport):
    """The server's end of a connection. `read` is what arrives; a `capacity` of bytes is what the visitor reads."""

    def __init__(self, protocol: asyncio.Protocol, peer: str | None, capacity: int | None = None) -> None:
        super().__init__()
        self._protocol = protocol
        self._peer = (peer, 50_000) if peer else None
        self._capacity = capacity
        self._held: list[bytes] = []
        self._end = False
        self._reading = True
        self._choked = False
        self._closing = False
        self.unread = False  # what was written has not left, but is too little to pause the server
        self.written = b""
        self.ended = False  # the server has closed its half
        self.closed = False
        protocol.connection_made(self)

    def read(self, data: bytes) -> None:
        self._held.append(data)
        self._deliver()

    def end(self) -> None:
        self._end = True
        self._deliver()

    def _deliver(self) -> None:
        while self._held and self._reading and not self.is_closing():
            self._protocol.data_received(self._held.pop(0))
        if self._end and self._reading and not self.is_closing() and not self._protocol.eof_received():
            self.close()

    def get_extra_info(self, name: str, default: object = None) -> object:
        return self._peer if name == "peername" else default

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        assert isinstance(protocol, asyncio.Protocol)
        self._protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._protocol

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not self.closed, "an answer on a closed connection"
        assert not self.ended, "an answer after the last one"
        self.written += data
        if self._capacity is not None and not self._choked and len(self.written) > self._capacity:
            self._choked = True
            self._protocol.pause_writing()

    def pause_reading(self) -> None:
        self._reading = False

    def resume_reading(self) -> None:
        self._reading = True
        asyncio.get_running_loop().call_soon(self._deliver)

    def drink(self) -> None:
        """From now on the visitor reads all that is sent."""
        self._capacity = None
        if self._choked:
            self._choked = False
            self._protocol.resume_writing()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        return

    def write_eof(self) -> None:
        self.ended = True

    def is_closing(self) -> bool:
        return self._closing or self.closed

    def close(self) -> None:
        self._closing = True
        if not (self._choked or self.unread):  # what was written has to be sent before
            self.abort()

    def abort(self) -> None:
        if not self.closed:
            self.closed = True
            asyncio.get_running_loop().call_soon(self._protocol.connection_lost, None)


@dataclass
class Outcome:
    """What the visitor and the log see of a connection."""

    answers: bytes
    ended: bool  # by the server: its half, or all of it
    visits: list[object]
    counts: dict[str, int]  # discarded visits and refused requests, by reason; and headers cut


class Nothing(FastPath):
    """A fast path that recognises no request, so that the fallback gets all of them."""

    def __init__(self) -> None:
        """Without a pattern: to make one takes longer than to answer a request."""

    def find(self, read: bytes) -> list[Fields]:
        return []


class BothPaths:
    """Both ways to answer: the fast path with the fallback behind it, and the fallback alone."""

    def __init__(self, config: PixelConfig, peer: str | None) -> None:
        self._config = config
        self._peer = peer
        self.connections: Connections

    async def outcome(self, *, fast: bool, reads: Iterable[tuple[bytes, bool]], end: bool) -> Outcome:
        """Feed the reads, each with whether to wait until it is answered; then the end of what the visitor sends.

        With `end`, the end follows the last read at once if that is not waited for, as a half-close does.
        """
        notes = Notes()
        connect, close = self.open(notes, [fast])
        wire = Wire(connect(fast), self._peer)
        wait = True
        for read, wait in reads:
            wire.read(read)
            if wait:
                await wait_quiet(wire)
        if end and not wait:
            wire.end()
        await wait_quiet(wire)
        if end:
            wire.end()
            await wait_quiet(wire)
        answers = re.sub(rb"\r\nDate: [^\r]*", b"\r\nDate: now", wire.written)
        outcome = Outcome(answers, wire.closed or wire.ended, notes.visits(), dict(notes.counts))
        wire.close()
        await close()
        return outcome

    def open(
        self, notes: Recorder, ways: Iterable[bool] = (True, False)
    ) -> tuple[Callable[[bool], Connection], Callable[[], "asyncio.Future[None]"]]:
        """One function that makes a connection, with or without the fast path, and one that closes all.

        `ways` says for which of the two.
        """
        http = self._config.http
        opened: dict[bool, Connections] = {}
        for fast in ways:
            connections = Connections(
                path=http.path,
                collector=Collector(config=self._config, recorder=notes),
                recorder=notes,
                keepalive_timeout=http.keepalive_timeout,
                admit=lambda: True,
                on_lost=lambda: None,
            )
            if fast:
                self.connections = connections
            else:
                connections.fast_path = Nothing()
            opened[fast] = connections

        async def close() -> None:
            for connections in opened.values():
                connections.close()
            await asyncio.sleep(0)

        return lambda fast: Connection(opened[fast]), lambda: asyncio.ensure_future(close())


async def wait_quiet(wire: Wire) -> None:
    """Let the event loop run until the server sends nothing more."""
    quiet = 0
    while quiet < QUIET_PASSES:
        before = len(wire.written), wire.closed
        await asyncio.sleep(0)
        quiet = quiet + 1 if (len(wire.written), wire.closed) == before else 0
