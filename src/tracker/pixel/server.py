"""The public listener of a worker: `GET /track` becomes one line in the journal and a 1x1 GIF, in that order.

It runs on aiohttp's low-level server with answers rendered beforehand. Nothing here waits for anything but the
visitor's own socket.
"""

import asyncio
import socket
import time
from email.utils import formatdate

from aiohttp import web

from tracker.config import PixelConfig
from tracker.core.client_ip import ClientIp, truncate_ip
from tracker.core.rate_limit import RateLimit
from tracker.core.visit import MAX_HEADER_CHARS, encode_line, header_text, visited_at_text
from tracker.pixel.recorder import Recorder

GIF = bytes.fromhex("47494638396101000100800000000000ffffff21f90401000000002c00000000010001000002024401003b")

_NO_CACHE = (
    "Cache-Control: no-cache, no-store, must-revalidate, private, max-age=0\r\n"
    "Pragma: no-cache\r\n"
    "Expires: Thu, 01 Jan 1970 00:00:00 GMT\r\n"
)
_GIF_HEADERS = (
    f"Content-Type: image/gif\r\n{_NO_CACHE}"
    "Cross-Origin-Resource-Policy: cross-origin\r\n"
    "Access-Control-Allow-Origin: *\r\n"
)


class Answer(web.StreamResponse):
    """A complete answer to any number of requests: constant bytes, but for the `Date`, rendered once a second."""

    def __init__(
        self, status: str, headers: str, body: bytes, *, connection: str, keep_alive: bool, head: bool
    ) -> None:
        super().__init__(status=int(status[:3]))
        self._constant_keep_alive = keep_alive
        self._head = f"HTTP/1.1 {status}\r\n{headers}Content-Length: {len(body)}\r\n{connection}Date: ".encode()
        self._content = b"" if head else body
        self._second = 0
        self._rendered = b""

    @property
    def keep_alive(self) -> bool:
        return self._constant_keep_alive

    async def prepare(self, request: web.BaseRequest) -> None:
        transport = request.transport
        if transport is None:
            return
        second = int(time.time())
        if second != self._second:
            self._second = second
            self._rendered = self._head + formatdate(second, usegmt=True).encode() + b"\r\n\r\n" + self._content
        transport.write(self._rendered)
        await request.writer.drain()

    async def write_eof(self, data: bytes = b"") -> None:
        return


class Answers:
    """One answer in each form that the protocol asks for."""

    def __init__(self, status: str, headers: str, body: bytes) -> None:
        self._forms = {
            (head, keep_alive, http11): Answer(
                status,
                headers,
                body,
                # HTTP/1.0 must be told that the connection stays open, HTTP/1.1 that it does not.
                connection=("" if http11 else "Connection: keep-alive\r\n") if keep_alive else "Connection: close\r\n",
                keep_alive=keep_alive,
                head=head,
            )
            for head in (False, True)
            for keep_alive in (False, True)
            for http11 in (False, True)
        }

    def closing(self, request: web.BaseRequest) -> Answer:
        """The form after which the connection is closed."""
        return self._forms[request.method == "HEAD", False, True]

    def to(self, request: web.BaseRequest) -> Answer:
        """The form that the request asks for."""
        return self._forms[request.method == "HEAD", request.keep_alive, request.version >= (1, 1)]


_BAD_REQUEST = Answers("400 Bad Request", "Content-Type: text/plain\r\n", b"")
_FAULT = Answers("500 Internal Server Error", "Content-Type: text/plain\r\n", b"")


class Connection(web.RequestHandler):
    """aiohttp's protocol, but for its answer to what is no HTTP: that would name the server and echo the request."""

    __slots__ = ()

    def handle_error(
        self, request: web.BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> Answer:
        if status >= 500:
            self.log_exception("Error handling request", exc_info=exc)
        return (_FAULT if status >= 500 else _BAD_REQUEST).closing(request)


class PixelServer:
    """Answers the public port for one worker."""

    def __init__(self, *, config: PixelConfig, recorder: Recorder) -> None:
        self._path = config.http.path
        self._path_query = f"{config.http.path}?"
        self._recorder = recorder
        self._client_ip = ClientIp(config.http.trusted_proxies, config.http.client_ip_header)
        self._ip_header = config.http.client_ip_header
        self._rate_limit = RateLimit(config.http.rate_limit) if config.http.rate_limit is not None else None
        self._truncate = config.privacy.ip == "truncated"
        signals = {"gpc": "Sec-GPC", "dnt": "DNT"}
        self._honored = [signals[name] for name in config.privacy.honor]
        self._gif = Answers("200 OK", _GIF_HEADERS, GIF)
        self._not_found = Answers("404 Not Found", "Content-Type: text/plain\r\n", b"")
        self._not_allowed = Answers("405 Method Not Allowed", "Allow: GET, HEAD\r\nContent-Type: text/plain\r\n", b"")
        self._http = web.Server(self._handle)
        self._keepalive_timeout = config.http.keepalive_timeout
        self._server: asyncio.Server | None = None

    async def start(self, listener: socket.socket, backlog: int) -> None:
        """Accept from the inherited `listener`."""
        loop = asyncio.get_running_loop()

        def connection() -> Connection:
            return Connection(
                self._http,
                loop=loop,
                access_log=None,  # type: ignore[arg-type]
                keepalive_timeout=self._keepalive_timeout,
            )

        self._server = await loop.create_server(connection, sock=listener, backlog=backlog)

    async def stop(self, seconds: float) -> None:
        """Stop accepting, finish the requests that have begun, close; within `seconds`."""
        if self._server is not None:
            self._server.close()
        self._http.pre_shutdown()
        await asyncio.sleep(0)
        await self._http.shutdown(seconds)

    async def _handle(self, request: web.BaseRequest) -> Answer:
        target = request.raw_path
        if target != self._path and not target.startswith(self._path_query) and request.path != self._path:
            return self._not_found.to(request)
        if request.method == "GET":
            self._collect(request)
        elif request.method != "HEAD":
            return self._not_allowed.to(request)
        return self._gif.to(request)

    def _collect(self, request: web.BaseRequest) -> None:
        """Turn the request into a visit and record it, or count why not."""
        headers = request.headers
        for signal in self._honored:
            if headers.get(signal) == "1":
                return self._recorder.discard("privacy")
        peer = request.remote
        lines = headers.getall(self._ip_header, ())
        if lines and not self._client_ip.needs_header(peer):
            self._recorder.headers_untrusted += 1
        ip = self._client_ip.resolve(peer, lines)
        if ip is None:
            return self._recorder.discard("no_address")
        if self._rate_limit is not None and not self._rate_limit.allows(ip, time.monotonic()):
            return self._recorder.discard("rate_limited")
        if self._truncate:
            ip = truncate_ip(ip)
        visited_at = visited_at_text(time.time_ns() // 1000)
        referrer = self._header(headers.get("Referer"))
        user_agent = self._header(headers.get("User-Agent"))
        self._recorder.record(encode_line(visited_at, referrer, user_agent, ip))

    def _header(self, value: str | None) -> str | None:
        if not value:
            return None
        text = header_text(value)
        if len(text) > MAX_HEADER_CHARS:
            self._recorder.headers_cut += 1
            return text[:MAX_HEADER_CHARS]
        return text
