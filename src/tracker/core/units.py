"""Sizes and durations as people write them in a configuration: a number and a unit, such as `100MB`, `1.5GiB`, `7d`."""

import re
from collections.abc import Mapping
from fractions import Fraction
from typing import NamedTuple

from tracker.errors import ConfigurationError

_NUMBER = re.compile(r"([0-9]{1,30}(?:\.[0-9]{0,30})?|\.[0-9]{1,30}) ?([A-Za-z]{1,3})")


class Quantity(NamedTuple):
    """What a key measures: the unit of a plain number, the units that text may have, and an example of each form."""

    plain: str
    units: Mapping[str, Fraction]
    examples: str
    any_case: bool

    @property
    def expectation(self) -> str:
        return f"a number of {self.plain}, or one with a unit ({', '.join(self.units)}) such as {self.examples}"

    def parse(self, text: str) -> Fraction:
        """The number of `plain` units. Raises ConfigurationError with the expectation."""
        found = _NUMBER.fullmatch(text)
        unit = None
        if found is not None:
            wanted = found[2].lower() if self.any_case else found[2]
            unit = next((name for name in self.units if (name.lower() if self.any_case else name) == wanted), None)
        if found is None or unit is None:
            raise ConfigurationError(f"expected {self.expectation}, got {text!r}")
        return Fraction(found[1]) * self.units[unit]


# A letter alone (`100M`) is refused: some programs take it for 10^6 bytes and others for 2^20.
SIZE = Quantity(
    "bytes",
    {
        "B": Fraction(1),
        **{f"{letter}B": Fraction(1000**power) for power, letter in enumerate("kMGT", 1)},
        **{f"{letter}iB": Fraction(1024**power) for power, letter in enumerate("KMGT", 1)},
    },
    "100MB or 1GiB",
    any_case=True,
)
# Case counts here, because `M` would mean months to some.
DURATION = Quantity(
    "seconds",
    {
        "ms": Fraction(1, 1000),
        "s": Fraction(1),
        "m": Fraction(60),
        "h": Fraction(3_600),
        "d": Fraction(86_400),
    },
    "30s or 7d",
    any_case=False,
)
