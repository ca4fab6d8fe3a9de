"""How large the models are: what is sent, and how often each fault may happen."""

import functools
import os
import time
from typing import Any

from tests.model.checker import Exploration, Model
from tests.model.storage_model import Storage
from tests.model.storage_state import Left, State

SOAK = os.environ.get("TRACKER_SOAK") == "1"

OVERLAP = {"m1": "ab", "m2": "bc"}  # two spans of a journal, the second partly published before
FOREIGN = {"m1": "ab", "m2": "S"}  # a span, and one visit of a message without our attributes
CONFLICT = {"m1": "a", "m2": "1"}  # two spans of the same range, of which the bytes differ
ALL = {"m1": "ab", "m2": "bc", "m3": "S"}
ONCE = Left(kill=1, power=1, fsync=1, full=1, again=1)
TWICE = ONCE._replace(kill=2)

# With all rules every property has to hold in each of these; what shows a rule to be needed lies within them.
STORAGE = {"overlap": (OVERLAP, TWICE), "foreign": (FOREIGN, ONCE), "removed": (OVERLAP, Left(kill=1, remove=1))}
STORAGE["conflict"] = (CONFLICT, ONCE)
if SOAK:
    STORAGE |= {
        "three messages": (ALL, ONCE),
        "more of everything": (OVERLAP, Left(kill=2, power=2, fsync=2, full=2, again=2)),
    }

# Without each rule the checker has to find this property broken.
STORAGE_BREAKS = {
    "1": "refused",
    "1a": "refused",
    "2a": "lost",
    "2b": "refused",
    "2c": "lost",
    "2d": "lost",
    "2e": "twice",
    "2f": "refused",
    "3": "lost",
    "4a": "torn",
    "4b": "refused",
    "4c": "twice",
    "4d": "torn",
    "4e": "torn",
    "4f": "refused",
    "5": "lost",
    "6": "twice",
    "8": "lost",
}


def storage_without(rule: str) -> Storage:
    """The scenario that shows what a rule is for."""
    if rule == "5":
        return Storage(*STORAGE["removed"], {rule})
    return Storage({"6": FOREIGN, "8": CONFLICT}.get(rule, OVERLAP), ONCE, {rule})


@functools.cache
def explored_storage(scenario: str) -> Exploration[State]:
    return explored(f"all rules, {scenario}", Storage(*STORAGE[scenario]))


def explored(name: str, model: Model[Any]) -> Exploration[Any]:
    """Go through all states of a model, and print how many there were and how long it took."""
    began = time.perf_counter()
    exploration = Exploration(model)
    verdict = exploration.broken or "all properties hold"
    seconds = time.perf_counter() - began
    print(f"{name}: {verdict}; {len(exploration.states)} states, {exploration.moves} moves, {seconds:.1f} s")
    return exploration
