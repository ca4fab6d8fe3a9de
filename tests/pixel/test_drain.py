"""When a worker stops, no visitor gets half an answer or a reset. The last answer of a connection says so."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import uvloop

from tests.waiting import until
from tracker.config import OutboxConfig, PixelConfig, SnsConfig
from tracker.pixel import server as module
from tracker.pixel.recorder import Recorder
from tracker.pixel.server import PixelServer

SNS = SnsConfig(topic_arn="arn:aws:sns:us-east-1:000000000000:tracking")
PLAIN = b"GET /track HTTP/1.1\r\nHost: a.example\r\n\r\n"
ODD = b"GET /track HTTP/1.1\r\nHost: a.example\r\nContent-Length: 0\r\n\r\n"  # not for the fast path

Client = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@asynccontextmanager
async def started(directory: Path) -> AsyncIterator[tuple[PixelServer, socket.socket]]:
    """A server and its listener."""
    recorder = Recorder(config=OutboxConfig(dir=str(directory)), quota=1 << 20)
    await recorder.open()
    server = PixelServer(config=PixelConfig(sns=SNS), recorder=recorder, max_connections=100)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        await server.start(listener, 100)
        try:
            async with asyncio.timeout(30):
                yield server, listener
        finally:
            await recorder.close()


@asynccontextmanager
async def serving(directory: Path, client_count: int) -> AsyncIterator[tuple[PixelServer, list[Client]]]:
    """A server and connections to it, each of which has had an answer already."""
    async with started(directory) as (server, listener):
        clients = [await asyncio.open_connection(*listener.getsockname()) for _ in range(client_count)]
        for number, (_, writer) in enumerate(clients):
            writer.write(ODD if number % 2 else PLAIN)
        for reader, _ in clients:
            assert "Connection: close" not in await answer(reader)
        try:
            yield server, clients
        finally:
            for _, writer in clients:
                writer.close()


async def answer(reader: asyncio.StreamReader) -> str:
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    assert head.startswith("HTTP/1.1 200 OK\r\n")
    assert (await reader.readexactly(43)).startswith(b"GIF89a")
    return head


async def test_a_request_during_the_drain_is_answered_with_connection_close(tmp_path: Path) -> None:
    async with serving(tmp_path, 4) as (server, clients):
        stopping = asyncio.create_task(server.stop(20.0))
        await asyncio.sleep(0)
        for number, (_, writer) in enumerate(clients):
            writer.write(PLAIN if number < 2 else ODD)
        for reader, _ in clients:
            assert "Connection: close\r\n" in await answer(reader)
            assert await reader.read() == b""
        await stopping


def test_a_connection_that_was_just_accepted_is_answered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server stops before it accepts the connection, at each step of that, and after it."""

    monkeypatch.setattr(module, "SILENT_SECONDS", 0.05)

    async def stop_after(passes: int) -> bool:
        """Whether the visitor has an answer. If not, the connection must be left for another worker."""
        directory = tmp_path / str(passes)
        directory.mkdir()
        async with started(directory) as (server, listener):
            with listener.dup() as other_worker, socket.create_connection(listener.getsockname(), 30) as visitor:
                visitor.sendall(PLAIN)
                for _ in range(passes):
                    await asyncio.sleep(0)
                await server.stop(20.0)
                try:
                    other_worker.accept()[0].close()
                except BlockingIOError:
                    assert visitor.recv(4096, socket.MSG_DONTWAIT).startswith(b"HTTP/1.1 200 OK\r\n")
                    return True
                return False

    async def stop_at_each() -> list[bool]:
        return [await stop_after(passes) for passes in range(6)]

    answered = uvloop.run(stop_at_each())
    assert not answered[0]
    assert answered[-1]


async def test_idle_connections_are_closed_and_not_reset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SILENT_SECONDS", 0.05)
    async with serving(tmp_path, 2) as (server, clients):
        await server.stop(20.0)
        for reader, _ in clients:
            assert await reader.read() == b""  # a reset would raise


async def test_a_request_that_has_begun_is_finished(tmp_path: Path) -> None:
    async with serving(tmp_path, 2) as (server, clients):
        for _, writer in clients:
            writer.write(PLAIN[:20])
        await asyncio.sleep(0.05)
        stopping = asyncio.create_task(server.stop(20.0))
        await asyncio.sleep(0)
        for reader, writer in clients:
            writer.write(PLAIN[20:])
            assert "Connection: close\r\n" in await answer(reader)
            assert await reader.read() == b""
        await stopping


async def test_with_nobody_connected_it_ends_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SILENT_SECONDS", 3600.0)
    async with serving(tmp_path, 2) as (server, clients):
        for _, writer in clients:
            writer.close()
        stopping = asyncio.create_task(server.stop(20_000.0))
        await until(stopping.done)
        await stopping
