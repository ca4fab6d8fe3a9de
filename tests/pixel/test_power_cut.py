"""The pixel after a power cut: synced visits are sent, damaged lines are counted, and nothing else is sent.

The states of the disk are those of `tests.seam.disk`.
"""

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from tests import metrics
from tests.pixel.test_every_call import Accepting, Pixel, Publishing, drain, impatient, line, stored
from tests.seam import faults
from tests.seam.method import LONG, SEED, World, cut_power, cuts, live, stage
from tracker import telemetry
from tracker.pixel.outbox_files import committed_offset, journals, segment_path, segments

pytestmark = [pytest.mark.slow, pytest.mark.unmeasured]

__all__ = ["impatient"]

STATES = 60 if LONG else 3  # after each effect
SEEDS = range(SEED, SEED + (4 if LONG else 1))


class PowerCut(Pixel):
    """It begins without files. In the end what was synced is sent, and all damage is counted."""

    foreign: Sequence[str] = ()

    async def check(self, root: Path, world: World) -> None:
        damaged = count_damaged()
        expected = damage(root / "outbox", {line(number) for number, _ in world.all("answered")})
        await drain(root / "outbox", world)
        sent = Counter(each for lines in stored(world).values() for each in lines.values())
        assert not [each for each, count in sent.items() if count > 1], "sent twice"
        recorded = {line(number) for number, was_recorded in world.all("answered") if was_recorded}
        assert sent.keys() <= recorded, "sent, and nobody asked for it"
        assert {line(number) for number in synced(world)} <= sent.keys(), "synced, and gone all the same"
        assert count_damaged() - damaged == expected


class WhileSnsIsAway(PowerCut, Accepting):
    """Nothing was published before the power cut."""


class WhilePublishing(PowerCut, Publishing):
    """Part was published before: it may be damaged, and the committed offset may be lost."""


def synced(world: World) -> set[int]:
    """The visits that an fsync has made durable: those since the previous fsync, if it succeeded."""
    durable: set[int] = set()
    begins = 0
    for what, value in world.everything():
        if what in ("synced", "given up"):
            durable |= set(range(begins, value)) if what == "synced" else set()
            begins = value
    return durable & {number for number, was_recorded in world.all("answered") if was_recorded}


def damage(outbox: Path, sound: set[bytes]) -> int:
    """How many of the lines that are not published were never appended."""
    count = 0
    for journal in journals(outbox) if outbox.exists() else []:
        for segment in segments(journal):
            rest = segment_path(journal, segment).read_bytes()[max(0, committed_offset(journal) - segment) :]
            count += len([piece for piece in rest.split(b"\n")[:-1] if piece + b"\n" not in sound])
    return count


def count_damaged() -> float:
    return metrics.value(telemetry.DISCARDED, reason="damaged")


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("scenario", [WhileSnsIsAway(), WhilePublishing()], ids=["SNS away", "publishing"])
def test_what_was_synced_is_sent_after_a_power_cut_at_any_point_and_damage_is_counted(
    scenario: WhileSnsIsAway | WhilePublishing, seed: int
) -> None:
    before = count_damaged()
    with stage(scenario) as (root, world, seam):
        live(scenario, root, world)
        assert len(synced(world)) == 8
        points = cuts(seam.effects)
        assert len(points) > 30
        for at in points:
            cut_power(scenario, world, at, states=STATES, seed=seed)
    assert count_damaged() > before, "no state had damage in it"


@pytest.mark.parametrize("seed", SEEDS)
def test_a_failed_fsync_costs_at_a_later_power_cut_what_it_was_to_make_durable_and_no_more(seed: int) -> None:
    scenario = WhileSnsIsAway()
    for at in itertools.count(1):
        with stage(scenario) as (root, world, seam):
            hit = live(scenario, root, world, replace(faults.EIO, calls=frozenset({"sync"})), at)
            assert len(world.all("answered")) >= 11, "the answers went on"
            if at > 2:  # the journal was there
                assert all(was_recorded for _, was_recorded in world.all("answered"))
            for cut in cuts(seam.effects)[-8:]:
                cut_power(scenario, world, cut, states=STATES, seed=seed)
        if not hit:
            return
