"""The admin listener of both services: /healthz, /readyz and /metrics, on a port that is not the public one.

A client of this listener must not be able to stop the service. So it implements only as much HTTP as its three paths
need, and everything on it has a limit:

1. A connection carries one request. Its answer says `Connection: close`.
2. The request is read up to the empty line behind its headers, at most `MAX_HEAD_BYTES`. Only its method and its path
   matter. What follows, a body or another request, is read and dropped, never kept or decoded.
3. The answer is written and our half of the connection is closed. The client closes the other half. (Closing both
   halves at once, with unread bytes, would make the system reset the connection and lose the answer.)
4. A connection that is still open `CONNECTION_SECONDS` after it was made is closed, whatever it is doing.
5. At most `MAX_CONNECTIONS` are open. When one more is made, the oldest one whose answer is not being made is closed.
   A probe or a scrape sends its request at once, so it is answered even during a flood of connections.
"""

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any, NamedTuple, cast

import prometheus_client

from tracker import telemetry
from tracker.files import raise_open_files
from tracker.lifecycle import wait_while_held
from tracker.listening import listen

log = logging.getLogger(__name__)

Readiness = Callable[[], tuple[bool, dict[str, Any]]]
Refresh = Callable[[], Awaitable[None]]

REFRESH_SECONDS = 1.0  # at most; if a disk hangs, the metrics are given without a refresh
CONNECTION_SECONDS = 10.0
MAX_CONNECTIONS = 64
MAX_HEAD_BYTES = 16_384
FILES_SHARE = 8  # connections use at most one eighth of the files that the process may open; the service needs the rest
BACKLOG = 1_024
"""How many connections the system completes before they are accepted. They need no descriptors. With a short backlog
the system would drop the SYN of a probe during a flood, and the probe repeats it only after a second."""

END_OF_HEAD = b"\r\n\r\n"


async def _no_refresh() -> None:
    """The refresh of metrics that are always up to date."""


class _Answer(NamedTuple):
    status: HTTPStatus
    content_type: str
    body: bytes
    more: str = ""  # further header lines, each with its line end

    def render(self, *, body: bool) -> bytes:
        """The bytes to send. An answer to HEAD has no `body`, but the length of one."""
        head = (
            f"HTTP/1.1 {self.status.value} {self.status.phrase}\r\nContent-Type: {self.content_type}\r\n"
            f"Content-Length: {len(self.body)}\r\n{self.more}Connection: close\r\n\r\n"
        )
        return head.encode("ascii") + (self.body if body else b"")


def _plain(status: HTTPStatus, more: str = "") -> _Answer:
    text = f"{status.value}: {status.phrase}\n"
    return _Answer(status, "text/plain; charset=utf-8", text.encode("ascii"), more)


def _json(status: HTTPStatus, document: dict[str, Any]) -> _Answer:
    return _Answer(status, "application/json; charset=utf-8", json.dumps(document).encode("utf-8"))


class AdminServer:
    """Serves health and metrics.

    `ready` returns whether the service is ready for work, and details of its state. `refresh` updates the metrics of
    `registry` before they are read.
    """

    def __init__(
        self,
        *,
        host: str,
        port: int,
        ready: Readiness,
        registry: prometheus_client.CollectorRegistry,
        refresh: Refresh = _no_refresh,
    ) -> None:
        self._host = host
        self._port = port
        self._ready = ready
        self._registry = registry
        self._refresh = refresh
        self._paths = {b"/healthz": self._healthz, b"/readyz": self._readyz, b"/metrics": self._metrics}
        self._max_connections = MAX_CONNECTIONS
        self._connections: dict[_Connection, None] = {}  # in the order in which they were made
        self._server: asyncio.Server | None = None

    async def start(self, stop: asyncio.Event) -> None:
        """Listen. Waits for an address that another process holds, until `stop` is set.

        Raises HeldByAnother when it is held for too long, ConfigurationError when it can never be used.
        """
        open_files = raise_open_files()
        self._max_connections = max(1, min(MAX_CONNECTIONS, open_files // FILES_SHARE))
        if self._max_connections < MAX_CONNECTIONS:
            log.warning(
                "open_files_limited limit=%d connections=%d needed=%d; This process may open few files. So the admin "
                "listener accepts fewer connections, and leaves files for the service. Raise the limit of open files.",
                open_files,
                self._max_connections,
                MAX_CONNECTIONS * FILES_SHARE,
            )
        listener = await wait_while_held(lambda: listen("admin", self._host, self._port, BACKLOG), stop)
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Connection(self), sock=listener, backlog=BACKLOG)

    async def stop(self) -> None:
        """Stop listening and end every connection."""
        if self._server is None:
            return
        self._server.close()
        for connection in list(self._connections):
            connection.end()
        await asyncio.sleep(0)  # the transports close in the loop's next pass

    def opened(self, connection: "_Connection") -> None:
        """Add a connection. Beyond the limit the oldest one that does not wait for its answer is closed."""
        if len(self._connections) >= self._max_connections:
            waiting = (each for each in self._connections if not each.answering)
            next(waiting, next(iter(self._connections))).cut()
        self._connections[connection] = None

    def closed(self, connection: "_Connection") -> None:
        self._connections.pop(connection, None)

    async def answer(self, head: bytes) -> bytes:
        """The bytes of the answer to a request. `head` is the request up to and including the empty line.

        If `head` has no empty line, the request was too long.
        """
        if len(head) > MAX_HEAD_BYTES or END_OF_HEAD not in head:
            return _plain(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE).render(body=True)
        words = head.partition(b"\r\n")[0].split(b" ")
        if len(words) != 3 or not words[2].startswith(b"HTTP/1."):
            return _plain(HTTPStatus.BAD_REQUEST).render(body=True)
        method, target, _ = words
        return (await self._respond(method, target.partition(b"?")[0])).render(body=method != b"HEAD")

    async def _respond(self, method: bytes, path: bytes) -> _Answer:
        respond = self._paths.get(path)
        if respond is None:
            return _plain(HTTPStatus.NOT_FOUND)
        if method not in (b"GET", b"HEAD"):
            return _plain(HTTPStatus.METHOD_NOT_ALLOWED, "Allow: GET,HEAD\r\n")
        try:
            return await respond()
        except Exception:
            log.exception(
                "admin_answer_failed path=%s; The answer was status 500. This is a fault in the code: report it.",
                path.decode("ascii"),
            )
            return _plain(HTTPStatus.INTERNAL_SERVER_ERROR)

    async def _healthz(self) -> _Answer:
        return _json(HTTPStatus.OK, {"alive": True})

    async def _readyz(self) -> _Answer:
        ready, detail = self._ready()
        return _json(HTTPStatus.OK if ready else HTTPStatus.SERVICE_UNAVAILABLE, {"ready": ready, **detail})

    async def _metrics(self) -> _Answer:
        try:
            async with asyncio.timeout(REFRESH_SECONDS):
                await self._refresh()
        except TimeoutError:
            pass  # the values of the last refresh are given
        # There is no await between one metric and the next, so all values are from the same moment.
        body = prometheus_client.generate_latest(self._registry)
        return _Answer(HTTPStatus.OK, prometheus_client.CONTENT_TYPE_LATEST, body)


class _Connection(asyncio.Protocol):
    """One request and its answer."""

    def __init__(self, server: AdminServer) -> None:
        self._server = server
        self._head = bytearray()
        self._answer: asyncio.Task[None] | None = None
        self._eof = False  # whether the client has closed its half

    @property
    def answering(self) -> bool:
        """Whether its request is whole and its answer is being made."""
        return self._answer is not None and not self._answer.done()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._timer = asyncio.get_running_loop().call_later(CONNECTION_SECONDS, self.cut)
        self._server.opened(self)

    def data_received(self, data: bytes) -> None:
        if self._answer is not None:
            return
        searched = max(0, len(self._head) - len(END_OF_HEAD))
        self._head += data
        if (end := self._head.find(END_OF_HEAD, searched)) >= 0:
            del self._head[end + len(END_OF_HEAD) :]
        elif len(self._head) <= MAX_HEAD_BYTES:
            return
        head = bytes(self._head[: MAX_HEAD_BYTES + 1])
        self._head.clear()
        self._answer = asyncio.create_task(self._write_answer(head))

    def eof_received(self) -> bool:
        self._eof = True
        return self.answering  # whether the transport stays open

    def connection_lost(self, error: Exception | None) -> None:
        self._timer.cancel()
        if self._answer is not None:
            self._answer.cancel()
        self._server.closed(self)

    def cut(self) -> None:
        """Close the connection before its end. It is counted if the client has not got the whole answer."""
        if self._answer is None or self.answering or self._transport.get_write_buffer_size():
            telemetry.ADMIN_CONNECTIONS_CUT.inc()
        self.end()

    def end(self) -> None:
        self._server.closed(self)  # not left to connection_lost, which is called only in the loop's next pass
        self._transport.abort()

    async def _write_answer(self, head: bytes) -> None:
        answer = await self._server.answer(head)
        if self._transport.is_closing():
            return
        self._transport.write(answer)
        if self._eof:
            self._transport.close()
        else:
            self._transport.write_eof()
