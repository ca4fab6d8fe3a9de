"""An S3 bucket as the archive needs it: an object is put once and never replaced, and its digest can be read.

S3 decides, not we: each put says `If-None-Match: *`, so S3 refuses it with 412 when the key exists. A put whose reply
is lost has either happened or not; `digest` shows which. An object of several parts appears as a whole, with the
completion of its upload, and the completion carries the same condition. S3 checks each body against a CRC-32 that
botocore sends with it. The creation of an upload in parts names this checksum, and the completion repeats that of each
part: S3 refuses the part or the completion otherwise.
"""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from tracker.aws.calls import ask
from tracker.aws.clients import Clients, ClientSettings
from tracker.config import ArchiveConfig
from tracker.errors import AwsRefused, AwsUnreachable, ConfigurationError

log = logging.getLogger(__name__)

PART_BYTES = 8 << 20
"""The longest body of one request, held in memory. S3 takes at most 10,000 parts, so 78 GiB for an object."""
BODY_SECONDS = 120.0  # for one request with a body

_DIGEST = "digest"  # S3's header is x-amz-meta-digest
CONDITION_FAILED = 412
_OF_PART = ("ETag", "ChecksumCRC32")  # of the reply to a part, what the completion repeats


class S3Bucket:
    """One bucket. It implements `tracker.archive.archiver.Bucket`."""

    def __init__(self, clients: Clients, name: str) -> None:
        self._clients = clients
        self._name = name

    async def digest(self, key: str) -> str | None:
        """The digest in the metadata of an object: None without an object, empty when the object has none.

        Raises AwsRefused and AwsUnreachable.
        """
        (client,) = await self._clients.ready()
        try:
            reply = await ask(client.head_object(Bucket=self._name, Key=key), "ETag")
        except AwsRefused as error:
            if error.status == 404:
                return None
            if error.status >= 500:
                raise
            raise await self._with_reason(client, key, error) from error
        return digest_in(reply)

    async def _with_reason(self, client: Any, key: str, error: AwsRefused) -> AwsRefused:
        """The error with its reason, which a listing has. The reply to a HEAD has no body, only a status."""
        with suppress(AwsUnreachable):
            try:
                await ask(client.list_objects_v2(Bucket=self._name, Prefix=key, MaxKeys=1))
            except AwsRefused as reason:
                return reason
            if error.status == 403:
                what = f"s3:GetObject is denied for {key}, by a policy or by the object's KMS key: {error}"
                return AwsRefused(what, code=error.code, status=error.status, date=error.date)
        return error

    async def put(self, key: str, file: Path, digest: str) -> None:
        """Put `file` with its digest. An object that exists already is left as it is, which is no error.

        Raises AwsRefused, AwsUnreachable and OSError. After an error the object may exist all the same.
        """
        (client,) = await self._clients.ready()
        target = {"Bucket": self._name, "Key": key}
        try:
            await upload(client, target, {"Metadata": {_DIGEST: digest}}, file, {"IfNoneMatch": "*"})
        except AwsRefused as error:
            if error.status != CONDITION_FAILED:
                raise


def digest_in(reply: dict[str, Any]) -> str:
    """The digest in the metadata of an object, by the reply to a call for the object; empty when it has none."""
    return str(reply.get("Metadata", {}).get(_DIGEST, ""))


async def upload(
    client: Any, target: dict[str, str], settings: dict[str, Any], file: Path, condition: dict[str, str]
) -> str:
    """Put `file` as the object `target`, on the condition. A long file is put in parts. Returns the object's ETag.

    Raises AwsRefused, with the status CONDITION_FAILED if the condition is not met, AwsUnreachable and OSError.
    """
    with file.open("rb") as source:
        body = await asyncio.to_thread(source.read, PART_BYTES)
        if len(body) < PART_BYTES:
            call = client.put_object(**target, **settings, Body=body, **condition)
            return str((await ask(call, "ETag", seconds=BODY_SECONDS))["ETag"])
        return await _put_parts(client, target, settings, body, source, condition)


async def _put_parts(
    client: Any,
    target: dict[str, str],
    settings: dict[str, Any],
    body: bytes,
    source: BinaryIO,
    condition: dict[str, str],
) -> str:
    call = client.create_multipart_upload(**target, **settings, ChecksumAlgorithm="CRC32")
    reply = await ask(call, "UploadId")
    upload = {**target, "UploadId": reply["UploadId"]}
    try:
        parts: list[dict[str, Any]] = []
        while body:
            number = len(parts) + 1
            call = client.upload_part(**upload, PartNumber=number, Body=body)
            reply = await ask(call, "ETag", seconds=BODY_SECONDS)
            # Not every server other than AWS's returns the checksum.
            parts.append({"PartNumber": number, **{name: reply[name] for name in _OF_PART if name in reply}})
            body = await asyncio.to_thread(source.read, PART_BYTES)
        call = client.complete_multipart_upload(**upload, MultipartUpload={"Parts": parts}, **condition)
        return str((await ask(call, "ETag", seconds=BODY_SECONDS))["ETag"])
    except BaseException:
        try:
            await ask(client.abort_multipart_upload(**upload))
        except (AwsRefused, AwsUnreachable) as error:
            log.warning(
                "upload_left key=%s upload=%s error=%s; S3 charges for the parts of an upload that is not completed "
                "or aborted. A rule of the bucket should remove them, also those of a killed process.",
                *(target["Key"], upload["UploadId"], error),
            )
        raise


@asynccontextmanager
async def open_bucket(config: ArchiveConfig) -> AsyncIterator[S3Bucket]:
    """The bucket of the archive. The first call makes its client. Raises ConfigurationError without a URL."""
    name, _ = bucket_and_prefix(config)
    settings = ClientSettings(BODY_SECONDS)
    async with aclosing(Clients("s3", config.region, config.endpoint_url, settings)) as clients:
        yield S3Bucket(clients, name)


def bucket_and_prefix(config: ArchiveConfig) -> tuple[str, str]:
    """The name of the bucket, and what the key of each object begins with. Raises ConfigurationError without a URL."""
    if config.url is None:
        raise ConfigurationError("archive.url: expected s3://bucket/prefix, where closed logs are archived; got null")
    bucket, _, prefix = config.url.removeprefix("s3://").partition("/")
    prefix = prefix.strip("/")
    return bucket, prefix and f"{prefix}/"
