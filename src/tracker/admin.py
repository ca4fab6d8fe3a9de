"""The admin listener of both services: /healthz, /readyz and /metrics, apart from the public port."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import prometheus_client
from aiohttp import web

from tracker.errors import ConfigurationError
from tracker.files import reason

Readiness = Callable[[], tuple[bool, dict[str, Any]]]
Refresh = Callable[[], Awaitable[None]]

REFRESH_SECONDS = 1.0  # a disk that hangs keeps no figure from being seen


async def _nothing() -> None:
    """What needs no refreshing."""


class AdminServer:
    """Serves health and metrics.

    `ready` tells whether the service may be sent work, and what it knows of itself; `refresh` brings the metrics of
    `registry` up to date before they are told.
    """

    def __init__(
        self,
        *,
        host: str,
        port: int,
        ready: Readiness,
        registry: prometheus_client.CollectorRegistry,
        refresh: Refresh = _nothing,
    ) -> None:
        self._host = host
        self._port = port
        self._ready = ready
        self._registry = registry
        self._refresh = refresh
        app = web.Application()
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_get("/metrics", self._metrics)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)

    async def start(self) -> None:
        """Listen; raises ConfigurationError when the address cannot be had."""
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, self._host, self._port).start()
        except OSError as error:
            await self._runner.cleanup()
            raise ConfigurationError(
                f"admin.port: expected a free address, cannot listen on {self._host}:{self._port}: {reason(error)}"
            ) from error

    async def stop(self) -> None:
        await self._runner.cleanup()

    async def _healthz(self, request: web.Request) -> web.Response:
        return web.json_response({"alive": True})

    async def _readyz(self, request: web.Request) -> web.Response:
        ready, detail = self._ready()
        return web.json_response({"ready": ready, **detail}, status=200 if ready else 503)

    async def _metrics(self, request: web.Request) -> web.Response:
        try:
            async with asyncio.timeout(REFRESH_SECONDS):
                await self._refresh()
        except TimeoutError:
            pass  # what was known last
        # Without a wait between one metric and the next: all of it is of one moment.
        body = prometheus_client.generate_latest(self._registry)
        return web.Response(body=body, headers={"Content-Type": prometheus_client.CONTENT_TYPE_LATEST})
