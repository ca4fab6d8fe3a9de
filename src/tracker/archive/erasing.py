"""Erases the selected lines in all objects of the archive, and in all versions of them.

1. The versions in the bucket are listed, below the prefix of the archive, also those of deleted and replaced objects.
2. Each version that is not known yet is copied to a temporary file, and the selected lines in it are counted. A version
   never changes, so one without such lines is done.
3. If the current version of an object has some, the other lines are written to a second file. The caller records what
   is about to be erased. Then the file is put under the same key, with all that S3 keeps beside the content, such as
   the metadata with the digest, on the condition that the version which was read is still the current one. Whatever the
   put answers, the versions of the key are listed again, and step 2 repeats. So only what S3 says it has counts. A
   version with the ETag that the put has returned is known. It may be in a storage class that cannot be read.
4. When the current version has no selected line, or the object is deleted, each older version that has some is deleted
   by its id, after its entry was recorded.
5. Uploads that others began before this erasure and did not complete are removed: their parts cannot be read.
6. The caller erases in closed logs before step 1, and repeats all of it until neither finds anything new.

The process may end between any two steps: the command is given again, and begins with what the bucket has then. There
is no other state. Two erasures at the same time, and anybody else who replaces an object, exclude each other by the
condition of step 3.

The archiver never puts an object whose key exists. An object of which all lines are erased therefore stays, empty.
Digests in the metadata are those of the closed logs before the erasure, by which the archiver knows what it has stored.
"""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime

from tracker.archive.objects import may_have_lines
from tracker.archive.retries import Retries, may_be_over_soon
from tracker.archive.rewriting import UNREADABLE, ObjectFile
from tracker.archive.version_calls import Bucket, versions_of
from tracker.aws import bucket_and_prefix
from tracker.aws.object_settings import Held
from tracker.aws.versions import Upload, Version
from tracker.config import ArchiveConfig
from tracker.core.erasure import Selection
from tracker.errors import AwsRefused, AwsUnreachable, TrackerError
from tracker.lifecycle import Backoff
from tracker.storage.erasing import Counts
from tracker.storage.erasure_report import ErasureReport
from tracker.temporary_folder import temporary_folder

LOOKS = 10
"""How often the versions of one key are listed. Three times are enough when nobody else changes them."""

_REPLICATED = "; S3 replicates this object, and the copy in the other bucket still has them"


class ArchiveErasure:
    """Erases in the archive of `config`. What it knows of the versions outlives a pass."""

    def __init__(
        self, config: ArchiveConfig, selection: Selection, report: ErasureReport, backoff: Backoff | None = None
    ) -> None:
        self.objects: set[str] = set()
        """The keys that were looked at."""
        self.not_read: set[str] = set()
        """The keys that are no objects of the archive."""
        self.looked = False
        """Whether the bucket could be listed."""
        name, self._prefix = bucket_and_prefix(config)
        self._url = f"s3://{name}/"
        self._selection = selection
        self._report = report
        self._retries = Retries(backoff)
        self._begun = datetime.now(UTC)
        self._known: set[Version] = set()  # nothing more can be done with them
        self._written: dict[tuple[str, str], Counts] = {}  # what those have that were put here, by key and ETag
        self._uploads: set[Upload] = set()  # the same
        self._failed: set[str] = set()  # keys, or the prefix for the uploads

    async def erase(self, bucket: Bucket) -> bool:
        """Steps 1 to 5. Returns whether there was a version that was not known.

        Raises AwsRefused and AwsUnreachable when it makes no sense to go on.
        """
        found = False
        async for key, versions in self._keys(bucket):
            self.looked = True
            if key in self._failed or self._known.issuperset(versions):
                continue
            found = True
            if not may_have_lines(key.removeprefix(self._prefix)):
                self.not_read.add(key)
                self._known.update(versions)
                continue
            self.objects.add(key)
            try:
                await self._erase_object(bucket, key)
            except UNREADABLE as error:
                if _concerns_all(error):
                    raise
                self._failed.add(key)
                self._report.fail(f"{self._url}{key}", str(error))
        self.looked = True
        await self._remove_uploads(bucket)
        return found

    async def _keys(self, bucket: Bucket) -> AsyncIterator[tuple[str, list[Version]]]:
        """The keys below the prefix, each with all of its versions."""
        key, versions = "", list[Version]()
        async for version in versions_of(bucket, self._prefix, self._retries):
            if version.key != key:
                if versions:
                    yield key, versions
                key, versions = version.key, []
            versions.append(version)
        if versions:
            yield key, versions

    async def _erase_object(self, bucket: Bucket, key: str) -> None:
        """Steps 2 to 4. Raises AwsRefused, AwsUnreachable, and the errors of a file that cannot be read."""
        erased: dict[Version, tuple[Counts, Held]] = {}  # one that is replaced and then deleted is the same version
        try:
            for _ in range(LOOKS):
                versions = [each async for each in versions_of(bucket, key, self._retries) if each.key == key]
                for version in sorted(versions, key=lambda each: not each.is_current):
                    if version not in self._known:
                        await self._erase_version(bucket, version, erased)
                    if version.is_current and version not in self._known:
                        break  # older versions wait until the current one has no selected line
                if self._known.issuperset(versions):
                    return
        finally:
            for version, (counts, held) in erased.items():
                how = "" if version.is_current else "; the whole older version was deleted"
                self._report.done(self._name(version), counts, how + (_REPLICATED if held.is_replicated else ""))
        raise TrackerError(f"something of it was changed {LOOKS} times meanwhile: give this command again")

    async def _erase_version(
        self, bucket: Bucket, version: Version, erased: dict[Version, tuple[Counts, Held]]
    ) -> None:
        """Replace or delete a version that has selected lines, and add it to `erased`.

        It is known afterwards if nothing can be done with it. Otherwise the next look shows what became of it.
        """
        name = self._name(version)
        if (counts := self._written.get((version.key, version.etag))) is not None:
            self._leave(version, counts)
            return
        with temporary_folder() as folder:
            copy, kept = folder / "copy", folder / "kept"
            held = await self._retries.reply(bucket.read, version, copy)
            if held is None:
                return  # somebody has changed or deleted it
            file = ObjectFile(version.key.removeprefix(self._prefix), copy, self._selection)
            counts = await asyncio.to_thread(file.count)
            if self._report.dry_run or not counts.total_selected:
                self._leave(version, counts)
                return
            if version.is_current:
                await asyncio.to_thread(file.write_kept, kept, counts)
            await asyncio.to_thread(self._report.record, name, counts)
            try:
                if version.is_current:
                    etag = await self._retries.reply(bucket.replace, version, kept, held)
                    if etag is not None:
                        self._written[version.key, etag] = Counts(unreadable=counts.unreadable)
                else:
                    await self._retries.reply(bucket.delete, version)
            except AwsRefused as error:
                if version.is_current or _concerns_all(error):
                    raise
                lines = f"{counts.total_selected} of {counts.lines} lines"
                self._report.fail(name, f"{lines} were not erased: {held.lock or error}")
                self._known.add(version)
            else:
                erased[version] = counts, held

    def _leave(self, version: Version, counts: Counts) -> None:
        """Leave a version as it is: it has no selected line, or this is a dry run."""
        self._known.add(version)
        name = self._name(version)
        if counts.total_selected:
            self._report.done(name, counts, "" if version.is_current else "; the whole older version would be deleted")
        if counts.unreadable:
            self._report.fail(
                name,
                f"{counts.unreadable} malformed lines have one of the values as a part of something else, and were "
                "kept: look at them",
            )

    async def _remove_uploads(self, bucket: Bucket) -> None:
        try:
            for upload in await self._retries.reply(bucket.uploads, self._prefix):
                if upload.begun < self._begun and upload not in self._uploads:
                    self._uploads.add(upload)
                    if not self._report.dry_run:
                        await self._retries.reply(bucket.abort, upload)
                    self._report.say(f"{self._url}{upload.key}: an upload that was not completed {self._report.what}")
        except AwsRefused as error:
            if _concerns_all(error):
                raise
            if self._prefix not in self._failed:
                self._failed.add(self._prefix)
                self._report.fail(self._url + self._prefix, f"uploads that were not completed may be left: {error}")

    def _name(self, version: Version) -> str:
        """What people and `erased.log` call a version."""
        return f"{self._url}{version.key}" + ("" if version.is_current else f"?versionId={version.id}")


def _concerns_all(error: Exception) -> bool:
    """Whether S3 would answer the calls for other objects in the same way.

    A denial (403) concerns one object: it may have an encryption key of its own, or it may have to be restored first.
    """
    return isinstance(error, AwsUnreachable) or (
        isinstance(error, AwsRefused) and (error.is_unknown_caller or may_be_over_soon(error))
    )
