"""What goes wrong, how often, and that it can be had again: the nth call of an action meets the same fate in every run
of one seed, whatever the other calls do in between."""

import hashlib
import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

BEFORE = ("cut", "throttle", "error")
"""The call is not performed: the connection is cut, or the answer is a throttle or a 500."""
AFTER = ("lost_reply", "error_after")
"""The call is performed, and then the connection is cut, or the answer is a 500 all the same."""
ENTRY = ("partial", "unlisted_done", "unlisted_undone")
"""An entry of a batch is failed and not performed, or is in neither list: performed, or not."""
ELSE = ("slow", "hang", "double", "duplicate", "reorder", "stale", "early", "undeleted")
"""A reply that takes its time or never comes; a publish that is delivered twice; a delivery that stays visible; the
messages in another order; a receipt that is stale when it arrives; a visibility of one second; a delete that is
confirmed and not done."""
KINDS = (*BEFORE, *AFTER, *ENTRY, *ELSE)

EARLY_SECONDS = 1.0
SLOW_SECONDS = 0.3


def pairs(actions: Sequence[str], *, every: bool) -> list[tuple[str, str]]:
    """Each call with a fault before its work and one after it, so that each kind has its turn; or with `every` kind."""
    if every:
        return list(itertools.product(actions, (*BEFORE, *AFTER)))
    return [(action, kinds[turn % len(kinds)]) for turn, action in enumerate(actions) for kinds in (BEFORE, AFTER)]


@dataclass
class _Rule:
    kind: str
    actions: frozenset[str]
    chance: float
    left: int | None


class Faults:
    """The faults of one endpoint, and how many of each kind there were."""

    def __init__(self, seed: int = 0) -> None:
        self.injected: Counter[str] = Counter()
        self._seed = seed
        self._rules: list[_Rule] = []
        self._draws: Counter[tuple[str, str]] = Counter()

    def inject(self, kind: str, *actions: str, chance: float = 1.0, times: int | None = None) -> None:
        """From now on this happens to these calls (without names, to all), `times` times at most."""
        assert kind in KINDS, kind
        self._rules = [*self._rules, _Rule(kind, frozenset(actions), chance, times)]

    def clear(self) -> None:
        """Nothing goes wrong any more."""
        self._rules = []

    def strikes(self, kind: str, action: str) -> bool:
        """Whether it happens now; counted if so."""
        for rule in self._rules:
            if rule.kind != kind or (rule.actions and action not in rule.actions) or rule.left == 0:
                continue
            if self._draw(kind, action) < rule.chance:
                if rule.left is not None:
                    rule.left -= 1
                self.injected[kind] += 1
                return True
        return False

    def first(self, kinds: tuple[str, ...], action: str) -> str | None:
        """The first of these kinds that happens now."""
        return next((kind for kind in kinds if self.strikes(kind, action)), None)

    def _draw(self, kind: str, action: str) -> float:
        self._draws[kind, action] += 1
        drawn = f"{self._seed}/{kind}/{action}/{self._draws[kind, action]}".encode()
        return int.from_bytes(hashlib.blake2b(drawn, digest_size=7).digest(), "big") / 2**56
