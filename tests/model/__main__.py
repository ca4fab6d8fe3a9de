"""The proof to read: `python -m tests.model` goes through every state, drops each rule in turn, and tells what breaks.

With TRACKER_SOAK=1 the bounds are deeper.
"""

from tests.model.checker import told
from tests.model.scenarios import STORAGE, explored, explored_storage, storage_without
from tests.model.storage_state import RULES


def main() -> None:
    for scenario in STORAGE:
        explored_storage(scenario)
    for rule, clause in RULES.items():
        print()
        print(told(explored(f"without {rule}, {clause}", storage_without(rule)).trace()))


main()
