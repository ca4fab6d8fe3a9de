"""The checker itself: it goes everywhere, finds the shortest way to what is broken, and knows what is stuck."""

from collections.abc import Iterator

import pytest

from tests.model.checker import Exploration, as_text
from tests.model.files import File


class Countdown:
    """From 9 by ones and twos; a fault takes it from 5 to -1, which leads nowhere."""

    def __init__(self, *, faults: bool = False, forbidden: int | None = None) -> None:
        self.with_faults = faults
        self.forbidden = forbidden

    def start(self) -> int:
        return 9

    def steps(self, state: int) -> Iterator[tuple[str, int]]:
        for less in (1, 2):
            if state >= less:
                yield f"-{less}", state - less

    def faults(self, state: int) -> Iterator[tuple[str, int]]:
        if self.with_faults and state == 5:
            yield "fall", -1

    def broken(self, state: int) -> str | None:
        return "forbidden" if state == self.forbidden else None

    def at_rest(self, state: int) -> bool:
        return state == 0


def test_every_state_is_reached_once_and_knows_its_way_to_rest() -> None:
    exploration = Exploration(Countdown())
    assert sorted(exploration.states) == list(range(10))
    assert exploration.broken is None
    assert len(exploration.way_to_rest()) == 9


def test_a_broken_property_is_found_by_a_shortest_way() -> None:
    exploration = Exploration(Countdown(forbidden=4))
    assert exploration.broken == "forbidden"
    assert [state for _, state in exploration.trace()] in ([8, 6, 4], [7, 6, 4], [7, 5, 4])
    assert as_text(exploration.trace()).count("\n") == 2


def test_a_state_from_which_only_faults_lead_to_rest_is_stuck() -> None:
    exploration = Exploration(Countdown(faults=True))
    assert exploration.broken == "stuck"
    assert exploration.trace()[-1] == ("fall", -1)


@pytest.mark.parametrize(
    ("file", "found"),
    [
        (File("a.", "a.", 2), {"a."}),
        (File("a.", "", 0), {"", "a", "0", "a.", "0.", "a0", "00"}),
        (File("a.b.", "a.", 4), {"a.", "a.0", "a.00"}),  # a failed fdatasync
        (File("", "a", 0), {"", "a"}),  # a cut that was not synced
        (File("b.", "a.", 0), {"a.", "b."}),  # and what was written in its place
    ],
    ids=["synced", "written", "sync failed", "cut", "cut and written"],
)
def test_a_power_cut_leaves_every_mix_of_what_was_not_synced(file: File, found: set[str]) -> None:
    assert {left.cache for left in file.after_power_cut()} == found


def test_a_failed_sync_leaves_nothing_to_the_next_one() -> None:
    file = File().write(0, "a.").sync_failed()
    assert (file.cache, file.synced().disk, file.synced().durable) == ("a.", "00", "")
    assert file.write(0, "a.").synced().durable == "a"
