"""The fixture that the tests of the archive share."""

from pathlib import Path

import pytest


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """Where the live log would be. Its folder exists."""
    (tmp_path / "logs").mkdir()
    return tmp_path / "logs" / "visits.log"
