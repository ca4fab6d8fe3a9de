"""One bucket of S3, in memory and over HTTP: the calls that the archive makes, with the faults of `faults.py`.

The rules follow the API reference of S3: `If-None-Match: *` refuses a put and a completion when the key exists, and
`If-Match` when the current object has another ETag; an upload of several parts is an object only once it is completed;
metadata belongs to the creation of the upload.
"""

import asyncio
import base64
import threading
import zlib
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import parse_qsl, quote_plus
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from aiohttp import web

from tests.fake_aws.faults import AFTER, BEFORE, Faults
from tests.fake_aws.s3_store import Object as Object
from tests.fake_aws.s3_store import Parts, Store
from tests.ports import free_port
from tracker.aws.object_settings import Held
from tracker.aws.versions import Upload, Version, VersionsPage
from tracker.errors import AwsRefused, AwsUnreachable

BUCKET = "archive"
CHECKSUM = "x-amz-checksum-crc32"
_PERMISSIONS = {
    "x-amz-grant-full-control": "FULL_CONTROL",
    "x-amz-grant-read": "READ",
    "x-amz-grant-read-acp": "READ_ACP",
    "x-amz-grant-write-acp": "WRITE_ACP",
}
_APART = ("x-amz-tagging", "x-amz-grant-")  # what has a call of its own
_KEPT = {
    *("cache-control", "content-disposition", "content-encoding", "content-language", "content-type", "expires"),
    *("x-amz-storage-class", "x-amz-tagging", "x-amz-website-redirect-location", *_PERMISSIONS),
    *(f"x-amz-object-lock-{name}" for name in ("mode", "retain-until-date", "legal-hold")),
    "x-amz-server-side-encryption",
    *(f"x-amz-server-side-encryption-{name}" for name in ("aws-kms-key-id", "bucket-key-enabled")),
}
"""The headers of a put that S3 keeps, but for those of the digest."""
_OF_QUERY = {
    "versions": "ListObjectVersions",
    "uploads": "ListMultipartUploads",
    "tagging": "GetObjectTagging",
    "acl": "GetObjectAcl",
    "versioning": "GetBucketVersioning",
    "publicAccessBlock": "GetPublicAccessBlock",
    "lifecycle": "GetBucketLifecycleConfiguration",
}
_SETTINGS = {"GetBucketVersioning", "GetPublicAccessBlock", "GetBucketLifecycleConfiguration"}


class FakeBucket:
    """The bucket behind the archive's protocols: a new one, or `store`.

    The call number `at` fails: before its work, or after it (`late`).
    """

    def __init__(self, at: int = 0, *, late: bool = False, versioned: bool = False, store: Store | None = None) -> None:
        self.store = Store(versioned=versioned) if store is None else store
        self.objects = self.store.objects
        self.calls = 0
        self.at = at
        self.late = late

    async def digest(self, key: str) -> str | None:
        self._begin()
        found = self.objects.get(key)
        self._end()
        return found.digest if found else None

    async def put(self, key: str, file: Path, digest: str) -> None:
        self._begin()
        if key not in self.objects:
            self.store.put(key, file.read_bytes(), digest)
        self._end()

    async def page(self, prefix: str, begin: dict[str, str] | None = None) -> VersionsPage:
        self._begin()
        found = [Version(key, each.version, each.etag, current) for key, each, current in self.store.versions(prefix)]
        self._end()
        return VersionsPage(found, None)

    async def read(self, version: Version, file: Path) -> Held | None:
        self._begin()
        found = self.store.find(version.key, version.id)
        if found is not None:
            file.write_bytes(found.body)
        self._end()
        if found is None or found.etag != version.etag:
            return None
        lock = f"it is locked until {found.locked_until:%Y-%m-%d}" if found.locked_until else None
        return Held({"digest": found.digest}, lock)

    async def digest_of(self, version: Version) -> str | None:
        self._begin()
        found = self.store.find(version.key, version.id)
        self._end()
        return found.digest if found else None

    async def replace(self, version: Version, file: Path, held: Held) -> str | None:
        self._begin()
        current = self.objects.get(version.key)
        made = None
        if current is not None and current.etag == version.etag:
            made = self.store.put(version.key, file.read_bytes(), held.settings["digest"]).etag
        self._end()
        return made

    async def delete(self, version: Version) -> None:
        self._begin()
        done = self.store.delete(version.key, version.id)
        self._end()
        if not done:
            raise AwsRefused("AccessDenied", code="AccessDenied", status=403)

    async def uploads(self, prefix: str) -> list[Upload]:
        self._begin()
        found = [Upload(each.key, name, each.begun) for name, each in self.store.uploads.items()]
        self._end()
        return found

    async def abort(self, upload: Upload) -> None:
        self._begin()
        self.store.uploads.pop(upload.id, None)
        self._end()

    def _begin(self) -> None:
        self.calls += 1
        if self.calls == self.at and not self.late:
            raise AwsUnreachable("the call was not made")

    def _end(self) -> None:
        if self.calls == self.at and self.late:
            raise AwsUnreachable("the reply was lost")


class FakeS3:
    """The bucket over HTTP, in a thread. As a context it listens."""

    def __init__(self) -> None:
        self.store = Store()
        self.objects = self.store.objects
        self.uploads = self.store.uploads
        self.calls: list[str] = []
        self.page_length = 1000
        self.refuse: tuple[int, str] | None = None
        """The status and the code with which each call is refused, as for expired credentials."""
        self.refuse_calls: dict[str, tuple[int, str]] = {}
        """The same, for the calls of some names, as for a permission that is missing."""
        self.foreign = False
        """Whether another program answers, with a page and status 200."""
        self.lifecycle = ""
        """The rules of the bucket, in XML."""
        self.cut_bodies = 0
        """How many of the next objects that are read end amid their bodies."""
        self.on_call: Callable[[str], None] = lambda _: None
        """Gets the name of each call before it is performed."""
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
        self.on_call(action)
        if self.foreign:
            return web.Response(text="<html>Welcome</html>", content_type="text/html")
        if refusal := self.refuse or self.refuse_calls.get(action):
            return _error(*refusal, head=request.method == "HEAD")
        for kind in BEFORE:
            if self.faults.strikes(kind, action):
                return self._fail(request, kind)
        response = self._perform(action, request, body)
        if action == "GetObject" and self.cut_bodies:
            self.cut_bodies -= 1
            return await _cut_off(request, response)
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

    def _perform(self, action: str, request: web.Request, body: bytes) -> web.Response:
        bucket, _, key = request.path.lstrip("/").partition("/")
        assert bucket == BUCKET
        upload = request.query.get("uploadId", "")
        if CHECKSUM in request.headers:
            assert request.headers[CHECKSUM] == _crc32(body)
        if action in _SETTINGS:
            return self._setting(action)
        if action.startswith("List"):
            return self._list(action, request)
        if action in ("PutObject", "CompleteMultipartUpload"):
            if action == "CompleteMultipartUpload" and upload not in self.uploads:
                return _error(404, "NoSuchUpload")
            if refusal := self._refusal(key, request):
                return refusal
        if action == "HeadObject" and not key:
            return web.Response()
        if action == "HeadObject":
            version = request.query.get("versionId")
            found = self.store.find(key, version) if version else self.objects.get(key)
            if found is None:
                return _error(404, "NoSuchKey", head=True)
            return web.Response(headers={"ETag": found.etag, "x-amz-meta-digest": found.digest})
        if action == "ListObjectsV2":
            return _xml("<ListBucketResult/>")
        if action in ("GetObject", "GetObjectTagging", "GetObjectAcl"):
            return self._get(action, key, request)
        if action == "DeleteObject":
            done = self.store.delete(key, request.query["versionId"])
            return web.Response(status=204) if done else _error(403, "AccessDenied")
        if action == "PutObject":
            return web.Response(headers={"ETag": self.store.put(key, body, *_settings(request)).etag})
        if action == "CreateMultipartUpload":
            assert request.headers["x-amz-checksum-algorithm"] == "CRC32"  # S3 refuses parts with another checksum
            upload = f"upload-{len(self.calls)}"
            self.uploads[upload] = Parts(key, *_settings(request))
            return _xml(f"<InitiateMultipartUploadResult><UploadId>{upload}</UploadId></InitiateMultipartUploadResult>")
        if action == "AbortMultipartUpload":
            self.uploads.pop(upload, None)
            return web.Response(status=204)
        if upload not in self.uploads:
            return _error(404, "NoSuchUpload")
        parts = self.uploads[upload].bodies
        if action == "UploadPart":
            parts[int(request.query["partNumber"])] = body
            return web.Response(headers={"ETag": f'"{len(body)}"', CHECKSUM: _crc32(body)})
        named = map(_members, ElementTree.fromstring(body))
        listed = {int(part["PartNumber"]): part.get("ChecksumCRC32") for part in named}
        if listed != {number: _crc32(part) for number, part in sorted(parts.items())}:
            return _error(400, "InvalidRequest")
        made = self.uploads.pop(upload)
        put = self.store.put(key, b"".join(parts[number] for number in listed), made.digest, made.headers)
        return _xml(f"<CompleteMultipartUploadResult><ETag>{put.etag}</ETag></CompleteMultipartUploadResult>")

    def _refusal(self, key: str, request: web.Request) -> web.Response | None:
        """The answer to a put whose condition is not met. Every put of the archive has one."""
        current = self.objects.get(key)
        if "If-Match" in request.headers:
            if current is None:
                return _error(404, "NoSuchKey")
            return None if request.headers["If-Match"] == current.etag else _error(412, "PreconditionFailed")
        assert request.headers["If-None-Match"] == "*"
        return None if current is None else _error(412, "PreconditionFailed")

    def _setting(self, action: str) -> web.Response:
        """A setting of the bucket, which is one as the stack makes it, but for its lifecycle."""
        if action == "GetBucketVersioning":
            status = "Enabled" if self.store.versioned else "Suspended"
            return _xml(f"<VersioningConfiguration><Status>{status}</Status></VersioningConfiguration>")
        if action == "GetPublicAccessBlock":
            names = ("BlockPublicAcls", "BlockPublicPolicy", "IgnorePublicAcls", "RestrictPublicBuckets")
            blocks = "".join(f"<{name}>true</{name}>" for name in names)
            return _xml(f"<PublicAccessBlockConfiguration>{blocks}</PublicAccessBlockConfiguration>")
        if not self.lifecycle:
            return _error(404, "NoSuchLifecycleConfiguration")
        return _xml(f"<LifecycleConfiguration>{self.lifecycle}</LifecycleConfiguration>")

    def _get(self, action: str, key: str, request: web.Request) -> web.Response:
        found = self.store.find(key, request.query["versionId"])
        if found is None:
            return _error(404, "NoSuchVersion")
        if request.headers.get("If-Match", found.etag) != found.etag:
            return _error(412, "PreconditionFailed")
        if action == "GetObjectTagging":
            return _tags(found)
        if action == "GetObjectAcl":
            return _grants(found)
        if found.headers.get("x-amz-storage-class") == "GLACIER" and not found.restored:
            return _error(403, "InvalidObjectState")
        headers = {name: value for name, value in found.headers.items() if not name.startswith(_APART)}
        headers |= {"ETag": found.etag, "x-amz-meta-digest": found.digest}
        if found.locked_until is not None:
            headers["x-amz-object-lock-mode"] = "COMPLIANCE"
            headers["x-amz-object-lock-retain-until-date"] = f"{found.locked_until:%Y-%m-%dT%H:%M:%SZ}"
        return web.Response(body=found.body, headers=headers)

    def _list(self, action: str, request: web.Request) -> web.Response:
        prefix = request.query.get("prefix", "")
        if action == "ListMultipartUploads":
            found = "".join(
                f"<Upload><Key>{quote_plus(each.key, '/')}</Key><UploadId>{name}</UploadId>"
                f"<Initiated>{each.begun:%Y-%m-%dT%H:%M:%S.%fZ}</Initiated></Upload>"
                for name, each in self.uploads.items()
                if each.key.startswith(prefix)
            )
            assert request.query["encoding-type"] == "url"  # without it an odd key makes XML that nobody can read
            return _xml(
                f"<ListMultipartUploadsResult><Bucket>{BUCKET}</Bucket><EncodingType>url</EncodingType>{found}"
                "</ListMultipartUploadsResult>"
            )
        versions = self.store.versions(prefix)
        marker = request.query.get("key-marker", ""), request.query.get("version-id-marker", "")
        names = [(key, each.version) for key, each, _ in versions]
        begin = names.index(marker) + 1 if marker in names else sum(key <= marker[0] for key, _ in names)
        page = versions[begin : begin + self.page_length]
        found = "".join(
            f"<Version><Key>{quote_plus(key, '/')}</Key><VersionId>{each.version}</VersionId><ETag>{each.etag}</ETag>"
            f"<IsLatest>{str(current).lower()}</IsLatest></Version>"
            for key, each, current in page
        )
        if begin + self.page_length < len(versions):
            key, last, _ = page[-1]
            found += "<IsTruncated>true</IsTruncated>"
            found += f"<NextKeyMarker>{quote_plus(key, '/')}</NextKeyMarker>"
            found += f"<NextVersionIdMarker>{last.version}</NextVersionIdMarker>"
        return _xml(
            f"<ListVersionsResult><Name>{BUCKET}</Name><EncodingType>url</EncodingType>{found}</ListVersionsResult>"
        )


def _action(request: web.Request) -> str:
    upload = "uploadId" in request.query
    for query, action in _OF_QUERY.items():
        if request.method == "GET" and query in request.query:
            return action
    return {
        "GET": "ListObjectsV2" if "list-type" in request.query else "GetObject",
        "HEAD": "HeadObject",
        "PUT": "UploadPart" if upload else "PutObject",
        "POST": "CompleteMultipartUpload" if upload else "CreateMultipartUpload",
        "DELETE": "AbortMultipartUpload" if upload else "DeleteObject",
    }[request.method]


async def _cut_off(request: web.Request, response: web.Response) -> web.StreamResponse:
    assert isinstance(response.body, bytes)
    cut = web.StreamResponse(headers=response.headers)
    cut.content_length = len(response.body)
    await cut.prepare(request)
    await cut.write(response.body[: len(response.body) // 2])
    assert request.transport is not None
    request.transport.close()
    return cut


def _settings(request: web.Request) -> tuple[str, dict[str, str]]:
    """The digest and the other headers that S3 keeps of a new object."""
    headers = {name.lower(): value for name, value in request.headers.items()}
    return headers["x-amz-meta-digest"], {name: headers[name] for name in sorted(_KEPT & headers.keys())}


def _tags(found: Object) -> web.Response:
    pairs = parse_qsl(found.headers.get("x-amz-tagging", ""), keep_blank_values=True)
    tags = "".join(f"<Tag><Key>{escape(key)}</Key><Value>{escape(value)}</Value></Tag>" for key, value in pairs)
    return _xml(f"<Tagging><TagSet>{tags}</TagSet></Tagging>")


def _grants(found: Object) -> web.Response:
    """The owner may do everything if no header grants anything."""
    granted = {
        _PERMISSIONS[name]: found.headers[name].split(", ") for name in sorted(_PERMISSIONS.keys() & found.headers)
    } or {"FULL_CONTROL": ['id="owner"']}
    grants = "".join(
        f"<Grant><Grantee><{kind.upper()}>{value}</{kind.upper()}></Grantee><Permission>{permission}</Permission></Grant>"
        for permission, grantees in granted.items()
        for kind, value in (each.replace('"', "").split("=") for each in grantees)
    )
    return _xml(
        f"<AccessControlPolicy><Owner><ID>owner</ID></Owner>"
        f"<AccessControlList>{grants}</AccessControlList></AccessControlPolicy>"
    )


def _members(element: ElementTree.Element) -> dict[str, str]:
    return {each.tag.rpartition("}")[2]: each.text or "" for each in element}


def _crc32(body: bytes) -> str:
    return base64.b64encode(zlib.crc32(body).to_bytes(4, "big")).decode()


def _xml(text: str, status: int = 200) -> web.Response:
    return web.Response(status=status, text=f'<?xml version="1.0"?>{text}', content_type="application/xml")


def _error(status: int, code: str, *, head: bool = False) -> web.Response:
    if head:
        return web.Response(status=status)
    return _xml(f"<Error><Code>{code}</Code><Message>{code}</Message></Error>", status)
