"""The benchmarks can be run, and `make load` proves what it says. Sizes are tiny: the figures mean nothing here."""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import load
from benchmarks.bench import Bench
from benchmarks.processes import get
from benchmarks.report import Report, Row
from benchmarks.rows import GROUPS
from benchmarks.sample import packed_spans
from benchmarks.servers import SYSTEM_PATH, Pixel, Servers, Service
from benchmarks.wrk import Hits
from tracker.core.message import StoredSpan, unpack

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="benchmarks pin processes and read /proc: Linux only"),
    pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed"),
    pytest.mark.skipif(shutil.which("taskset") is None, reason="taskset is not installed"),
]


def few(url: str, **options: object) -> Hits:
    """Stands in for wrk, which takes a whole second at least."""
    port = int(url.split(":")[2].partition("/")[0])
    for _ in range(20):
        assert get(port, "/track").startswith(b"GIF8")
    return Hits(requests=20, seconds=0.1, p50=0.0, p99=0.0, max=0.0, refused=0, broken=0)


@pytest.mark.skipif(shutil.which("nginx", path=SYSTEM_PATH) is None, reason="nginx is not installed")
# These two start every kind of server and use every way to measure.
@pytest.mark.parametrize("group", ["hits", "storage", "sizes"])
def test_a_measurement_gives_every_row_a_value(group: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.bench.wrk", few)
    bench = Bench(seconds=0.02, turns=1)
    rows = GROUPS[group].measure(bench)
    assert bench.missing == []
    assert rows
    for row in rows:
        assert row.value is not None, row.what  # 0 where the clock of /proc saw nothing of so little work


@pytest.mark.parametrize(
    ("value", "more_is_better", "verdict"),
    [(1.0, False, "aim"), (2.0, False, "at least"), (2.1, False, "MISSED"), (2.0, True, "aim"), (0.9, True, "MISSED")],
)
def test_a_row_says_what_it_reached(value: float, more_is_better: bool, verdict: str) -> None:
    least, aim = (1.0, 2.0) if more_is_better else (2.0, 1.0)
    row = Row(what="x", value=value, least=least, aim=aim, more_is_better=more_is_better)
    assert row.verdict == verdict


def test_the_page_has_every_row_and_says_which_peers_were_missing() -> None:
    report = Report(sizes="Turns of 1 s.", missing=["nginx"])
    report.add("A hit", [Row(what="CPU", value=12.345, unit="µs"), Row(what="against nginx", value=None)])
    assert "| CPU | 12.35 µs |" in report.as_page()
    assert "| against nginx |  |  |  | not measured |" in report.as_page()
    for text in (report.as_page(), report.as_text()):
        assert "Missing: nginx" in text


@pytest.mark.parametrize("visits", [1, 3_000, 9_000])
def test_a_backlog_is_whole_spans_one_behind_the_other(visits: int) -> None:
    spans = [unpack(message.attributes, message.body) for message in packed_spans(visits)]
    end = 0
    for span in spans:
        assert isinstance(span, StoredSpan)
        assert span.start == end
        end = span.end
    assert sum(len(span.lines) for span in spans if isinstance(span, StoredSpan)) == visits


@pytest.fixture
def running(tmp_path: Path) -> Iterator[tuple[Pixel, Service, Path]]:
    with Servers(tmp_path) as servers:
        endpoint = servers.aws(keep=True).endpoint
        folder = servers.log_directory()
        yield servers.pixel(endpoint), servers.storage(endpoint, folder), folder / "visits.log"


def load_it(pixel: Pixel, storage: Service, log: Path) -> subprocess.CompletedProcess[str]:
    admins = ["--pixel-admin", pixel.admin, "--storage-admin", storage.admin]
    command = [sys.executable, "-m", "benchmarks.load", "--url", pixel.url, *admins, "--log", str(log)]
    return subprocess.run([*command, "--seconds", "1"], capture_output=True, text=True, timeout=60, check=False)


def test_make_load_proves_that_the_log_grew_by_the_accepted_visits(running: tuple[Pixel, Service, Path]) -> None:
    done = load_it(*running)
    assert done.returncode == 0, done.stderr
    proven = re.search(r"proven: ([\d,]+) visits accepted, ([\d,]+) lines more", done.stdout)
    assert proven is not None
    assert proven[1] == proven[2]
    assert int(proven[1].replace(",", "")) == running[2].read_bytes().count(b"\n") > 0


@pytest.mark.parametrize(
    ("accepted", "discarded", "appended", "grown"),
    [
        (99, 0, 99, 99),
        (165, 0, 165, 165),
        (100, 1, 100, 100),
        (100, 0, 99, 100),
        (100, 0, 100, 99),
        (100, 0, 100, 101),
    ],
)
def test_make_load_proves_nothing_when_a_visit_is_missing_or_too_many(
    accepted: int, discarded: int, appended: int, grown: int
) -> None:
    hits = Hits(requests=100, seconds=1.0, p50=0.0, p99=0.0, max=0.0, refused=0, broken=0)
    assert load.problems(hits, 64, accepted, discarded, appended, grown)
    assert not load.problems(hits, 64, 164, 0, 164, 164)


def test_make_load_says_when_nothing_runs(tmp_path: Path, free_port: int) -> None:
    url = f"http://127.0.0.1:{free_port}"
    command = [sys.executable, "-m", "benchmarks.load", "--pixel-admin", url, "--log", str(tmp_path / "x")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert f"no pixel answers at {url}" in done.stderr
    assert "make run" in done.stderr


def test_make_load_says_when_wrk_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks.wrk import WrkMissing, wrk

    monkeypatch.setattr(shutil, "which", lambda *_: None)
    with pytest.raises(WrkMissing, match="apt-get install wrk"):
        wrk("http://127.0.0.1:1/track", seconds=1)
