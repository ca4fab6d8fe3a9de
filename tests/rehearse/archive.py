"""The archive in a rehearsal: its bucket at a local S3, and where each visit is at the end.

A visit is in the live log, in a closed log that is not archived, or in an object. All of them together have each
answered visit once. pyarrow reads the objects, as a program that is not ours.
"""

import asyncio
import io
from collections import Counter
from collections.abc import Callable

import pyarrow.parquet as pq

from tests.system.wire import wait_for
from tracker.local.provision import local_client

# Prints the logs that are not archived. A file that is compressed meanwhile may be missing: it is asked for again.
PRINT_LOGS = """
cd /var/log/tracker
for log in visits.log*; do
    case $log in *.part | *.torn-*) continue ;; esac
    [ ! -f "$log" ] || [ -e "visits.log.d/archived/${log%.gz}" ] || zcat -f "$log" || true
done
"""


class Bucket:
    """A bucket at `endpoint`."""

    def __init__(self, endpoint: str, region: str, name: str) -> None:
        self._endpoint = endpoint
        self._region = region
        self.name = name

    def make(self) -> None:
        """As deploy/aws/archive.yaml makes it: with versions and without public access."""
        asyncio.run(self._make())

    async def _make(self) -> None:
        blocks = ("BlockPublicAcls", "BlockPublicPolicy", "IgnorePublicAcls", "RestrictPublicBuckets")
        async with local_client("s3", self._endpoint, self._region) as s3:
            await s3.create_bucket(Bucket=self.name, CreateBucketConfiguration={"LocationConstraint": self._region})
            await s3.put_bucket_versioning(Bucket=self.name, VersioningConfiguration={"Status": "Enabled"})
            await s3.put_public_access_block(
                Bucket=self.name, PublicAccessBlockConfiguration=dict.fromkeys(blocks, True)
            )

    def pages(self) -> Counter[str]:
        """How often each page of a load's visitors is in the objects."""
        return asyncio.run(self._pages())

    async def _pages(self) -> Counter[str]:
        pages: Counter[str] = Counter()
        async with local_client("s3", self._endpoint, self._region) as s3:
            async for listed in s3.get_paginator("list_objects_v2").paginate(Bucket=self.name):
                for each in listed.get("Contents", []):
                    assert "/date=" in each["Key"], f"{each['Key']}: no line is malformed"
                    reply = await s3.get_object(Bucket=self.name, Key=each["Key"])
                    table = pq.read_table(io.BytesIO(await reply["Body"].read()), columns=["page", "user_agent"])
                    pages.update(row["page"] for row in table.to_pylist() if row["user_agent"] == "load")
        return pages


def account(
    answered: set[str],
    ask_archive: Callable[[], Counter[str]],
    print_logs: Callable[[], str],
    say: Callable[[str], None],
    seconds: float = 120.0,
) -> None:
    """Compare the visits that were answered with all logs and objects, of which the last may need `seconds`.

    Raises AssertionError.
    """
    archived: Counter[str] = Counter()
    found: Counter[str] = Counter()

    def complete() -> bool:
        nonlocal archived, found
        archived = ask_archive()  # before the logs: a log that is archived meanwhile is then in neither, not in both
        found = archived + Counter(line.split("|")[1] for line in print_logs().splitlines() if "|load|" in line)
        return answered <= set(found)

    wait_for(complete, "every answered visit is in a log or in the archive", seconds, 1)
    twice = [page for page, times in found.items() if times > 1]
    assert not twice, f"{len(twice)} visits are there more than once: {twice[:5]}"
    assert archived, "no visit is in the archive"
    say(
        f"{len(answered):,} visits were answered: each is there once, none is missing; "
        f"{len(archived):,} are in the archive"
    )
