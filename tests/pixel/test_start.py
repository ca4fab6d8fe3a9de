"""A first GIF waits for nothing slow: what a visit does not need is imported once a worker answers."""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow

# Until these have prepared their process, a signal ends it by its default.
ENTRIES = ["tracker.pixel.__main__", "tracker.pixel.start_worker", "tracker.storage.__main__"]
SLOW = ["aiohttp", "aiobotocore", "botocore"]


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("tracker.pixel.service", SLOW),
        ("tracker.pixel.worker", [*SLOW, "prometheus_client"]),
        *((entry, ["tracker.lifecycle", "uvloop", "asyncio", "logging"]) for entry in ENTRIES),
    ],
)
def test_nothing_slow_is_imported_before_the_listener_answers(module: str, absent: list[str]) -> None:
    program = f"import sys, {module}; print([name for name in {absent!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"
