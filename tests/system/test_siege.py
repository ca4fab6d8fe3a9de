"""A short siege, another one in every run; `make soak` is the long one."""

import secrets
from pathlib import Path

from .siege import Siege


def test_every_answered_visit_is_in_the_log_exactly_once_whatever_is_killed(tmp_path: Path) -> None:
    siege = Siege(tmp_path, seed=secrets.randbits(32))
    tally = siege.run(rounds=6)
    assert tally.is_clean, f"{siege.repeat()}\n{tally}"
    assert tally.answered >= 90
