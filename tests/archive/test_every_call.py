"""The archiver under the SQLite method: whichever call to the file system fails, or is the last one of the process."""

import gzip
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.archive.closed import CONFIG, FAULTS, NOON, close, line, malformed, rows
from tests.fake_aws.s3 import FakeBucket, Object
from tests.seam import faults
from tests.seam.faults import Fault
from tests.seam.method import LONG, SEED, World, stumble, sweep
from tracker.archive.archiver import Archiver
from tracker.config import ArchiveConfig
from tracker.lifecycle import Backoff
from tracker.visit_log_files import archived_marker

pytestmark = [pytest.mark.slow, pytest.mark.unmeasured]

LOG = "logs/visits.log"
REMOVING = ArchiveConfig(url=CONFIG.url, keep_local=0)
LINES = [line(1), b"odd\n", line(2), line(3, NOON.replace(day=25))]


class WorldBucket(FakeBucket):
    """A bucket in the world, which a SIGKILL of the archiver does not take."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self._world = world
        for key, body, digest in world.all("put"):
            self.objects[key] = Object(bytes.fromhex(body), digest)

    async def put(self, key: str, file: Path, digest: str) -> None:
        if key not in self.objects:
            self._world.note("put", [key, file.read_bytes().hex(), digest])
        await super().put(key, file, digest)


class Archiving:
    """Two closed logs, one of them compressed, are archived, and removed at once."""

    foreign: Sequence[str] = ("logs/other.log", "logs/visits.log.old", "logs/visits.log.d/archived/other")

    def setup(self, root: Path, world: World) -> None:
        (root / "logs").mkdir()
        (root / "work").mkdir()
        (root / LOG).write_bytes(line(99))
        close(root / LOG, b"".join(LINES), 13)
        closed = close(root / LOG, line(4), 14)
        closed.with_name(closed.name + ".gz").write_bytes(gzip.compress(closed.read_bytes()))
        closed.unlink()

    async def run(self, root: Path, world: World) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("TMPDIR", str(root / "work"))
            for _ in range(2):  # the second pass removes what the first one has archived
                await Archiver(root / LOG, WorldBucket(world), REMOVING, Backoff(0.0, 0.0)).run_once()

    async def check(self, root: Path, world: World) -> None:
        # Whatever was removed is in the bucket, also before the next life.
        left = {file.name.removesuffix(".gz") for file in (root / "logs").glob("visits.log.2*")}
        before = WorldBucket(world)
        gone = {f"visits.log.20261124T{hour}0000.000000Z" for hour in (13, 14)} - left
        assert gone <= {log for log, *_ in rows(before.objects)}
        bucket = WorldBucket(world)
        for _ in range(2):
            done = await Archiver(root / LOG, bucket, CONFIG, Backoff(0.0, 0.0)).run_once()
            assert (done.problems, done.waiting) == ([], 0)
        found = sorted((visit.referrer or "")[-1] for *_, visit in rows(bucket.objects))
        assert found == ["1", "2", "3", "4"]
        assert malformed(bucket.objects) == [b"2 odd\n"]
        for name in left:
            assert archived_marker(root / LOG, root / "logs" / name).exists()


@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_whichever_call_fails_or_is_the_last_each_line_is_in_one_object(fault: Fault) -> None:
    assert sweep(Archiving(), fault) > 1


@pytest.mark.parametrize("seed", range(SEED, SEED + (100 if LONG else 5)))
def test_one_fault_after_another_archives_nothing_twice(seed: int) -> None:
    stumble(Archiving(), faults.EVERY, seed)
