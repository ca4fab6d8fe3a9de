"""An HTTP server between the archiver and S3 (our fake, or moto), which answers, changes or forwards each call."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import aiohttp
from aiohttp import web

from tests.ports import free_port

_PASSED_ON = {
    "content-type",
    "if-none-match",
    "x-amz-checksum-algorithm",
    "x-amz-checksum-crc32",
    "x-amz-meta-digest",
    "authorization",
    "x-amz-date",
}


@dataclass
class Call:
    """A call of S3's API: its name there, the request, and its body."""

    action: str
    request: web.Request
    body: bytes
    upstream: str
    session: aiohttp.ClientSession

    async def forward(self) -> web.Response:
        """The reply of S3."""
        headers = {name: value for name, value in self.request.headers.items() if name.lower() in _PASSED_ON}
        url = self.upstream + self.request.raw_path
        async with self.session.request(self.request.method, url, data=self.body, headers=headers) as reply:
            kept = {
                name: value for name, value in reply.headers.items() if name.lower() not in ("content-length", "date")
            }
            return web.Response(status=reply.status, body=await reply.read(), headers=kept)


Meddle = Callable[[Call], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def between(upstream: str, meddle: Meddle) -> AsyncIterator[str]:
    """The URL of a server where `meddle` decides about each call."""
    async with aiohttp.ClientSession(auto_decompress=False) as session:

        async def answer(request: web.Request) -> web.StreamResponse:
            return await meddle(Call(_action(request), request, await request.read(), upstream, session))

        app = web.Application(client_max_size=64 << 20)
        app.router.add_route("*", "/{path:.*}", answer)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
        await runner.setup()
        port = free_port()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            await runner.cleanup()


def error(status: int, code: str) -> web.Response:
    """An error as S3 sends it; the reply to HEAD has no body."""
    text = f'<?xml version="1.0"?><Error><Code>{code}</Code><Message>the message of {code}</Message></Error>'
    return web.Response(status=status, text=text, content_type="application/xml")


def _action(request: web.Request) -> str:
    is_part = "uploadId" in request.query
    if request.method == "GET":
        return "ListObjectsV2" if "list-type" in request.query else "GetObject"
    return {
        "HEAD": "HeadObject",
        "PUT": "UploadPart" if is_part else "PutObject",
        "POST": "CompleteMultipartUpload" if is_part else "CreateMultipartUpload",
        "DELETE": "AbortMultipartUpload",
    }[request.method]
