"""One `tracker erase` of a person in a bucket in memory, and what must be true of the bucket afterwards."""

import asyncio
import gzip
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import pyarrow.parquet as pq

from tests.archive.closed import CONFIG, NOON, archive, close, line
from tests.fake_aws.s3 import FakeBucket
from tests.fake_aws.s3_store import Store
from tracker.archive.archiver import Pass
from tracker.archive.erasing import ArchiveErasure
from tracker.archive.taking_back import take_back
from tracker.core.erasure import Selection
from tracker.lifecycle import Backoff
from tracker.storage.erasure_log import digests
from tracker.storage.erasure_report import ErasureReport
from tracker.storage.log_erasure import LogErasure

B = TypeVar("B", bound=FakeBucket)

PERSON = "203.0.113.7"
NEXT_DAY = NOON.replace(day=25)
# Each third line is the person's, on two days and in the malformed lines.
LINES = [
    line(number, NOON if number < 6 else NEXT_DAY, PERSON if number % 3 == 1 else "192.0.2.1") for number in range(9)
]
MALFORMED = [f"yesterday|page|agent|{PERSON}\n".encode(), b"odd\n", f"5|columns|of|{PERSON}|and\n".encode()]
CONTENT = b"".join([*LINES, *MALFORMED])
SHORT = LINES[0] + LINES[1] + MALFORMED[0]
OTHERS = [number for number in range(9) if number % 3 != 1]


class Erasing:
    """One `tracker erase` of the person, without the command."""

    def __init__(
        self,
        log: Path,
        *,
        ips: Sequence[str] = (PERSON,),
        agents: Sequence[str] = (),
        dry_run: bool = False,
        bucket: FakeBucket | None = None,
    ) -> None:
        """A closed log whose archiving has not ended needs the `bucket`: its objects are deleted there first."""

        def back(closed: Path, digest: str) -> None:
            assert bucket is not None
            asyncio.run(take_back(bucket, CONFIG, closed, digests(log, closed, digest), Backoff(0.0, 0.0)))

        selection = Selection(ips=ips, agents=agents)
        self.report = ErasureReport(log, dry_run=dry_run)
        self.logs = LogErasure(log, [], selection, self.report, None if bucket is None else back)
        self.archive = ArchiveErasure(CONFIG, selection, self.report, Backoff(0.0, 0.0))

    def run(self, bucket: FakeBucket) -> int:
        """Erase in the archive until there is nothing new; the exit status."""
        while asyncio.run(self.archive.erase(bucket)):
            pass
        return self.report.exit_status


def erase(log: Path, bucket: FakeBucket, *, ips: Sequence[str] = (PERSON,)) -> int:
    return Erasing(log, ips=ips).run(bucket)


def assert_erased(store: Store, person: str = PERSON) -> None:
    """No version of an object has the person's address, compressed or not."""
    for key, each, _ in store.versions():
        if key.endswith(".parquet"):
            assert person not in pq.read_table(io.BytesIO(each.body))["ip"].to_pylist()
        else:
            assert person.encode() not in gzip.decompress(each.body)
        assert person.encode() not in each.body


def columns(bucket: FakeBucket) -> list[list[tuple[str, str]]]:
    """The names and types of the columns of each Parquet object."""
    bodies = [io.BytesIO(each.body) for key, each in bucket.objects.items() if key.endswith(".parquet")]
    return [[(column.name, str(column.type)) for column in pq.read_schema(body)] for body in bodies]


def archived(log: Path, content: bytes = CONTENT, *, versioned: bool = True) -> FakeBucket:
    """A bucket with the objects of one closed log, which is not beside the log any more."""
    bucket = FakeBucket(versioned=versioned)
    closed = close(log, content)
    assert archive(log, bucket) == Pass(archived=1)
    closed.unlink()
    return bucket


def copy_of(bucket: FakeBucket, copy: B) -> B:
    """The same objects in another bucket."""
    for key, each in bucket.objects.items():
        copy.store.put(key, each.body, each.digest)
    return copy
