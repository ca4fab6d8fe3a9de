"""The calls of `tracker erase` to a bucket with versions."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Protocol

from tracker.archive.retries import Retries
from tracker.aws.object_settings import Held
from tracker.aws.versions import Upload, Version, VersionsPage


class Bucket(Protocol):
    """A bucket with versions, as `tracker.aws.versions.S3Versions` implements it."""

    async def page(self, prefix: str, begin: dict[str, str] | None = None) -> VersionsPage: ...

    async def read(self, version: Version, file: Path) -> Held | None: ...

    async def digest_of(self, version: Version) -> str | None: ...

    async def replace(self, version: Version, file: Path, held: Held) -> str | None: ...

    async def delete(self, version: Version) -> None: ...

    async def uploads(self, prefix: str) -> list[Upload]: ...

    async def abort(self, upload: Upload) -> None: ...


async def versions_of(bucket: Bucket, prefix: str, retries: Retries) -> AsyncIterator[Version]:
    """All versions of the keys that begin with `prefix`: the keys in their order, of each the latest version first."""
    begin: dict[str, str] | None = {}
    while begin is not None:
        page = await retries.reply(bucket.page, prefix, begin)
        for version in page.versions:
            yield version
        begin = page.next
