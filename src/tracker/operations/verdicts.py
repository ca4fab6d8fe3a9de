"""Yes, no, or "cannot tell": logic with three values, for rules of AWS that cannot always be decided from outside.

`Unknown` names what could not be decided. It never becomes a yes or a no by itself: `if verdict` raises TypeError.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NoReturn


@dataclass(frozen=True)
class Unknown:
    """It cannot be told. `reason` names the operator, the key or the element that could not be decided."""

    reason: str

    def __bool__(self) -> NoReturn:
        raise TypeError(f"neither true nor false: {self.reason}")


Verdict = bool | Unknown


def all_of(verdicts: Iterable[Verdict]) -> Verdict:
    """False if one is False; otherwise the first Unknown if there is one; otherwise True."""
    unknown: Unknown | None = None
    for verdict in verdicts:
        if isinstance(verdict, Unknown):
            unknown = verdict if unknown is None else unknown
        elif not verdict:
            return False
    return True if unknown is None else unknown


def any_of(verdicts: Iterable[Verdict]) -> Verdict:
    """True if one is True; otherwise the first Unknown if there is one; otherwise False."""
    return negated(all_of(negated(verdict) for verdict in verdicts))


def negated(verdict: Verdict) -> Verdict:
    return verdict if isinstance(verdict, Unknown) else not verdict
