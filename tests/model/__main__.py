"""The proof to read: `python -m tests.model` goes through every state of the models, drops each rule in turn, and tells
what breaks, and how. With TRACKER_SOAK=1 the bounds are deeper.
"""

from typing import Any

from tests.model import accounts_model, outbox_model, rotation_model, storage_state
from tests.model.accounts_model import Accounts
from tests.model.checker import Model, as_text
from tests.model.outbox_model import Outbox
from tests.model.rotation_model import Rotation
from tests.model.scenarios import STORAGE, explored, explored_storage, storage_without


def tell(part: str, rule: str, clause: str, model: Model[Any]) -> None:
    print(as_text(explored(f"\n{part} without {rule}: {clause}", model).trace()))


def main() -> None:
    for scenario in STORAGE:
        explored_storage(scenario)
    explored("accounts", Accounts())
    explored("outbox", Outbox())
    explored("rotation", Rotation())
    for rule, clause in storage_state.RULES.items():
        tell("storage", rule, clause, storage_without(rule))
    for rule, clause in accounts_model.RULES.items():
        tell("accounts", rule, clause, Accounts(rule))
    for rule, clause in outbox_model.RULES.items():
        tell("outbox", rule, clause, Outbox(rule))
    for rule, clause in rotation_model.RULES.items():
        tell("rotation", rule, clause, Rotation(without=rule))


main()
