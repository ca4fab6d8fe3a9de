"""The rules of the journal, in a model of one worker and the publisher: enough together, and none of them too many."""

import pytest

from tests.model.checker import as_text
from tests.model.outbox_model import RULES, Outbox
from tests.model.scenarios import explored

BREAKS = {
    "1": "lost",
    "1a": "lost",
    "2": "malformed",
    "2a": "lost",
    "3": "malformed",
    "3a": "malformed",
    "3b": "malformed",
    "4": "lost",
    "4a": "lost",
    "4b": "unended",
    "7": "given up",
    "7a": "lost",
}


def test_with_all_rules_no_fault_breaks_a_promise() -> None:
    exploration = explored("outbox", Outbox())
    assert exploration.broken is None, as_text(exploration.trace())
    assert {state.maker for state in exploration.states} == {"appends", "torn", "sealed", "dead"}
    assert {state.main for state in exploration.states} == {
        *("looks", "holds", "refused", "aside", "empty", "closed", "dead")
    }


@pytest.mark.parametrize("rule", RULES)
def test_without_the_rule_a_promise_is_broken(rule: str) -> None:
    exploration = explored(f"without {rule}, {RULES[rule]}", Outbox(rule))
    print(as_text(exploration.trace()))
    assert exploration.broken == BREAKS[rule]
