"""The rules of the ledger, in a model of which every state is looked at: enough together, and none of them too many."""

import pytest

from tests.model.checker import as_text
from tests.model.scenarios import (
    ONCE,
    OVERLAP,
    STORAGE,
    STORAGE_BREAKS,
    explored,
    explored_storage,
    storage_without,
)
from tests.model.storage_model import Storage
from tests.model.storage_process import RECOVERING, RUNNING, Moves
from tests.model.storage_state import RULES, State


@pytest.mark.parametrize("scenario", STORAGE)
def test_with_all_rules_no_fault_breaks_a_promise(scenario: str) -> None:
    exploration = explored_storage(scenario)
    assert exploration.broken is None, as_text(exploration.trace())


def test_the_faults_lead_everywhere() -> None:
    phases = {state.phase for state in explored_storage("overlap").states}
    assert phases == {"down", *RECOVERING, *RUNNING} - {"remember"}, "a phase nobody reaches proves nothing"


@pytest.mark.parametrize("rule", RULES)
def test_without_the_rule_a_promise_is_broken(rule: str) -> None:
    exploration = explored(f"without {rule}, {RULES[rule]}", storage_without(rule))
    print(as_text(exploration.trace()))
    assert exploration.broken == STORAGE_BREAKS[rule]


def test_checkpoints_when_idle_are_needed_for_none_of_them() -> None:
    """It keeps `tracker audit` exact, and a rotation needs it; a crash finds the same with and without."""

    class WithoutCheckpoints(Storage):
        def steps(self, s: State) -> Moves:
            return ((what, following) for what, following in super().steps(s) if what != "checkpoint")

        def at_rest(self, s: State) -> bool:
            return super().at_rest(s._replace(ledger=s.ledger._replace(pending=None)))

    exploration = explored("without checkpoints", WithoutCheckpoints(OVERLAP, ONCE))
    assert exploration.broken is None, as_text(exploration.trace())
