"""A connection of HTTP/1.1 as botocore and http.client use it: one request after the other, with a Content-Length."""

import asyncio
import re
from collections.abc import Callable, Coroutine
from typing import Any, NamedTuple

_HEADERS = re.compile(rb"\r\n(content-length|host|x-amz-target): *([^\r]*)", re.IGNORECASE)


class Request(NamedTuple):
    method: str
    path: str
    base_url: str
    target: str  # the service and the action, in SQS's protocol; empty in SNS's
    body: bytes


class Reply(NamedTuple):
    status: int
    content_type: str
    body: bytes
    headers: str = ""  # further lines of the head, each with its end


class Connection(asyncio.Protocol):
    """Asks `answer` for each reply. None, at once or later, closes the connection. `connections` has the open ones."""

    def __init__(
        self,
        answer: Callable[[Request], Reply | Coroutine[Any, Any, Reply | None]],
        connections: set["Connection"],
    ) -> None:
        self._answer = answer
        self._connections = connections
        self._buffer = bytearray()
        self._serving: asyncio.Task[None] | None = None
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]
        self._connections.add(self)

    def connection_lost(self, error: Exception | None) -> None:
        self._connections.discard(self)
        if self._serving is not None:
            self._serving.cancel()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        self._next()

    def cut(self) -> None:
        self._transport.abort()

    def _next(self) -> None:
        while self._serving is None and (request := self._read()) is not None:
            reply = self._answer(request)
            if isinstance(reply, Reply):
                self._write(reply)
            else:
                self._serving = asyncio.get_running_loop().create_task(self._serve(reply))

    def _read(self) -> Request | None:
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return None
        head = bytes(self._buffer[:end])
        headers = {name.lower(): value.decode("latin-1") for name, value in _HEADERS.findall(head)}
        begin, length = end + 4, int(headers.get(b"content-length", 0))
        if len(self._buffer) < begin + length:
            return None
        body = bytes(self._buffer[begin : begin + length])
        del self._buffer[: begin + length]
        method, path, _ = head.partition(b"\r\n")[0].decode("latin-1").split(" ")
        return Request(method, path, f"http://{headers.get(b'host', '')}", headers.get(b"x-amz-target", ""), body)

    async def _serve(self, answer: Coroutine[Any, Any, Reply | None]) -> None:
        reply = await answer
        self._serving = None
        if reply is None:
            self.cut()
            return
        self._write(reply)
        self._next()

    def _write(self, reply: Reply) -> None:
        head = (
            f"HTTP/1.1 {reply.status} {'OK' if reply.status == 200 else 'No'}\r\nContent-Type: {reply.content_type}\r\n"
        )
        head += f"{reply.headers}Content-Length: {len(reply.body)}\r\n\r\n"
        self._transport.write(head.encode("latin-1") + reply.body)
