"""A rotation, crashed at every step: which order of renames, directory syncs and commits keeps every line, and why."""

import pytest

from tests.model.checker import told
from tests.model.rotation_model import LINK, RENAME, RULES, Rotation
from tests.model.scenarios import explored

PROCEDURES = {"rename": RENAME, "link": LINK}
BREAKS = {"settle": "refused", "announce": "refused", "sync-old": "lost", "sync-new": "lost"}


@pytest.mark.parametrize("ordered", [True, False], ids=["ordered", "any"])
@pytest.mark.parametrize("procedure", PROCEDURES)
def test_a_rotation_by_all_rules_loses_no_line(procedure: str, ordered: bool) -> None:
    exploration = explored(f"rotation by {procedure}", Rotation(PROCEDURES[procedure], ordered=ordered))
    assert exploration.broken is None, told(exploration.trace())


@pytest.mark.parametrize("procedure", PROCEDURES)
@pytest.mark.parametrize("rule", RULES)
def test_a_rotation_without_the_rule_breaks(procedure: str, rule: str) -> None:
    exploration = explored(f"rotation by {procedure} without {rule}", Rotation(PROCEDURES[procedure], without=rule))
    print(told(exploration.trace()))
    # A name that is taken: rename replaces the file that has it, link fails.
    taken = {"rename": "lost", "link": "refused"}[procedure]
    assert exploration.broken == BREAKS.get(rule, taken)


@pytest.mark.parametrize("procedure", PROCEDURES)
def test_only_an_ordered_directory_forgives_a_sync_left_out_between_the_names(procedure: str) -> None:
    assert explored("ordered", Rotation(PROCEDURES[procedure], ordered=True, without="sync-old")).broken is None
