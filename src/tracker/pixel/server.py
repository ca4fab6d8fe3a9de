"""The public server of a worker: it accepts connections, limits their number and closes them at a stop.

`connection` answers the requests of one connection. A stop has these steps:

1. Accept no more connections. Those in the system's queue are not lost: other workers accept from it. One that was
   accepted a moment ago is answered.
2. The next answer of each connection says ``Connection: close``, and the connection is closed.
3. After SILENT_SECONDS, or half of the time if that is less, the connections that have sent nothing are closed.
4. Connections with answers that are not sent yet have the rest of the time. Then they are aborted.
"""

import asyncio
import importlib
import logging
import socket

from tracker.config import PixelConfig
from tracker.core.discards import TOO_MANY
from tracker.lifecycle import Deadline, wait_for_event
from tracker.pixel.collector import Collector
from tracker.pixel.connection import Connection
from tracker.pixel.connections import Connections
from tracker.pixel.limits import RECEIVE_BYTES
from tracker.pixel.recorder import Recorder

log = logging.getLogger(__name__)

SILENT_SECONDS = 2.0


class PixelServer:
    """Answers the public port for one worker, on at most `max_connections` at a time."""

    def __init__(self, *, config: PixelConfig, recorder: Recorder, max_connections: int) -> None:
        self._recorder = recorder
        self._max_connections = max_connections
        self._open = 0  # connections that were admitted and have not ended
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
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BYTES)  # each accepted connection inherits it
        self._server = await loop.create_server(lambda: Connection(self._connections), sock=listener, backlog=backlog)
        # Import aiohttp in a thread, beside the first answers: it takes long, and plain requests do not need it.
        loop.run_in_executor(None, importlib.import_module, "tracker.pixel.fallback")

    async def stop(self, seconds: float) -> None:
        """Stop accepting, and end all connections within `seconds`, in the steps above."""
        deadline = Deadline(seconds)
        if self._server is not None:
            self._server.close()
            await asyncio.sleep(0)  # the loop makes a connection in the pass after the one that has accepted it
        self._connections.drain()
        await wait_for_event(self._none_open, min(SILENT_SECONDS, seconds / 2))
        self._connections.close()
        await wait_for_event(self._none_open, deadline.remaining())
        self._connections.abort()

    def _admit(self) -> bool:
        """Whether one more connection is allowed. If it is, count it as open."""
        full = self._open >= self._max_connections
        if full:
            self._recorder.count_refused_connection(TOO_MANY)
            if not self._full:
                log.warning(
                    "connections_exhausted limit=%d; This worker has as many connections as it may have. New ones are "
                    "closed without an answer until others end. Allow the service more open files, or add workers.",
                    self._max_connections,
                )
        self._full = full
        self._open += not full
        self._none_open.clear()
        return not full

    def _lost(self) -> None:
        self._open -= 1
        if not self._open:
            self._none_open.set()
