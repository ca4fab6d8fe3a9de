"""The lane of every other request: aiohttp, with all that it refuses, limits and times out.

    aiohttp ─▶ HttpLane._handle ─▶ Collector.line ─▶ Recorder.record ─▶ HttpAnswer.prepare

It gets a connection with the first read that the fast lane does not take, and keeps it.
"""

import asyncio
from collections.abc import Callable
from functools import lru_cache

from aiohttp import StreamReader, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http import RawRequestMessage
from yarl import URL

from tracker.pixel.answers import BAD_REQUEST, FAULT, NOT_ALLOWED, NOT_FOUND, PIXEL, Answer, Form
from tracker.pixel.collector import Collector
from tracker.pixel.recorder import Recorder


class HttpAnswer(web.StreamResponse):
    """An answer rendered beforehand, as aiohttp wants it: constant, so one of them serves any number of requests."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(status=answer.status)
        self._answer = answer

    @property
    def keep_alive(self) -> bool:
        return self._answer.form.keep_alive

    async def prepare(self, request: web.BaseRequest) -> None:
        transport = request.transport
        if transport is None:
            return
        transport.write(self._answer.render())
        if not request.protocol.writing_paused:
            return
        try:
            async with asyncio.timeout(request.protocol.keepalive_timeout):
                await request.writer.drain()
        except TimeoutError:
            transport.abort()
            raise ConnectionResetError("the visitor does not read") from None

    async def write_eof(self, data: bytes = b"") -> None:
        return


_http_answer = lru_cache(maxsize=None)(HttpAnswer)


def _to(request: web.BaseRequest, answer: dict[Form, Answer], *, close: bool = False) -> HttpAnswer:
    """The form of the answer that the request asks for."""
    form = Form(request.method == "HEAD", request.keep_alive and not close, close or request.version >= (1, 1))
    return _http_answer(answer[form])


class HttpConnection(web.RequestHandler):
    """aiohttp's protocol, but for its answer to what is no HTTP: that would name the server and echo the request."""

    __slots__ = ("_on_lost",)

    def __init__(self, server: web.Server, *, keepalive_timeout: float, on_lost: Callable[[], None]) -> None:
        super().__init__(
            server,
            loop=asyncio.get_running_loop(),
            access_log=None,  # type: ignore[arg-type]
            keepalive_timeout=keepalive_timeout,
        )
        self._on_lost = on_lost

    def connection_lost(self, exc: BaseException | None) -> None:
        super().connection_lost(exc)
        self._on_lost()

    def force_close(self) -> None:
        transport = self.transport
        super().force_close()
        if transport is not None and self.writing_paused:
            transport.abort()  # close would wait for a visitor who does not read

    def handle_error(
        self, request: web.BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> HttpAnswer:
        if status >= 500:
            self.log_exception("Error handling request", exc_info=exc)
        return _to(request, FAULT if status >= 500 else BAD_REQUEST, close=True)


def _request(
    message: RawRequestMessage,
    payload: StreamReader,
    protocol: web.RequestHandler,
    writer: AbstractStreamWriter,
    task: "asyncio.Task[None]",
) -> web.BaseRequest:
    # Its parser lets a CONNECT without a target through, with neither path nor URL, and aiohttp then fails on them.
    if not message.path:
        message = message._replace(path="", url=URL("/"))
    return web.BaseRequest(message, payload, protocol, writer, task, asyncio.get_running_loop())


class HttpLane:
    """Answers whatever HTTP allows, and refuses the rest."""

    def __init__(
        self,
        *,
        path: str,
        collector: Collector,
        recorder: Recorder,
        keepalive_timeout: float,
        on_lost: Callable[[], None],
    ) -> None:
        self._path = path
        self._path_query = f"{path}?"
        self._collector = collector
        self._recorder = recorder
        self._keepalive_timeout = keepalive_timeout
        self._on_lost = on_lost
        self._draining = False
        self._http = web.Server(self._handle, request_factory=_request)

    def connection(self) -> HttpConnection:
        """The protocol of one more connection."""
        return HttpConnection(self._http, keepalive_timeout=self._keepalive_timeout, on_lost=self._on_lost)

    def drain(self) -> None:
        """From now on the next answer of each connection says that it is the last, and it is."""
        self._draining = True

    async def close(self, seconds: float) -> None:
        """Finish the requests that have begun, then close all connections; within `seconds`."""
        self._http.pre_shutdown()
        await asyncio.sleep(0)
        await self._http.shutdown(seconds)

    async def _handle(self, request: web.BaseRequest) -> HttpAnswer:
        target = request.raw_path
        if not target:
            return _to(request, BAD_REQUEST, close=True)
        if target != self._path and not target.startswith(self._path_query) and request.path != self._path:
            return _to(request, NOT_FOUND, close=self._draining)
        if request.method == "GET":
            self._collect(request)
        elif request.method != "HEAD":
            return _to(request, NOT_ALLOWED, close=self._draining)
        return _to(request, PIXEL, close=self._draining)

    def _collect(self, request: web.BaseRequest) -> None:
        headers = request.headers
        line = self._collector.line(
            peer=request.remote,
            signals=[headers.get(name) for name in self._collector.signals],
            ip_lines=headers.getall(self._collector.ip_header, ()),
            referrer=headers.get("Referer"),
            user_agent=headers.get("User-Agent"),
        )
        if line is not None:
            self._recorder.record(line)
