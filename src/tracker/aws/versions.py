"""A bucket with all versions of its objects, as `tracker erase` needs it.

An object is replaced on the condition that it is still the one that was read: the put says `If-Match` with its ETag, so
S3 refuses it with 412 when somebody has changed the object. A version is deleted by its id, and no other version with
it. Without versioning each object has one version, whose id is `null`.
"""

import asyncio
import shlex
from collections.abc import AsyncIterator, Awaitable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote_plus

import msgspec

from tracker.aws.bucket import BODY_SECONDS, CONDITION_FAILED, bucket_and_prefix, digest_in, upload
from tracker.aws.calls import ask, incomplete_reply, read_reply
from tracker.aws.clients import Clients, ClientSettings
from tracker.aws.object_settings import AccessList, Held, Tags, granting, held_of, tagging
from tracker.aws.settings import error_text
from tracker.config import ArchiveConfig
from tracker.errors import AwsRefused, AwsUnreachable, TrackerError

READ_BYTES = 1 << 20

T = TypeVar("T")

# The object was changed or deleted, another put was faster, or somebody has removed our upload.
_CHANGED = {404, 409, CONDITION_FAILED}


# The members of replies that are read, by AWS's own names.


class _Version(msgspec.Struct):
    Key: str
    VersionId: str
    ETag: str
    IsLatest: bool


class _Versions(msgspec.Struct):
    Versions: list[_Version] = []


class _Upload(msgspec.Struct):
    Key: str
    UploadId: str
    Initiated: datetime


class _Uploads(msgspec.Struct):
    Uploads: list[_Upload] = []


@dataclass(frozen=True, slots=True)
class Version:
    """A version of an object. The current one is what a reader of the bucket gets."""

    key: str
    id: str
    etag: str
    is_current: bool = field(compare=False)  # it may change, and the version is the same


@dataclass(frozen=True, slots=True)
class VersionsPage:
    """Some of the versions in a bucket: the keys in their order, and of each the latest version first."""

    versions: list[Version]
    next: dict[str, str] | None
    """Where the next page begins; None after the last one."""


@dataclass(frozen=True, slots=True)
class Upload:
    """An upload in parts that is not completed."""

    key: str
    id: str
    begun: datetime


class S3Versions:
    """One bucket. Every method raises AwsRefused and AwsUnreachable."""

    def __init__(self, clients: Clients, name: str) -> None:
        self._clients = clients
        self._name = name

    async def page(self, prefix: str, begin: dict[str, str] | None = None) -> VersionsPage:
        """The versions of the keys that begin with `prefix`, from `begin` on."""
        (client,) = await self._clients.ready()
        call = client.list_object_versions(Bucket=self._name, Prefix=prefix, **(begin or {}))
        reply = await ask(call, "Name")  # a page of another program has no name of a bucket
        found = [
            Version(each.Key, each.VersionId, each.ETag, each.IsLatest)
            for each in read_reply(reply, _Versions).Versions
        ]
        return VersionsPage(found, _next(reply, "KeyMarker", "VersionIdMarker"))

    async def read(self, version: Version, file: Path) -> Held | None:
        """Write the content of a version to `file`. None when there is no such version any more. Raises OSError.

        Raises TrackerError for a version of a storage class that has to be restored first.
        """
        (client,) = await self._clients.ready()
        call = client.get_object(Bucket=self._name, Key=version.key, VersionId=version.id, IfMatch=version.etag)
        try:
            reply = await ask(call, "ETag", "Body", seconds=BODY_SECONDS)
        except AwsRefused as error:
            if error.status in _CHANGED:
                return None
            if error.code == "InvalidObjectState":
                one = ["--bucket", self._name, "--key", version.key, "--version-id", version.id]
                command = shlex.join(["aws", "s3api", "restore-object", *one, "--restore-request", "Days=7"])
                raise TrackerError(f"it has to be restored first: {command}") from error
            raise
        try:
            with file.open("wb") as target:
                while chunk := await _next_chunk(reply["Body"]):
                    await asyncio.to_thread(target.write, chunk)
        finally:
            reply["Body"].close()
        return held_of(reply)

    async def digest_of(self, version: Version) -> str | None:
        """The digest in the metadata of a version, as `S3Bucket.digest` returns it; None when the version is gone."""
        (client,) = await self._clients.ready()
        try:
            reply = await ask(client.head_object(Bucket=self._name, Key=version.key, VersionId=version.id), "ETag")
        except AwsRefused as error:
            if error.status == 404:
                return None
            raise
        return digest_in(reply)

    async def replace(self, version: Version, file: Path, held: Held) -> str | None:
        """Put `file` in the place of the current version. Returns the ETag of the new one. Raises OSError.

        None when another version is current now. The object keeps what `held` has, its tags and its grants.
        """
        (client,) = await self._clients.ready()
        target = {"Bucket": self._name, "Key": version.key}
        one = {**target, "VersionId": version.id}
        try:
            tags = await _known(client.get_object_tagging(**one), Tags)
            access = await _known(client.get_object_acl(**one), AccessList)
            settings = held.settings | (tagging(tags.TagSet) if tags else {}) | (granting(access) if access else {})
            return await upload(client, target, settings, file, {"IfMatch": version.etag})
        except AwsRefused as error:
            if error.status in _CHANGED:
                return None
            raise

    async def delete(self, version: Version) -> None:
        """Delete a version; one that is gone is no error."""
        (client,) = await self._clients.ready()
        await ask(client.delete_object(Bucket=self._name, Key=version.key, VersionId=version.id))

    async def uploads(self, prefix: str) -> list[Upload]:
        """The uploads in parts, of keys that begin with `prefix`, that are not completed."""
        (client,) = await self._clients.ready()
        found: list[Upload] = []
        begin: dict[str, str] | None = {}
        while begin is not None:
            # XML cannot have all characters of a key. In the other listings botocore asks for this encoding by itself.
            call = client.list_multipart_uploads(Bucket=self._name, Prefix=prefix, EncodingType="url", **begin)
            reply = await ask(call, "Bucket")
            decoded = unquote_plus if reply.get("EncodingType") == "url" else str
            found += [
                Upload(decoded(each.Key), each.UploadId, each.Initiated) for each in read_reply(reply, _Uploads).Uploads
            ]
            begin = _next(reply, "KeyMarker", "UploadIdMarker")
            if begin is not None:
                begin["KeyMarker"] = decoded(begin.get("KeyMarker", ""))
        return [each for each in found if each.key.startswith(prefix)]

    async def abort(self, upload: Upload) -> None:
        """Remove an upload with its parts; one that is gone is no error."""
        (client,) = await self._clients.ready()
        try:
            await ask(client.abort_multipart_upload(Bucket=self._name, Key=upload.key, UploadId=upload.id))
        except AwsRefused as error:
            if error.status != 404:
                raise


def _next(reply: dict[str, Any], *markers: str) -> dict[str, str] | None:
    """The parameters of the call for the next page; None after the last one."""
    if not reply.get("IsTruncated"):
        return None
    begin = {marker: reply[f"Next{marker}"] for marker in markers if reply.get(f"Next{marker}")}
    if not begin:
        raise incomplete_reply("the beginning of the next page is missing")
    return begin


async def _next_chunk(body: Any) -> bytes:
    try:
        async with asyncio.timeout(BODY_SECONDS):
            return bytes(await body.read(READ_BYTES))
    except Exception as error:  # aiohttp and botocore raise many kinds, also when the body is shorter than announced
        raise AwsUnreachable(f"the body was cut off: {error_text(error)}") from error


async def _known(call: Awaitable[dict[str, Any]], kind: type[T]) -> T | None:
    """The reply to a call. None when there is nothing, or when the endpoint, another one than AWS, has no such call."""
    try:
        return read_reply(await ask(call), kind)
    except AwsRefused as error:
        if error.is_unsupported or error.code == "NoSuchTagSet":
            return None
        raise


@asynccontextmanager
async def open_versions(config: ArchiveConfig) -> AsyncIterator[S3Versions]:
    """The bucket of the archive. The first call makes its client. Raises ConfigurationError without a URL."""
    name, _ = bucket_and_prefix(config)
    settings = ClientSettings(BODY_SECONDS, receives=True)
    async with aclosing(Clients("s3", config.region, config.endpoint_url, settings)) as clients:
        yield S3Versions(clients, name)
