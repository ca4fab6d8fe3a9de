"""One bucket of S3, in memory and over HTTP: the calls that the archive makes, with the faults of `faults.py`.

The rules follow the API reference of S3: `If-None-Match: *` refuses a put and a completion when the key exists; an
upload of several parts is an object only once it is completed; metadata belongs to the creation of the upload.
"""

import asyncio
import base64
import hashlib
import threading
import zlib
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import unquote
from xml.etree import ElementTree

from aiohttp import web

from tests.fake_aws.faults import AFTER, BEFORE, Faults
from tests.ports import free_port
from tracker.errors import AwsUnreachable

BUCKET = "archive"


@dataclass
class Object:
    body: bytes
    digest: str


class FakeBucket:
    """The bucket behind the archive's protocol. The call number `at` fails: before its work, or after it (`late`)."""

    def __init__(self, at: int = 0, *, late: bool = False) -> None:
        self.objects: dict[str, Object] = {}
        self.calls = 0
        self._at = at
        self._late = late

    async def digest(self, key: str) -> str | None:
        self._begin()
        found = self.objects.get(key)
        self._end()
        return found.digest if found else None

    async def put(self, key: str, file: Path, digest: str) -> None:
        self._begin()
        self.objects.setdefault(key, Object(file.read_bytes(), digest))
        self._end()

    def _begin(self) -> None:
        self.calls += 1
        if self.calls == self._at and not self._late:
            raise AwsUnreachable("the call was not made")

    def _end(self) -> None:
        if self.calls == self._at and self._late:
            raise AwsUnreachable("the reply was lost")


class FakeS3:
    """The bucket over HTTP, in a thread. As a context it listens."""

    def __init__(self) -> None:
        self.objects: dict[str, Object] = {}
        self.uploads: dict[str, tuple[str, dict[int, bytes]]] = {}
        self.calls: list[str] = []
        self.refuse: tuple[int, str] | None = None
        """The status and the code with which each call is refused, as for expired credentials."""
        self.faults = Faults()
        self.url = f"http://127.0.0.1:{free_port()}"
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(10)
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    async def _listen(self) -> None:
        app = web.Application(client_max_size=64 << 20)
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", int(self.url.rpartition(":")[2])).start()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        action = _action(request)
        body = await request.read()
        self.calls.append(action)
        if self.refuse:
            return _error(*self.refuse, head=request.method == "HEAD")
        for kind in BEFORE:
            if self.faults.strikes(kind, action):
                return self._fail(request, kind)
        response = self._perform(action, request, body)
        for kind in AFTER:
            if self.faults.strikes(kind, action):
                return self._fail(request, kind)
        return response

    def _fail(self, request: web.Request, kind: str) -> web.StreamResponse:
        if kind in ("cut", "lost_reply"):
            assert request.transport is not None
            request.transport.abort()
        status, code = (503, "SlowDown") if kind == "throttle" else (500, "InternalError")
        return _error(status, code, head=request.method == "HEAD")

    def _perform(self, action: str, request: web.Request, body: bytes) -> web.StreamResponse:
        bucket, _, key = unquote(request.path).lstrip("/").partition("/")
        assert bucket == BUCKET
        upload = request.query.get("uploadId", "")
        if "x-amz-checksum-crc32" in request.headers:
            sent = base64.b64decode(request.headers["x-amz-checksum-crc32"])
            assert zlib.crc32(body).to_bytes(4, "big") == sent
        if action in ("PutObject", "CompleteMultipartUpload"):
            assert request.headers["If-None-Match"] == "*"
            if action == "CompleteMultipartUpload" and upload not in self.uploads:
                return _error(404, "NoSuchUpload")
            if key in self.objects:
                return _error(412, "PreconditionFailed")
        if action == "HeadObject":
            found = self.objects.get(key)
            if found is None:
                return _error(404, "NoSuchKey", head=True)
            return web.Response(headers={"ETag": _etag(found.body), "x-amz-meta-digest": found.digest})
        if action == "ListObjectsV2":
            return _xml("<ListBucketResult/>")
        if action == "PutObject":
            self.objects[key] = Object(body, request.headers["x-amz-meta-digest"])
            return web.Response(headers={"ETag": _etag(body)})
        if action == "CreateMultipartUpload":
            upload = f"upload-{len(self.calls)}"
            self.uploads[upload] = (request.headers["x-amz-meta-digest"], {})
            return _xml(f"<InitiateMultipartUploadResult><UploadId>{upload}</UploadId></InitiateMultipartUploadResult>")
        if action == "AbortMultipartUpload":
            self.uploads.pop(upload, None)
            return web.Response(status=204)
        if upload not in self.uploads:
            return _error(404, "NoSuchUpload")
        digest, parts = self.uploads[upload]
        if action == "UploadPart":
            parts[int(request.query["partNumber"])] = body
            return web.Response(headers={"ETag": _etag(body)})
        listed = [
            int(each.text or "") for each in ElementTree.fromstring(body).iter() if each.tag.endswith("PartNumber")
        ]
        assert listed == sorted(parts)
        self.objects[key] = Object(b"".join(parts[number] for number in listed), digest)
        del self.uploads[upload]
        return _xml('<CompleteMultipartUploadResult><ETag>"x"</ETag></CompleteMultipartUploadResult>')


def _action(request: web.Request) -> str:
    upload = "uploadId" in request.query
    return {
        "GET": "ListObjectsV2",
        "HEAD": "HeadObject",
        "PUT": "UploadPart" if upload else "PutObject",
        "POST": "CompleteMultipartUpload" if upload else "CreateMultipartUpload",
        "DELETE": "AbortMultipartUpload",
    }[request.method]


def _etag(body: bytes) -> str:
    return f'"{hashlib.md5(body).hexdigest()}"'


def _xml(text: str, status: int = 200) -> web.Response:
    return web.Response(status=status, text=f'<?xml version="1.0"?>{text}', content_type="application/xml")


def _error(status: int, code: str, *, head: bool = False) -> web.Response:
    if head:
        return web.Response(status=status)
    return _xml(f"<Error><Code>{code}</Code><Message>{code}</Message></Error>", status)
