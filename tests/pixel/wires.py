"""Both lanes of the server on connections in memory, read by read, so that every cut of the bytes can be tried."""

import asyncio
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import msgspec

from tracker.config import OutboxConfig, PixelConfig
from tracker.pixel.collector import Collector
from tracker.pixel.fast_lane import FastConnection, FastLane
from tracker.pixel.http_lane import HttpLane
from tracker.pixel.recorder import Recorder

QUIET_PASSES = 8  # of the loop, after which nothing more is to be expected; a request takes aiohttp three or four


class Notes(Recorder):
    """A recorder that only remembers; `answered` is asked at each visit how many answers have left before it."""

    def __init__(self) -> None:
        super().__init__(config=OutboxConfig(), room=0)
        self.lines = b""

    def record(self, lines: bytes, visits: int = 1) -> None:
        assert lines.count(b"\n") == visits
        assert lines.endswith(b"\n")
        self.lines += lines

    def visits(self) -> list[object]:
        """All but when they were."""
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
        self._reading = True
        self._choked = False
        self._closing = False
        self.written = b""
        self.closed = False
        protocol.connection_made(self)

    def read(self, data: bytes) -> None:
        self._held.append(data)
        while self._held and self._reading and not self.is_closing():
            self._protocol.data_received(self._held.pop(0))

    def end(self) -> None:
        if not self.is_closing() and not self._protocol.eof_received():
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
        self.written += data
        if self._capacity is not None and not self._choked and len(self.written) > self._capacity:
            self._choked = True
            self._protocol.pause_writing()

    def pause_reading(self) -> None:
        self._reading = False

    def resume_reading(self) -> None:
        self._reading = True
        asyncio.get_running_loop().call_soon(self.read, b"")

    def is_closing(self) -> bool:
        return self._closing or self.closed

    def close(self) -> None:
        self._closing = True
        if not self._choked:  # what was written has to leave before
            self.abort()

    def abort(self) -> None:
        if not self.closed:
            self.closed = True
            asyncio.get_running_loop().call_soon(self._protocol.connection_lost, None)


@dataclass
class Outcome:
    """All that a visitor and a log can tell of a connection."""

    answers: bytes
    closed: bool
    visits: list[object]
    discarded: dict[str, int]  # by reason; and headers cut


class Lanes:
    """The two ways to the same answers: `fast`, with aiohttp behind it, and `http`, aiohttp alone."""

    def __init__(self, config: PixelConfig, peer: str | None) -> None:
        self._config = config
        self._peer = peer
        self.fast: FastLane

    async def outcome(self, *, fast: bool, reads: Iterable[tuple[bytes, bool]], end: bool) -> Outcome:
        """Feed the reads, each with whether to wait until it is dealt with; then the end of what the visitor sends."""
        notes = Notes()
        connect, close = self.open(notes)
        wire = Wire(connect(fast), self._peer)
        for read, wait in reads:
            wire.read(read)
            if wait:
                await settle(wire)
        await settle(wire)
        if end:
            wire.end()
            await settle(wire)
        answers = re.sub(rb"\r\nDate: [^\r]*", b"\r\nDate: now", wire.written)
        outcome = Outcome(answers, wire.closed, notes.visits(), dict(notes.discarded))
        wire.close()
        await close()
        return outcome

    def open(self, notes: Recorder) -> tuple[Callable[[bool], asyncio.Protocol], Callable[[], "asyncio.Future[None]"]]:
        """Makes protocols of either lane; and closes both lanes."""
        http_config = self._config.http
        collector = Collector(config=self._config, recorder=notes)
        timeout = http_config.keepalive_timeout
        http = HttpLane(
            path=http_config.path,
            collector=collector,
            recorder=notes,
            keepalive_timeout=timeout,
            on_lost=lambda: None,
        )
        self.fast = fast = FastLane(
            path=http_config.path,
            collector=collector,
            recorder=notes,
            keepalive_timeout=timeout,
            admit=lambda: True,
            on_lost=lambda: None,
            successor=http.connection,
        )

        def close() -> "asyncio.Future[None]":
            fast.close()
            return asyncio.ensure_future(http.close(0.01))

        return lambda quick: FastConnection(fast) if quick else http.connection(), close


async def settle(wire: Wire) -> None:
    """Let the loop run until the server has nothing more to say."""
    quiet = 0
    while quiet < QUIET_PASSES:
        before = len(wire.written), wire.closed
        await asyncio.sleep(0)
        quiet = quiet + 1 if (len(wire.written), wire.closed) == before else 0
