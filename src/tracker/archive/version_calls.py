"""The calls of `tracker erase` to a bucket with versions. One that fails is made again, if that makes sense."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Protocol, TypeVar

from tracker.archive.archiver import TRIES, may_be_over_soon
from tracker.aws.object_settings import Held
from tracker.aws.versions import Upload, Version, VersionsPage
from tracker.errors import AwsRefused, AwsUnreachable
from tracker.lifecycle import Backoff

T = TypeVar("T")


class Bucket(Protocol):
    """A bucket with versions, as `tracker.aws.versions.S3Versions` implements it."""

    async def page(self, prefix: str, begin: dict[str, str] | None = None) -> VersionsPage: ...

    async def read(self, version: Version, file: Path) -> Held | None: ...

    async def digest_of(self, version: Version) -> str | None: ...

    async def replace(self, version: Version, file: Path, held: Held) -> str | None: ...

    async def delete(self, version: Version) -> None: ...

    async def uploads(self, prefix: str) -> list[Upload]: ...

    async def abort(self, upload: Upload) -> None: ...


async def versions_of(bucket: Bucket, prefix: str, backoff: Backoff) -> AsyncIterator[Version]:
    """All versions of the keys that begin with `prefix`: the keys in their order, of each the latest version first."""
    begin: dict[str, str] | None = {}
    while begin is not None:
        page = await patiently(partial(bucket.page, prefix, begin), backoff)
        for version in page.versions:
            yield version
        begin = page.next


async def patiently(call: Callable[[], Awaitable[T]], backoff: Backoff) -> T:
    """The reply to a call. Raises AwsRefused and AwsUnreachable when it makes no sense to try once more."""
    backoff.reset()
    for tries in range(1, TRIES + 1):
        try:
            return await call()
        except (AwsRefused, AwsUnreachable) as error:
            if tries == TRIES or not may_be_over_soon(error):
                raise
        await asyncio.sleep(backoff.next())
    raise AssertionError("unreachable")
