"""The admin listener of both services: /healthz, /readyz and /metrics, apart from the public port."""

from collections.abc import Callable
from typing import Any

import prometheus_client
from aiohttp import web

from tracker.errors import ConfigurationError

Readiness = Callable[[], tuple[bool, dict[str, Any]]]


class AdminServer:
    """Serves health and metrics; `ready` tells whether the service may be sent work, and what it knows of itself."""

    def __init__(self, *, host: str, port: int, ready: Readiness) -> None:
        self._host = host
        self._port = port
        self._ready = ready
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
            raise ConfigurationError(f"admin: cannot listen on {self._host}:{self._port}: {error.strerror}") from error

    async def stop(self) -> None:
        await self._runner.cleanup()

    async def _healthz(self, request: web.Request) -> web.Response:
        return web.json_response({"alive": True})

    async def _readyz(self, request: web.Request) -> web.Response:
        ready, detail = self._ready()
        return web.json_response({"ready": ready, **detail}, status=200 if ready else 503)

    async def _metrics(self, request: web.Request) -> web.Response:
        body = prometheus_client.generate_latest()
        return web.Response(body=body, headers={"Content-Type": prometheus_client.CONTENT_TYPE_LATEST})
