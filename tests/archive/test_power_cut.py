"""The archiver at a power cut: each line is in one of the live log, the closed logs without marker, and the archive.

The states of the disk are those of `tests.seam.disk`. What S3 has stored is not lost.
"""

import asyncio
import errno
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import pytest

from tests.archive.closed import union
from tests.archive.test_every_call import LOG, REMOVING, Archiving, WorldBucket
from tests.seam.disk import Note, look
from tests.seam.faults import CALLS, Fault
from tests.seam.method import LONG, SEED, World, cut_power, cuts, live, stage
from tests.storage.rig import A, pages
from tests.storage.test_every_call import store
from tracker.archive.archiver import Archiver
from tracker.config import Rotate
from tracker.lifecycle import Backoff
from tracker.storage.ledger import Ledger
from tracker.storage.rotation import Rotation
from tracker.visit_log_files import ledger_path

pytestmark = [pytest.mark.slow, pytest.mark.unmeasured]

STATES = 30 if LONG else 2  # after each effect; two are all and nothing of what was not synced
ENDED = Fault("the end of the process", CALLS, errno.EIO, times=1 << 30)  # no later call does anything


@pytest.fixture(autouse=True)
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Temporary files are not on the disk whose power is cut: nothing of them is needed afterwards."""
    folder = tempfile.mkdtemp()
    monkeypatch.setenv("TMPDIR", folder)
    yield
    shutil.rmtree(folder)


async def archive(root: Path, world: World) -> None:
    for _ in range(2):  # the second pass removes what the first one has archived
        await Archiver(root / LOG, WorldBucket(world), REMOVING, Backoff(0.0, 0.0)).run_once()


class Once:
    """States of the disk and of S3 that were checked: equal ones are checked once."""

    def __init__(self) -> None:
        self._seen: list[object] = []

    def is_new(self, root: Path, world: World) -> bool:
        state = (look(root), sorted(key for key, *_ in world.all("put")))
        if state in self._seen:
            return False
        self._seen.append(state)
        return True


class AloneArchiving(Archiving):
    """Not even the markers' folder is there, so that its name is to be made durable too."""

    foreign: Sequence[str] = ()

    def __init__(self) -> None:
        self._once = Once()

    async def run(self, root: Path, world: World) -> None:
        await archive(root, world)

    async def check(self, root: Path, world: World) -> None:
        if self._once.is_new(root, world):
            assert_in_one_place(root, world, [f"https://example.com/{number}" for number in (1, 2, 3, 4, 99)])
            await super().check(root, world)


@pytest.mark.parametrize("seed", range(SEED, SEED + (4 if LONG else 1)))
def test_after_a_power_cut_at_any_point_each_line_is_in_one_place(seed: int) -> None:
    scenario = AloneArchiving()
    with stage(scenario) as (root, world, seam):
        live(scenario, root, world)
        points = cuts(seam.effects)
        assert len(points) > 15
        for at in points:
            cut_power(scenario, world, at, states=STATES, seed=seed)


class RotatingAndArchiving:
    """Storage closes a log, and ends within the rotation. Then a pass of the archiver runs."""

    foreign: Sequence[str] = ()

    def __init__(self) -> None:
        self.archives = False
        self._once = Once()

    def setup(self, root: Path, world: World) -> None:
        asyncio.run(store(root, world, [0]))

    async def run(self, root: Path, world: World) -> None:
        if self.archives:
            await archive(root, world)
            return
        with closing(Ledger(ledger_path(root / LOG))) as ledger:
            Rotation(path=root / LOG, mode=0o640, config=Rotate(max_bytes=1), ledger=ledger).rotate()

    async def check(self, root: Path, world: World) -> None:
        if self._once.is_new(root, world):
            await store(root, world, [])  # the next start of storage
            await Archiver(root / LOG, WorldBucket(world), REMOVING, Backoff(0.0, 0.0)).run_once()
            assert_in_one_place(root, world, pages(A, 0, 3))


@pytest.mark.parametrize("seed", range(SEED, SEED + (4 if LONG else 1)))
def test_a_rotation_that_a_power_cut_could_undo_was_made_durable_before_its_log_is_archived(seed: int) -> None:
    archived = 0
    for at in range(1, 100):
        scenario = RotatingAndArchiving()
        with stage(scenario) as (root, world, seam):
            met = live(scenario, root, world, ENDED, at)
            scenario.archives = True
            live(scenario, root, world)
            puts = [number for number, effect in enumerate(seam.effects, 1) if isinstance(effect, Note)]
            for cut in cuts(seam.effects) if LONG else puts:
                cut_power(scenario, world, cut, states=STATES, seed=seed)
            archived += bool(puts)
        if not met:
            assert archived > 3
            return
    raise AssertionError("unreachable")


def assert_in_one_place(root: Path, world: World, referrers: list[str]) -> None:
    assert Counter(union(root / LOG, WorldBucket(world).objects)) == Counter(referrers)
