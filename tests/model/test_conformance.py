"""The model is the code's: led along the model's traces, the real ledger, log, batches and recovery do the same."""

import asyncio
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.model.checker import Exploration
from tests.model.replay import Replay
from tests.model.scenarios import CONFLICT, FOREIGN, ONCE, OVERLAP, SOAK
from tests.model.storage_model import Storage
from tests.model.storage_state import Left, State

pytestmark = pytest.mark.unmeasured

SCENARIOS = {"overlap": (OVERLAP, ONCE), "foreign": (FOREIGN, Left(kill=1)), "removed": (OVERLAP, Left(remove=1))}
SCENARIOS["conflict"] = (CONFLICT, Left(kill=1, full=1))


def kind(state: State, what: str, following: State) -> tuple[object, ...]:
    """Moves of one kind are the same to the code: one trace has to go through each."""
    pending = state.ledger.pending is not None
    if SOAK:
        return state.phase, what, pending, state.durable, len(state.new), following.phase
    return state.phase, re.split(r" leaves|\d", what)[0], pending, state.durable, following.phase


def traces(exploration: Exploration[State], model: Storage) -> Iterator[list[tuple[str, State]]]:
    """Whole lives, to rest where rest can be reached, that together go through every kind of move."""
    index = {state: at for at, state in enumerate(exploration.states)}
    onward = exploration.way_to_rest()
    covered: set[tuple[object, ...]] = set()
    for at in reversed(range(len(exploration.states))):
        state = exploration.states[at]
        for what, following in (*model.steps(state), *model.faults(state)):
            if kind(state, what, following) in covered:
                continue
            trace = [*exploration.trace(at), (what, following)]
            now = index[following]
            while (then := onward.get(now)) is not None:
                step = next(w for w, s in model.steps(exploration.states[now]) if s == exploration.states[then])
                trace.append((step, exploration.states[then]))
                now = then
            before = model.start()
            for move, after in trace:
                covered.add(kind(before, move, after))
                before = after
            yield trace


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_the_code_goes_the_ways_of_the_model(scenario: str, monkeypatch: pytest.MonkeyPatch) -> None:
    messages, left = SCENARIOS[scenario]
    model = Storage(messages, left)
    exploration = Exploration(model)
    count = moves = 0
    for trace in traces(exploration, model):
        with tempfile.TemporaryDirectory() as folder:
            replay = Replay(Path(folder) / "visits.log", messages, trace)
            with monkeypatch.context() as patched:
                replay.intercept(patched)
                asyncio.run(replay.run())
        count, moves = count + 1, moves + len(trace)
    print(f"{scenario}: {count} traces, {moves} moves")
    assert count
