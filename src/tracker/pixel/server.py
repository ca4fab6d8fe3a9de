"""The public listener of a worker: `GET /track` becomes one line in the journal and a 1x1 GIF, in that order.

Every connection begins in the fast lane, which knows one shape of request; the first byte of anything else moves it to
aiohttp, for good. Nothing in either waits for anything but the visitor's own socket.
"""

import asyncio
import importlib
import logging
import socket
from typing import TYPE_CHECKING

from tracker.config import PixelConfig
from tracker.lifecycle import Deadline, wait_for_event
from tracker.pixel.collector import Collector
from tracker.pixel.fast_lane import FastConnection, FastLane
from tracker.pixel.recorder import Recorder

if TYPE_CHECKING:
    from tracker.pixel.http_lane import HttpLane

log = logging.getLogger("tracker.pixel.server")

SILENT_SECONDS = 2.0


class PixelServer:
    """Answers the public port for one worker, on at most `max_connections` at a time."""

    def __init__(self, *, config: PixelConfig, recorder: Recorder, max_connections: int) -> None:
        self._config = config.http
        self._recorder = recorder
        self._collector = Collector(config=config, recorder=recorder)
        self._max_connections = max_connections
        self._open = 0  # connections, in both lanes
        self._none_open = asyncio.Event()
        self._none_open.set()
        self._full = False
        self._draining = False
        self._http: HttpLane | None = None
        self._fast = FastLane(
            path=config.http.path,
            collector=self._collector,
            recorder=recorder,
            keepalive_timeout=config.http.keepalive_timeout,
            admit=self._admit,
            on_lost=self._lost,
            successor=lambda: self._http_lane().connection(),
        )
        self._server: asyncio.Server | None = None

    async def start(self, listener: socket.socket, backlog: int) -> None:
        """Accept from the inherited `listener`."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: FastConnection(self._fast), sock=listener, backlog=backlog)
        # aiohttp takes longer to import than a visitor should wait for the first GIF, and a plain one does not need it.
        loop.run_in_executor(None, importlib.import_module, "tracker.pixel.http_lane")

    async def stop(self, seconds: float) -> None:
        """Stop accepting, let the connections end, and close what is left of them; within `seconds`.

        Whoever asks once more is told `Connection: close`. Those that stay silent for `SILENT_SECONDS` are idle, and
        closed; a request that has begun is finished. Nothing in the system's queue is lost: others accept from it.
        """
        deadline = Deadline(seconds)
        if self._server is not None:
            self._server.close()
        self._draining = True
        self._fast.drain()
        if self._http is not None:
            self._http.drain()
        await wait_for_event(self._none_open, min(SILENT_SECONDS, seconds / 2))
        self._fast.close()
        if self._http is not None:
            await self._http.close(deadline.remaining() / 2)  # aiohttp may take it twice

    def _http_lane(self) -> "HttpLane":
        if self._http is None:
            from tracker.pixel.http_lane import HttpLane

            self._http = HttpLane(
                path=self._config.path,
                collector=self._collector,
                recorder=self._recorder,
                keepalive_timeout=self._config.keepalive_timeout,
                on_lost=self._lost,
            )
            if self._draining:
                self._http.drain()
        return self._http

    def _admit(self) -> bool:
        """Whether there is a place for one more connection; then it is taken."""
        full = self._open >= self._max_connections
        if full and not self._full:
            log.warning("connections_full limit=%d; further ones are closed until others end", self._max_connections)
        self._full = full
        self._open += not full
        self._none_open.clear()
        return not full

    def _lost(self) -> None:
        self._open -= 1
        if not self._open:
            self._none_open.set()
