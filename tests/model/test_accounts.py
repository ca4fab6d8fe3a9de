"""What the ledger forgets of a journal, in a model of months: never what may come again, never a gap."""

import pytest

from tests.model.accounts_model import RULES, Accounts
from tests.model.checker import as_text
from tests.model.scenarios import explored

BREAKS = {"7a": "twice", "7b": "unnamed", "7c": "twice", "7d": "twice"}


def test_what_the_ledger_forgets_never_comes_again() -> None:
    exploration = explored("accounts", Accounts())
    assert exploration.broken is None, as_text(exploration.trace())


@pytest.mark.parametrize("rule", RULES)
def test_forgetting_without_the_rule_breaks_a_promise(rule: str) -> None:
    exploration = explored(f"without {rule}, {RULES[rule]}", Accounts(rule))
    print(as_text(exploration.trace()))
    assert exploration.broken == BREAKS[rule]
