"""The public listener of a worker: `GET /track` becomes one line in the journal and a 1x1 GIF, in that order.

It opens and closes; what happens on a connection in between is in `tracker.pixel.connections`. Nothing there waits for
anything but the visitor's own socket.
"""

import asyncio
import importlib
import logging
import socket

from tracker.config import PixelConfig
from tracker.core.discards import TOO_MANY
from tracker.lifecycle import Deadline, wait_for_event
from tracker.pixel.collector import Collector
from tracker.pixel.connections import RECEIVE_BYTES, Connection, Connections
from tracker.pixel.recorder import Recorder

log = logging.getLogger("tracker.pixel.server")

SILENT_SECONDS = 2.0


class PixelServer:
    """Answers the public port for one worker, on at most `max_connections` at a time."""

    def __init__(self, *, config: PixelConfig, recorder: Recorder, max_connections: int) -> None:
        self._recorder = recorder
        self._max_connections = max_connections
        self._open = 0  # connections that were admitted and are not lost
        self._none_open = asyncio.Event()
        self._none_open.set()
        self._full = False
        self._connections = Connections(
            path=config.http.path,
            collector=Collector(config=config, recorder=recorder),
            recorder=recorder,
            keepalive_timeout=config.http.keepalive_timeout,
            admit=self._admit,
            on_lost=self._lost,
        )
        self._server: asyncio.Server | None = None

    async def start(self, listener: socket.socket, backlog: int) -> None:
        """Accept from the inherited `listener`."""
        loop = asyncio.get_running_loop()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BYTES)  # its connections inherit it
        self._server = await loop.create_server(lambda: Connection(self._connections), sock=listener, backlog=backlog)
        # aiohttp takes longer to import than a visitor should wait for the first GIF, and a plain one does not need it.
        loop.run_in_executor(None, importlib.import_module, "tracker.pixel.fallback")

    async def stop(self, seconds: float) -> None:
        """Stop accepting, let the connections end, and close what is left of them; within `seconds`.

        Whoever asks once more is told `Connection: close`. Those that stay silent for `SILENT_SECONDS` are idle, and
        closed; answers that have not left yet have the rest of the time. Nothing in the system's queue is lost: others
        accept from it.
        """
        deadline = Deadline(seconds)
        if self._server is not None:
            self._server.close()
        self._connections.drain()
        await wait_for_event(self._none_open, min(SILENT_SECONDS, seconds / 2))
        self._connections.close()
        await wait_for_event(self._none_open, deadline.remaining())
        self._connections.abort()

    def _admit(self) -> bool:
        """Whether there is a place for one more connection; then it is taken."""
        full = self._open >= self._max_connections
        if full:
            self._recorder.count_refused_connection(TOO_MANY)
            if not self._full:
                log.warning(
                    "connections_full limit=%d; further ones are closed until others end", self._max_connections
                )
        self._full = full
        self._open += not full
        self._none_open.clear()
        return not full

    def _lost(self) -> None:
        self._open -= 1
        if not self._open:
            self._none_open.set()
