"""Hostile visitors hold connections, do not finish requests or send a flood. Other visitors are answered."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.waiting import until
from tracker.config import Http, OutboxConfig, PixelConfig, SnsConfig
from tracker.core.discards import TOO_MANY
from tracker.pixel.control import refused_connection, refused_request
from tracker.pixel.recorder import Recorder
from tracker.pixel.server import PixelServer

SNS = SnsConfig(topic_arn="arn:aws:sns:us-east-1:000000000000:tracking")
PLAIN = b"GET /track HTTP/1.1\r\nHost: a.example\r\n\r\n"


@asynccontextmanager
async def serving(directory: Path, *, max_connections: int = 100, **http: float) -> AsyncIterator[tuple[int, Recorder]]:
    """A server's port, and its recorder."""
    recorder = Recorder(config=OutboxConfig(dir=str(directory)), quota=1 << 20)
    await recorder.open()
    config = PixelConfig(sns=SNS, http=Http(**http))  # type: ignore[arg-type]
    server = PixelServer(config=config, recorder=recorder, max_connections=max_connections)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        listener.setblocking(False)
        await server.start(listener, 100)
        try:
            async with asyncio.timeout(30):
                yield port, recorder
        finally:
            await server.stop(0.0)
            await recorder.close()


async def visit(port: int) -> bytes:
    """The answer to one visit; empty if the connection was closed."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(PLAIN)
        head = await reader.readuntil(b"\r\n\r\n")
        return head + await reader.readexactly(43)
    except (asyncio.IncompleteReadError, ConnectionError):
        return b""
    finally:
        writer.close()


@pytest.mark.parametrize(
    ("begin", "drip"),
    [
        (b"", b""),
        (b"GET /track HTTP/1.1\r\nHost: a.example\r\nX: ", b""),
        (b"GET /track HTTP/1.1\r\nHost: a.example\r\nX: ", b"x"),
        (b"", b"\r\n"),
    ],
    ids=["silent", "half a request", "a request byte by byte", "empty lines"],
)
async def test_a_visitor_who_does_not_finish_a_request_is_disconnected(
    tmp_path: Path, begin: bytes, drip: bytes
) -> None:
    async with serving(tmp_path, keepalive_timeout=0.5) as (port, recorder):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(begin)
        with contextlib.suppress(ConnectionError):
            while not reader.at_eof():  # ends when the server disconnects us
                writer.write(drip)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(0.05):
                        await reader.read(1)
        writer.close()
        assert (await visit(port)).startswith(b"HTTP/1.1 200 OK")
        assert recorder.accepted == 1


async def test_a_worker_with_too_many_connections_closes_new_ones_until_one_ends(tmp_path: Path) -> None:
    async with serving(tmp_path, max_connections=3) as (port, recorder):
        held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(3)]
        for reader, writer in held:
            writer.write(PLAIN)
            await reader.readuntil(b"\r\n\r\n")
        assert await visit(port) == b""
        assert recorder.counts == {refused_connection(TOO_MANY): 1}
        held[0][1].close()
        await until(lambda: visit(port))
        for _, writer in held:
            writer.close()


START = b"GET /track HTTP/1.1\r\nHost: a.example\r\n"
BEYOND_MEASURE = {
    "a long request line": (414, b"GET /track?" + b"q" * 9_000 + b" HTTP/1.1\r\nHost: a.example\r\n\r\n"),
    "a request line without an end": (414, b"GET /track?" + b"q" * 45_000),
    "a long header": (431, START + b"Referer: " + b"r" * 17_000 + b"\r\n\r\n"),
    "a long name": (431, START + b"r" * 17_000 + b": r\r\n\r\n"),
    "many headers": (431, START + b"".join(b"X-%d: 1\r\n" % n for n in range(200)) + b"\r\n"),
    "long headers together": (431, START + b"".join(b"X-%d: %08000d\r\n" % (n, n) for n in range(5)) + b"\r\n"),
    "a header without an end": (431, START + b"Cookie: " + b"c" * 45_000),
    "headers without an end": (431, START + b"X: y\r\n" * 10_000),
    "empty header lines of spaces": (431, START + b"X:" + b" " * 45_000),
}


@pytest.mark.parametrize(("status", "request_bytes"), BEYOND_MEASURE.values(), ids=BEYOND_MEASURE.keys())
async def test_requests_beyond_the_limits_are_refused_counted_and_not_recorded(
    tmp_path: Path, status: int, request_bytes: bytes
) -> None:
    async with serving(tmp_path) as (port, recorder):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request_bytes)
        answer = await reader.read()
        writer.close()
        assert answer.startswith(b"HTTP/1.1 %d " % status)
        assert answer.count(b"HTTP/1.1") == 1
        assert b"\r\nConnection: close\r\n" in answer
        assert recorder.accepted == 0
        assert recorder.counts == {refused_request(status): 1}
        assert (await visit(port)).startswith(b"HTTP/1.1 200 OK")


async def test_a_flood_of_one_client_is_answered_and_not_recorded(tmp_path: Path) -> None:
    async with serving(tmp_path, rate_limit=2.0) as (port, recorder):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(100):
            writer.write(PLAIN)
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 OK")
            await reader.readexactly(43)
        writer.close()
        limited = recorder.counts["rate_limited"]
        assert recorder.accepted + limited == 100
        assert limited >= 60  # twenty at once, and two a second of what this took
