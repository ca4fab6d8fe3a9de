"""The admin listener: statuses and bodies of /healthz, /readyz and /metrics, and what a connection may cost."""

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import prometheus_client
import pytest

from tests.ports import free_port
from tests.waiting import until
from tracker import admin, telemetry
from tracker.admin import MAX_CONNECTIONS, MAX_HEAD_BYTES, AdminServer
from tracker.errors import ConfigurationError, HeldByAnother, StopRequested

HEALTHZ = b"GET /healthz HTTP/1.1\r\nHost: a.example\r\n\r\n"
HALF = HEALTHZ[:-2]


class Service:
    """What the listener asks, and where it listens."""

    def __init__(self, port: int) -> None:
        self.ready = True
        self.detail: dict[str, Any] = {}
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self.refreshed = 0
        self.refreshing = asyncio.Event()
        self.refreshing.set()
        self.registry = prometheus_client.CollectorRegistry()
        self.registry.register(telemetry.ADMIN_CONNECTIONS_CUT)
        self.server = AdminServer(
            host="127.0.0.1",
            port=port,
            ready=self.readiness,
            registry=self.registry,
            refresh=self.refresh,
        )
        self.stop = asyncio.Event()

    def readiness(self) -> tuple[bool, dict[str, Any]]:
        return self.ready, self.detail

    async def refresh(self) -> None:
        self.refreshed += 1
        await self.refreshing.wait()

    async def start(self) -> None:
        await self.server.start(self.stop)


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    service = Service(free_port())
    await service.start()
    async with asyncio.timeout(60):
        yield service
    await service.server.stop()


@pytest.fixture
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


class Visitor:
    """A connection to the listener, byte by byte."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def connect(cls, service: Service, *, limit: int = 1 << 16) -> "Visitor":
        return cls(*await asyncio.open_connection("127.0.0.1", service.port, limit=limit))

    async def answer(self) -> bytes:
        """All there is to read until the listener closes its half; nothing when it cuts the connection."""
        try:
            async with asyncio.timeout(30):
                return await self.reader.read()
        except ConnectionError:
            return b""
        finally:
            self.writer.close()

    async def write_until_cut(self) -> None:
        """Send a byte now and then; returns when the listener has closed both halves of the connection."""
        with contextlib.suppress(ConnectionError):
            async with asyncio.timeout(30):
                while True:
                    self.writer.write(b"x")
                    await self.writer.drain()
                    await asyncio.sleep(0.01)
        self.writer.close()


async def exchange(service: Service, request: bytes) -> bytes:
    visitor = await Visitor.connect(service)
    visitor.writer.write(request)
    return await visitor.answer()


def cut() -> int:
    return telemetry.total(telemetry.ADMIN_CONNECTIONS_CUT)


async def test_healthz_is_about_the_process_alone(service: Service, client: aiohttp.ClientSession) -> None:
    service.ready = False
    async with client.get(f"{service.url}/healthz") as reply:
        assert (reply.status, await reply.json()) == (200, {"alive": True})


async def test_readyz_says_what_the_service_says(service: Service, client: aiohttp.ClientSession) -> None:
    async with client.get(f"{service.url}/readyz") as reply:
        assert (reply.status, await reply.json()) == (200, {"ready": True})
    service.ready, service.detail = False, {"log": "no room on the disk"}
    async with client.get(f"{service.url}/readyz") as reply:
        assert (reply.status, await reply.json()) == (503, {"ready": False, "log": "no room on the disk"})


async def test_metrics_are_prometheus_text(client: aiohttp.ClientSession) -> None:
    service = Service(free_port())
    service.server = AdminServer(
        host="127.0.0.1", port=service.port, ready=lambda: (True, {}), registry=telemetry.PIXEL, refresh=service.refresh
    )
    await service.start()
    telemetry.DISCARDED.labels("privacy").inc(0)
    async with client.get(f"{service.url}/metrics?x=1") as reply:
        text = await reply.text()
        assert (reply.status, reply.content_type) == (200, "text/plain")
    assert (
        "# HELP tracker_pixel_visits_accepted_total Visits that were appended to the outbox before the GIF was sent."
        in text
    )
    assert 'tracker_pixel_visits_discarded_total{reason="privacy"}' in text
    assert "_created" not in text
    assert service.refreshed == 1
    await service.server.stop()


async def test_metrics_are_given_as_last_known_when_they_cannot_be_refreshed(
    service: Service, client: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admin, "REFRESH_SECONDS", 0.05)
    service.refreshing.clear()
    async with client.get(f"{service.url}/metrics") as reply:
        assert reply.status == 200
        assert "tracker_admin_connections_cut_total" in await reply.text()


async def test_head_is_answered_like_get_without_the_body(service: Service, client: aiohttp.ClientSession) -> None:
    for path in ("healthz", "readyz", "metrics"):
        async with client.head(f"{service.url}/{path}") as reply:
            assert reply.status == 200
            assert int(reply.headers["Content-Length"]) > 0
            assert await reply.read() == b""


async def test_nothing_else_is_there(service: Service, client: aiohttp.ClientSession) -> None:
    for method, path, status in (
        ("GET", "track", 404),
        ("GET", "", 404),
        ("GET", "healthz/", 404),
        ("POST", "track", 404),
        ("POST", "readyz", 405),
        ("DELETE", "metrics", 405),
        ("OPTIONS", "healthz", 405),
    ):
        async with client.request(method, f"{service.url}/{path}") as reply:
            assert reply.status == status, (method, path)
            assert (reply.headers.get("Allow") == "GET,HEAD") == (status == 405)


@pytest.mark.parametrize(
    "request_head",
    [
        b"\r\n\r\n",
        b"GET /healthz\r\n\r\n",
        b"GET /healthz HTTP/2.0\r\n\r\n",
        b"\x16\x03\x01 a \r\n\r\n",
        b"GET  / HTTP/1.1\r\n\r\n",
    ],
)
async def test_what_is_no_request_is_answered_400(service: Service, request_head: bytes) -> None:
    assert (await exchange(service, request_head)).startswith(b"HTTP/1.1 400 Bad Request\r\n")


async def test_a_fault_of_the_service_is_answered_500_and_the_next_request_is_answered(
    service: Service, client: aiohttp.ClientSession
) -> None:
    service.detail = {"publish_error": object()}
    async with client.get(f"{service.url}/readyz") as reply:
        assert reply.status == 500
    async with client.get(f"{service.url}/healthz") as reply:
        assert reply.status == 200


@pytest.mark.parametrize("version", [b"HTTP/1.0", b"HTTP/1.1"])
async def test_a_connection_carries_one_request_and_says_so(service: Service, version: bytes) -> None:
    answer = await exchange(service, HEALTHZ.replace(b"HTTP/1.1", version) * 3)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"\r\nConnection: close" in head
    assert body == b'{"alive": true}'


async def test_a_request_byte_by_byte_is_answered(service: Service) -> None:
    visitor = await Visitor.connect(service)
    for byte in HEALTHZ:
        visitor.writer.write(bytes([byte]))
        await visitor.writer.drain()
        await asyncio.sleep(0)
    assert (await visitor.answer()).endswith(b'{"alive": true}')


async def test_a_client_that_closes_its_half_behind_the_request_is_answered(service: Service) -> None:
    visitor = await Visitor.connect(service)
    visitor.writer.write(HEALTHZ)
    visitor.writer.write_eof()
    assert (await visitor.answer()).startswith(b"HTTP/1.1 200 OK\r\n")


async def test_a_client_that_closes_its_half_while_its_answer_is_made_is_answered(service: Service) -> None:
    service.refreshing.clear()
    visitor = await Visitor.connect(service)
    visitor.writer.write(HEALTHZ.replace(b"healthz", b"metrics"))
    await until(lambda: service.refreshed == 1)
    visitor.writer.write_eof()
    asyncio.get_running_loop().call_later(0.1, service.refreshing.set)  # the listener has seen the end of the half
    assert (await visitor.answer()).startswith(b"HTTP/1.1 200 OK\r\n")


@pytest.mark.parametrize(
    "headers",
    [
        b"Content-Length: 3000000\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Content-Encoding: gzip\r\nContent-Length: 3000000\r\n",
        b"Content-Length: 3000000\r\nExpect: 100-continue\r\n",
    ],
)
async def test_a_body_is_dropped_and_the_request_answered(service: Service, headers: bytes) -> None:
    request = HEALTHZ[:-2] + headers + b"\r\n" + b"x" * 3_000_000
    assert (await exchange(service, request)).endswith(b'{"alive": true}')


@pytest.mark.parametrize("whole", [True, False], ids=["whole", "never ending"])
async def test_a_request_of_more_than_its_bound_is_answered_431(service: Service, whole: bool) -> None:
    request = HALF + b"X: " + b"x" * MAX_HEAD_BYTES + (b"\r\n\r\n" if whole else b"x" * 1_000_000)
    assert (await exchange(service, request)).startswith(b"HTTP/1.1 431 ")


async def test_a_request_of_its_bound_is_answered(service: Service) -> None:
    filler = b"X: " + b"x" * (MAX_HEAD_BYTES - len(HALF) - 7) + b"\r\n\r\n"
    assert len(HALF + filler) == MAX_HEAD_BYTES
    assert (await exchange(service, HALF + filler)).endswith(b'{"alive": true}')


@pytest.mark.parametrize("begin", [b"", HALF, HALF + b"X: x" * 100], ids=["silent", "half", "half, and long"])
async def test_who_does_not_finish_a_request_is_cut_and_counted(
    service: Service, monkeypatch: pytest.MonkeyPatch, begin: bytes
) -> None:
    monkeypatch.setattr(admin, "CONNECTION_SECONDS", 0.1)
    before = cut()
    visitor = await Visitor.connect(service)
    visitor.writer.write(begin)
    assert await visitor.answer() == b""
    assert cut() == before + 1


async def test_who_sends_a_request_drop_by_drop_for_too_long_is_cut(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admin, "CONNECTION_SECONDS", 0.2)
    visitor = await Visitor.connect(service)
    await visitor.write_until_cut()


async def test_who_does_not_read_the_answer_is_cut_and_counted(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admin, "CONNECTION_SECONDS", 0.5)
    # More than the buffers of the system hold.
    prometheus_client.Gauge("large", "x" * 20_000_000, registry=service.registry)
    before = cut()
    visitor = await Visitor.connect(service, limit=1_000)
    visitor.writer.write(b"GET /metrics HTTP/1.1\r\n\r\n")
    await until(lambda: cut() == before + 1)
    assert len(await visitor.answer()) < 20_000_000


async def test_who_has_the_answer_and_stays_is_cut_and_not_counted(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admin, "CONNECTION_SECONDS", 0.2)
    before = cut()
    visitor = await Visitor.connect(service)
    visitor.writer.write(HEALTHZ)
    assert (await visitor.reader.read()).endswith(b'{"alive": true}')
    await visitor.write_until_cut()
    assert cut() == before


async def test_beyond_its_connections_the_oldest_is_cut_and_the_new_one_answered(service: Service) -> None:
    visitors = [await Visitor.connect(service) for _ in range(MAX_CONNECTIONS)]
    for visitor in visitors:
        visitor.writer.write(HALF)
    before = cut()
    assert (await exchange(service, HEALTHZ)).endswith(b'{"alive": true}')
    await until(lambda: cut() == before + 1)
    assert await visitors[0].answer() == b""
    for visitor in visitors[1:]:
        visitor.writer.write(b"\r\n")
        assert (await visitor.answer()).endswith(b'{"alive": true}')


async def test_who_waits_for_an_answer_is_not_cut_for_the_sake_of_others(service: Service) -> None:
    service.refreshing.clear()
    scrape = await Visitor.connect(service)
    scrape.writer.write(b"GET /metrics HTTP/1.1\r\n\r\n")
    await until(lambda: service.refreshed == 1)
    flood = [await Visitor.connect(service) for _ in range(2 * MAX_CONNECTIONS)]
    service.refreshing.set()
    assert (await scrape.answer()).startswith(b"HTTP/1.1 200 OK\r\n")
    for visitor in flood:
        visitor.writer.close()


async def test_with_few_open_files_it_takes_fewer_connections_and_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(admin, "raise_open_files", lambda: 32)
    service = Service(free_port())
    await service.start()
    assert "open_files_limited limit=32" in caplog.text
    visitors = [await Visitor.connect(service) for _ in range(5)]
    assert await visitors[0].answer() == b""
    visitors[1].writer.write(HEALTHZ)
    assert (await visitors[1].answer()).endswith(b'{"alive": true}')
    for visitor in visitors:
        visitor.writer.close()
    await service.server.stop()


async def test_a_port_that_another_process_holds_is_waited_for(
    service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    again = Service(service.port)
    starting = asyncio.create_task(again.start())
    await until(lambda: "start_delayed" in caplog.text)
    await service.server.stop()
    await starting
    assert (await exchange(again, HEALTHZ)).endswith(b'{"alive": true}')
    await again.server.stop()


async def test_a_port_that_is_taken_is_waited_for_until_a_stop_and_reported_with_its_key(service: Service) -> None:
    again = Service(service.port)
    again.stop.set()
    with pytest.raises(StopRequested) as caught:
        await again.start()
    assert isinstance(caught.value.__cause__, HeldByAnother)
    expected = f"admin.port: expected a free port, cannot listen on 127.0.0.1:{service.port}: "
    assert str(caught.value.__cause__).startswith(expected)


async def test_a_host_that_is_none_is_a_configuration_error(free_port: int) -> None:
    server = AdminServer(host="256.0.0.1", port=free_port, ready=lambda: (True, {}), registry=telemetry.PIXEL)
    with pytest.raises(ConfigurationError, match=rf"^admin\.host: .*cannot listen on 256\.0\.0\.1:{free_port}:"):
        await server.start(asyncio.Event())


async def test_it_answers_by_both_ip_versions(free_port: int, client: aiohttp.ClientSession) -> None:
    server = AdminServer(host="*", port=free_port, ready=lambda: (True, {}), registry=telemetry.PIXEL)
    await server.start(asyncio.Event())
    for host in ("127.0.0.1", "[::1]"):
        async with client.get(f"http://{host}:{free_port}/healthz") as reply:
            assert reply.status == 200
    await server.stop()


async def test_stopping_frees_the_port_and_ends_what_is_connected(service: Service) -> None:
    visitor = await Visitor.connect(service)
    visitor.writer.write(HALF)
    assert (await exchange(service, HEALTHZ)).startswith(b"HTTP/1.1 200")
    await service.server.stop()
    assert await visitor.answer() == b""
    again = Service(service.port)
    await again.start()
    await again.server.stop()


# A service on the services' own loop, with no descriptor left until it reads a line.
WITHOUT_DESCRIPTORS = """
import asyncio, os, resource, sys, time, uvloop
import prometheus_client
from tracker.admin import AdminServer

async def main(port):
    server = AdminServer(
        host="127.0.0.1", port=port, ready=lambda: (True, {}), registry=prometheus_client.CollectorRegistry()
    )
    await server.start(asyncio.Event())
    lines = asyncio.Event()
    asyncio.get_running_loop().add_reader(0, lines.set)
    taken = []
    try:
        while True:
            taken.append(os.open("/dev/null", os.O_RDONLY))
    except OSError:
        print("full", flush=True)
    before = time.process_time()
    await lines.wait()
    print(time.process_time() - before, flush=True)
    for each in taken:
        os.close(each)
    asyncio.get_running_loop().remove_reader(0)
    await asyncio.sleep(60)

resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
uvloop.run(main(int(sys.argv[1])))
"""


async def test_a_process_without_descriptors_goes_on_listening_and_does_not_spin(free_port: int) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", WITHOUT_DESCRIPTORS, str(free_port)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        async with asyncio.timeout(60):
            assert await process.stdout.readline() == b"full\n"
            service = Service(free_port)
            for _ in range(20):
                assert await exchange(service, HEALTHZ) == b""
            await asyncio.sleep(1.0)  # the time in which a loop that spins would take a second of the processor
            process.stdin.write(b"\n")
            assert float(await process.stdout.readline()) < 0.5
            await until(lambda: exchange(service, HEALTHZ), 60)
    finally:
        process.kill()
        await process.wait()
