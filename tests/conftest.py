"""What every test may use, and the rules of the whole run: fast tests first, files in memory, nothing skipped in CI."""

import functools
import gc
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import botocore.session
import pytest
from hypothesis import HealthCheck, settings

from tests import ports
from tests.system.processes import Broker
from tracker.start import imports_done

# The garbage collector is off while all tests are imported, and never looks at them afterwards: see `imports_done`.
gc.disable()

TESTS = Path(__file__).parent
ROOT = TESTS.parent

# The folders of tests/ in the order they run; files directly in tests/ and folders not named come in the middle.
_FIRST = ("core", "unit")
_LAST = ("local", "system", "browser")

# Set by .ci/run: a machine that checks everything must have every tool, so a skip there is a failure. What a machine
# may refuse and no package brings, as a mount in a container, is skipped all the same; its reason begins like this.
_NOT_PERMITTED = "Skipped: not permitted: "
_REQUIRE_TOOLS = os.environ.get("TRACKER_REQUIRE_TOOLS") == "1"

# Temporary files are made in memory where that has room: an fsync takes 2 µs there, and a hundred times as long on a
# disk. No test needs a disk that keeps its files: what a power cut leaves is computed (tests/seam/disk.py).
_MEMORY = Path("/dev/shm")
_MEMORY_BYTES = 2 << 30  # a container often has 64 MiB, which is too little
if "TMPDIR" not in os.environ and os.access(_MEMORY, os.W_OK) and shutil.disk_usage(_MEMORY).free > _MEMORY_BYTES:
    os.environ["TMPDIR"] = tempfile.tempdir = str(_MEMORY)

# On a busy machine an example takes longer than hypothesis' deadline of 200 ms.
settings.register_profile("tracker", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tracker")

# coverage sets this variable; a Python process that has it in its environment measures itself.
_COVERAGE_OF_PROCESSES = "COVERAGE_PROCESS_CONFIG"

# No setting of this machine reaches a test or what it starts: no account, no proxy, no certificates. Nothing calls by
# HTTPS, and to read the certificates of all authorities takes 50 ms in each process that imports aiohttp, and 30 ms for
# each client of AWS. The null device is taken for an empty file.
for _name in list(os.environ):
    if _name.startswith("AWS_") or _name.lower().endswith("_proxy") or _name.endswith("CA_BUNDLE"):
        del os.environ[_name]
os.environ["AWS_EC2_METADATA_DISABLED"] = "true"
for _name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE", "SSL_CERT_FILE"):
    os.environ[_name] = os.devnull

# The tests make hundreds of botocore sessions. Each one would read the same models again, and look through the
# directories of all services of AWS.
botocore.session.create_loader = functools.cache(botocore.session.create_loader)


def _rank(path: Path) -> int:
    folder = path.relative_to(TESTS).parts[0] if path.is_relative_to(TESTS) else ""
    if path.name.startswith("test_browser"):
        folder = "browser"
    if folder in _FIRST:
        return _FIRST.index(folder)
    if folder in _LAST:
        return len(_FIRST) + 1 + _LAST.index(folder)
    return len(_FIRST)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: _rank(item.path))


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop() -> None:
    imports_done()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Do not measure a test that is marked `unmeasured`, nor its processes: it would take twice as long."""
    coverage = sys.modules.get("coverage") if item.get_closest_marker("unmeasured") else None
    measuring = coverage.Coverage.current() if coverage else None
    if measuring is None:
        return (yield)
    measuring.stop()
    for_processes = os.environ.pop(_COVERAGE_OF_PROCESSES, None)
    try:
        return (yield)
    finally:
        if for_processes is not None:
            os.environ[_COVERAGE_OF_PROCESSES] = for_processes
        measuring.start()


def _refuse_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    if _REQUIRE_TOOLS and report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        if reason.startswith(_NOT_PERMITTED):
            return
        report.outcome = "failed"
        report.longrepr = f"TRACKER_REQUIRE_TOOLS=1, and this was to be skipped: {reason}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    _refuse_skip(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    _refuse_skip(report)
    return report


@pytest.fixture
def free_ports() -> Callable[[int], list[int]]:
    """A function that gives `count` TCP ports of the loopback, different ones, that were free a moment ago."""

    return lambda count: [ports.free_port() for _ in range(count)]


@pytest.fixture
def free_port() -> int:
    """A TCP port of the loopback that was free a moment ago."""
    return ports.free_port()


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """The local broker, one for all tests of this process: each test makes its own topic and queues on it."""
    pytest.importorskip("moto", reason="the local broker is moto")
    with Broker(tmp_path_factory.mktemp("broker")) as running:
        running.wait_ready()
        yield running
