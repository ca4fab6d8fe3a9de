"""The fixture of the tests of `make run`."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from .running import System


@pytest.fixture
def system(tmp_path: Path, free_ports: Callable[[int], list[int]]) -> Iterator[System]:
    made = System(tmp_path, free_ports(6))
    yield made
    made.destroy()
