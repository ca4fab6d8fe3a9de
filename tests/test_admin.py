"""The admin listener: statuses and bodies of /healthz, /readyz and /metrics."""

from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from tracker import telemetry
from tracker.admin import AdminServer
from tracker.errors import ConfigurationError


class Service:
    """What the listener asks, and where it listens."""

    def __init__(self, port: int) -> None:
        self.ready = True
        self.detail: dict[str, Any] = {}
        self.url = f"http://127.0.0.1:{port}"
        self.refreshed = 0
        self.server = AdminServer(
            host="127.0.0.1",
            port=port,
            ready=lambda: (self.ready, self.detail),
            registry=telemetry.PIXEL,
            refresh=self.refresh,
        )

    async def refresh(self) -> None:
        self.refreshed += 1


@pytest.fixture
async def service(free_port: int) -> AsyncIterator[Service]:
    service = Service(free_port)
    await service.server.start()
    yield service
    await service.server.stop()


@pytest.fixture
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


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


async def test_metrics_are_prometheus_text(service: Service, client: aiohttp.ClientSession) -> None:
    telemetry.DISCARDED.labels("privacy").inc(0)
    async with client.get(f"{service.url}/metrics") as reply:
        text = await reply.text()
        assert (reply.status, reply.content_type) == (200, "text/plain")
    assert "# HELP tracker_pixel_visits_accepted_total Visits appended to the outbox before their GIF left." in text
    assert 'tracker_pixel_visits_discarded_total{reason="privacy"}' in text
    assert "_created" not in text
    assert service.refreshed == 1


async def test_nothing_else_is_there(service: Service, client: aiohttp.ClientSession) -> None:
    async with client.get(f"{service.url}/track") as reply:
        assert reply.status == 404
    async with client.post(f"{service.url}/readyz") as reply:
        assert reply.status == 405


async def test_a_port_that_is_taken_is_a_configuration_error(service: Service) -> None:
    port = int(service.url.rpartition(":")[2])
    with pytest.raises(
        ConfigurationError, match=rf"^admin.port: expected a free address, cannot listen on 127\.0\.0\.1:{port}: .+"
    ):
        await Service(port).server.start()


async def test_a_host_that_is_none_is_a_configuration_error(free_port: int) -> None:
    server = AdminServer(host="256.0.0.1", port=free_port, ready=lambda: (True, {}), registry=telemetry.PIXEL)
    with pytest.raises(
        ConfigurationError, match=r"^admin.port: expected a free address, cannot listen on 256\.0\.0\.1:"
    ):
        await server.start()


async def test_stopping_frees_the_port(service: Service) -> None:
    await service.server.stop()
    again = Service(int(service.url.rpartition(":")[2]))
    await again.server.start()
    await again.server.stop()
