"""`tracker erase` under the SQLite method: whichever call to the file system fails, or is the last of the process."""

import asyncio
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.archive.closed import CONFIG, FAULTS, close, rows
from tests.archive.erased import LINES, PERSON, assert_erased
from tests.fake_aws.s3 import FakeBucket
from tests.seam import faults
from tests.seam.faults import Fault
from tests.seam.method import LONG, SEED, World, stumble, sweep
from tracker.archive.archiver import Archiver, Pass
from tracker.archive.erasing import ArchiveErasure
from tracker.aws.object_settings import Held
from tracker.aws.versions import Version
from tracker.core.erasure import Selection
from tracker.lifecycle import Backoff
from tracker.storage.erasure_log import entries
from tracker.storage.erasure_report import ErasureReport
from tracker.storage.log_erasure import LogErasure

pytestmark = [pytest.mark.slow, pytest.mark.unmeasured]

LOG = "logs/visits.log"
VISITS = LINES[0] + LINES[1]


class WorldBucket(FakeBucket):
    """A bucket in the world, which a SIGKILL of the process does not take."""

    def __init__(self, world: World) -> None:
        super().__init__(versioned=True)
        self._world = world
        for what, value in world.everything():
            if what == "put":
                key, body, digest = value
                self.store.put(key, bytes.fromhex(body), digest)
            elif what == "deleted":
                self.store.delete(*value)

    async def put(self, key: str, file: Path, digest: str) -> None:
        if key not in self.objects:
            self._world.note("put", [key, file.read_bytes().hex(), digest])
        await super().put(key, file, digest)

    async def replace(self, version: Version, file: Path, held: Held) -> str | None:
        is_same = version.etag == self.objects[version.key].etag
        if is_same:
            self._world.note("put", [version.key, file.read_bytes().hex(), held.settings["digest"]])
        return await super().replace(version, file, held)

    async def delete(self, version: Version) -> None:
        self._world.note("deleted", [version.key, version.id])
        await super().delete(version)


class Erasing:
    """Two closed logs are erased, of which one is archived, and then the archive."""

    foreign: Sequence[str] = ("logs/other.log", "logs/visits.log.old", "logs/visits.log.d/archived/other")

    def setup(self, root: Path, world: World) -> None:
        (root / "logs").mkdir()
        (root / "work").mkdir()
        close(root / LOG, VISITS, 13)
        archiver = Archiver(root / LOG, WorldBucket(world), CONFIG, Backoff(0.0, 0.0))
        assert asyncio.run(archiver.run_once()) == Pass(archived=1)
        close(root / LOG, VISITS, 14)

    async def run(self, root: Path, world: World) -> None:
        await self._erase(root, world)

    async def _erase(self, root: Path, world: World) -> int:
        kept, tempfile.tempdir = tempfile.tempdir, str(root / "work")
        try:
            report, selection = ErasureReport(root / LOG, dry_run=False), Selection(ips=[PERSON])
            erasure = ArchiveErasure(CONFIG, selection, report, Backoff(0.0, 0.0))
            bucket = WorldBucket(world)
            LogErasure(root / LOG, [], selection, report).erase()
            while await erasure.erase(bucket):
                pass
            return report.exit_status
        finally:
            tempfile.tempdir = kept

    async def check(self, root: Path, world: World) -> None:
        logs = sorted((root / "logs").glob("visits.log.2*Z"))
        # What has been changed by now has its entry, and nothing else is lost.
        changes = len(world.all("put")) - 1 + len(world.all("deleted"))
        changes += sum(file.read_bytes() == LINES[0] for file in logs)
        assert len(list(entries(root / LOG))) >= changes
        assert [number for _, number, _ in rows(WorldBucket(world).objects)][:1] == [1]
        # The next erasure ends it.
        assert await self._erase(root, world) == 0
        bucket = WorldBucket(world)
        assert_erased(bucket.store)
        assert (await Archiver(root / LOG, bucket, CONFIG, Backoff(0.0, 0.0)).run_once()).problems == []
        assert [(name.split("T")[1][:2], number) for name, number, _ in rows(bucket.objects)] == [("13", 1), ("14", 1)]
        assert [file.read_bytes() for file in logs] == [LINES[0]] * 2


@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_whichever_call_fails_or_is_the_last_the_next_erasure_ends_it_and_loses_nothing(fault: Fault) -> None:
    assert sweep(Erasing(), fault) > 1


@pytest.mark.parametrize("seed", range(SEED, SEED + (100 if LONG else 3)))
def test_one_fault_after_another_loses_no_other_line(seed: int) -> None:
    stumble(Erasing(), faults.EVERY, seed)
