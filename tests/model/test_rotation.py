"""A rotation, crashed at every step: which order of renames, directory syncs and commits keeps every line, and why."""

import pytest

from tests.model.checker import told
from tests.model.rotation_model import PROCEDURE, RULES, Rotation
from tests.model.scenarios import explored

BREAKS = {"settle": "refused", "reserve": "lost", "announce": "refused", "sync-old": "lost", "sync-new": "lost"}


@pytest.mark.parametrize("ordered", [True, False], ids=["changes in order", "any changes"])
def test_a_rotation_by_all_rules_loses_no_line(ordered: bool) -> None:
    exploration = explored("rotation", Rotation(ordered=ordered))
    assert exploration.broken is None, told(exploration.trace())
    assert {state.phase for state in exploration.states} == {"down", "idle", *PROCEDURE}


@pytest.mark.parametrize("rule", RULES)
def test_a_rotation_without_the_rule_breaks_a_promise(rule: str) -> None:
    exploration = explored(f"rotation without {rule}, {RULES[rule]}", Rotation(without=rule))
    print(told(exploration.trace()))
    assert exploration.broken == BREAKS[rule]


def test_only_a_directory_that_keeps_the_order_of_changes_forgives_a_rotation_that_syncs_it_once() -> None:
    assert explored("rotation", Rotation(ordered=True, without="sync-old")).broken is None
