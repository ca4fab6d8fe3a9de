"""One listener for IPv4 and IPv6: a visitor has one address, however the socket reports it."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.ports import free_port
from tracker.config import Http, OutboxConfig, PixelConfig, SnsConfig
from tracker.listening import listen
from tracker.pixel.recorder import Recorder
from tracker.pixel.server import PixelServer

SNS = SnsConfig(topic_arn="arn:aws:sns:us-east-1:000000000000:tracking")
IPV4, IPV6 = "127.0.0.1", "::1"

# A request for the fast path, and one with a body for the fallback.
PLAIN, FALLBACK = "", "Content-Length: 1\r\n"


class Pixel:
    """A server on every address of this host, and the visits it recorded."""

    def __init__(self, port: int, recorder: Recorder, directory: Path) -> None:
        self.port = port
        self.recorder = recorder
        self._directory = directory

    async def visit(self, address: str, headers: str) -> None:
        reader, writer = await asyncio.open_connection(address, self.port)
        body = "x" if headers.startswith(FALLBACK) else ""
        writer.write(f"GET /track HTTP/1.1\r\nHost: a.example\r\n{headers}\r\n{body}".encode())
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 OK")
        writer.close()

    def addresses(self) -> Sequence[str]:
        lines = b"".join(path.read_bytes() for path in sorted(self._directory.glob("*/[0-9]*"))).splitlines()
        return [msgspec.json.decode(line)["IpAddress"] for line in lines]


@asynccontextmanager
async def serving(directory: Path, **http: Any) -> AsyncIterator[Pixel]:
    recorder = Recorder(config=OutboxConfig(dir=str(directory)), quota=1 << 20)
    await recorder.open()
    server = PixelServer(config=PixelConfig(sns=SNS, http=Http(**http)), recorder=recorder, max_connections=100)
    port = free_port()
    with listen("http", PixelConfig(sns=SNS).http.host, port, 100) as listener:
        await server.start(listener, 100)
        try:
            yield Pixel(port, recorder, directory)
        finally:
            await server.stop(0.0)
            await recorder.close()


@pytest.mark.parametrize("headers", [PLAIN, FALLBACK], ids=["plain", "fallback"])
async def test_a_visitor_by_ipv4_is_recorded_with_an_ipv4_address(tmp_path: Path, headers: str) -> None:
    async with serving(tmp_path) as pixel:
        await pixel.visit(IPV4, headers)
        await pixel.visit(IPV6, headers)
        assert pixel.addresses() == [IPV4, IPV6]


@pytest.mark.parametrize("headers", [PLAIN, FALLBACK], ids=["plain", "fallback"])
async def test_a_trusted_proxy_is_known_by_either_ip_version(tmp_path: Path, headers: str) -> None:
    async with serving(tmp_path, trusted_proxies=["127.0.0.0/8"]) as pixel:
        for proxy in (IPV4, IPV6):
            await pixel.visit(proxy, f"{headers}X-Forwarded-For: 198.51.100.7\r\n")
        assert pixel.addresses() == ["198.51.100.7", IPV6]


@pytest.mark.parametrize("headers", [PLAIN, FALLBACK], ids=["plain", "fallback"])
async def test_each_ipv4_visitor_has_a_rate_limit_of_his_own(tmp_path: Path, headers: str) -> None:
    async with serving(tmp_path, rate_limit=0.001) as pixel:
        for address in ("127.0.0.1", "127.0.0.1", "::1", "::1"):
            await pixel.visit(address, headers)
        assert pixel.addresses() == [IPV4, IPV6]
        assert pixel.recorder.counts["rate_limited"] == 2
