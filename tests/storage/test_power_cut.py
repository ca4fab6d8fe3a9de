"""Storage at a power cut: what was deleted from SQS is in the log once, whatever the disk kept of the rest.

The states of the disk are those of `tests.seam.disk`; of the ledger, SQLite's own promise is trusted, and that it is
asked for it is tested here.
"""

from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.seam import faults
from tests.seam.faults import Fault
from tests.seam.method import LONG, SEED, cut_power, cuts, live, stage
from tests.storage.rig import A, open_rig, span
from tests.storage.test_every_call import LOG, Appending, Compressing, impatient

pytestmark = [pytest.mark.slow, pytest.mark.unmeasured]

__all__ = ["impatient"]

STATES = 100 if LONG else 3  # after each effect
SEEDS = range(SEED, SEED + (4 if LONG else 1))


class Alone(Appending):
    """Not even the log's directory is there, so that its name is to be made durable too."""

    foreign: Sequence[str] = ()


class AloneAndRotating(Compressing):
    """The names of the files put aside, too, and what they are compressed to."""

    foreign: Sequence[str] = ()


@pytest.mark.parametrize("scenario", [Alone(), AloneAndRotating()], ids=["appending", "rotating"])
@pytest.mark.parametrize("seed", SEEDS)
def test_what_was_deleted_from_sqs_is_in_the_log_once_after_a_power_cut_at_any_point(
    scenario: Appending, seed: int
) -> None:
    with stage(scenario) as (root, world, seam):
        live(scenario, root, world)
        points = cuts(seam.effects)
        assert len(points) > 20
        for at in points:
            cut_power(scenario, world, at, states=STATES, seed=seed)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("append", range(4))
def test_an_append_that_only_the_page_cache_has_after_a_failed_fsync_is_written_again(append: int, seed: int) -> None:
    scenario = Alone()
    with stage(scenario) as (root, world, seam):
        live(scenario, root, world)
        syncs = [call for call in seam.calls if call.startswith("sync ")]
        at = [number for number, call in enumerate(syncs, start=1) if call == f"sync {LOG}"][append]
    with stage(scenario) as (root, world, seam):
        assert live(scenario, root, world, Fault("failed fsync", frozenset({"sync"}), error=5), at)
        assert world.everything()[-2:-1] == [("sync failed", LOG)]
        assert world.all("acknowledged") == list(range(append))
        ended = len(seam.effects)
        live(scenario, root, world)  # the same kernel: all of it reads back, and nothing of it need be on the disk
        assert sorted(world.all("acknowledged")) == list(range(4))
        for cut in cuts(seam.effects):
            if cut >= ended:
                cut_power(scenario, world, cut, states=STATES, seed=seed)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_torn_append_that_was_cut_off_stays_off(seed: int) -> None:
    scenario = Alone()
    with stage(scenario) as (root, world, seam):
        assert live(
            scenario, root, world, faults.TORN, 3
        )  # the first cut is the lock's, the first write the first batch
        assert world.all("acknowledged") == [0]
        ended = len(seam.effects)
        live(scenario, root, world)
        for cut in cuts(seam.effects):
            if cut >= ended:
                cut_power(scenario, world, cut, states=STATES, seed=seed)


async def test_the_ledger_asks_sqlite_for_commits_that_a_power_cut_does_not_take(tmp_path: Path) -> None:
    for _ in range(2):  # a new one, and one that is there
        async with open_rig(tmp_path / "visits.log") as rig:
            await rig.write(span(A, 0, 2))
            assert await rig.query("PRAGMA synchronous") == [(2,)]  # FULL
            assert await rig.query("PRAGMA journal_mode") == [("wal",)]
            assert await rig.query("PRAGMA locking_mode") == [("normal",)]
