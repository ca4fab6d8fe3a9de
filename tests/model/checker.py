"""A small explicit-state model checker: every state a model can reach, breadth first, none sampled.

A model is a start, what its parts may do next (`steps`), what may befall them (`faults`, each rationed in the state, so
that there are finitely many), the properties every state must have (`broken`), and where all may come to rest. The
first state without a property is the end of a shortest way there. When none is broken, each state must still be able
to come to rest by steps alone: one that cannot is "stuck".
"""

from collections.abc import Hashable, Iterable
from typing import Generic, Protocol, TypeVar

S = TypeVar("S", bound=Hashable)
Moves = Iterable[tuple[str, S]]  # what happens, and the state after it


class Model(Protocol[S]):
    def start(self) -> S: ...

    def steps(self, state: S) -> Moves[S]: ...

    def faults(self, state: S) -> Moves[S]: ...

    def broken(self, state: S) -> str | None:
        """The name of a property that the state has not, if there is one."""

    def at_rest(self, state: S) -> bool: ...


class Exploration(Generic[S]):
    """All states of a model, or those up to the first broken one. `broken` names the property, `trace` leads there."""

    def __init__(self, model: Model[S]) -> None:
        self.states = [model.start()]
        self.came: list[tuple[int, str]] = [(0, "")]  # from which state, and by what
        self.moves = 0
        self.broken = model.broken(self.states[0])
        self._model = model
        self._steps_into: list[list[int]] = [[]]
        self._worst = 0
        self._explore()
        if self.broken is None and (stuck := self._stuck()):
            self.broken, self._worst = "stuck", stuck[0]

    def trace(self, index: int | None = None) -> list[tuple[str, S]]:
        """A shortest way from the start to a state, by default the broken one."""
        at = self._worst if index is None else index
        way = []
        while at:
            before, what = self.came[at]
            way.append((what, self.states[at]))
            at = before
        return way[::-1]

    def way_to_rest(self) -> dict[int, int]:
        """For every state that is not at rest the next one on a shortest way there, by steps alone."""
        resting = [index for index, state in enumerate(self.states) if self._model.at_rest(state)]
        onward: dict[int, int] = {}
        known = set(resting)
        for index in resting:  # grows while we go through it
            for before in self._steps_into[index]:
                if before not in known:
                    known.add(before)
                    onward[before] = index
                    resting.append(before)
        return onward

    def _explore(self) -> None:
        model, states, known = self._model, self.states, {self.states[0]: 0}
        for at, state in enumerate(states):  # grows while we go through it
            for is_step, moves in ((True, model.steps(state)), (False, model.faults(state))):
                for what, following in moves:
                    self.moves += 1
                    index = known.get(following)
                    if index is None:
                        index = known[following] = len(states)
                        states.append(following)
                        self.came.append((at, what))
                        self._steps_into.append([])
                        if (broken := model.broken(following)) is not None:
                            self.broken, self._worst = broken, index
                            return
                    if is_step:
                        self._steps_into[index].append(at)

    def _stuck(self) -> list[int]:
        onward = self.way_to_rest()
        return [i for i, state in enumerate(self.states) if i not in onward and not self._model.at_rest(state)]


def as_text(trace: list[tuple[str, S]]) -> str:
    """A trace as text, with one line for each move."""
    return "\n".join(f"  {number:2}. {what}" for number, (what, _) in enumerate(trace, 1))
