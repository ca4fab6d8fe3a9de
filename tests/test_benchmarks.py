"""The benchmarks can be run, and `make load` proves what it says. Sizes are tiny: the figures mean nothing here."""

import contextlib
import re
import shutil
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from benchmarks import load
from benchmarks.bench import Bench
from benchmarks.peers import SYSTEM_PATH, Peer
from benchmarks.processes import CORES, get
from benchmarks.quiet import Noise, Watch
from benchmarks.report import PAGE, Group, Report, Row
from benchmarks.rows import GROUPS
from benchmarks.sample import packed_spans
from benchmarks.servers import Pixel, Servers, Service
from benchmarks.visitors import ADDRESS, MIXES, NUMBER, requests
from benchmarks.wrk import Hits, WrkMissing, wrk
from tests.launched import ROOT
from tracker.core.message import StoredSpan, unpack
from tracker.pixel.fast_path import FastPath
from tracker.pixel.outbox_files import journals

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
# These start every kind of server and use every way to measure.
@pytest.mark.parametrize("group", ["peers", "many-workers", "orphans", "storage", "sizes"])
def test_a_measurement_gives_every_row_a_value(group: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("benchmarks.bench.wrk", few)
    bench = Bench(home=tmp_path, seconds=0.02, turns=1)
    values = GROUPS[group].measure(bench)
    assert set(bench.missing) <= {"h2o", "haproxy"}  # which CI does not install
    for row in GROUPS[group].rows:  # 0 where the clock of /proc saw nothing of so little work
        assert row.of(values) is not None or any(peer in row.what for peer in bench.missing), row.what


def test_a_peer_that_is_not_installed_is_said_to_be_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    absent = {"h2o": Peer("no-such-program", ""), "granian": Peer("no_such_package", "", is_python=True)}
    monkeypatch.setattr("benchmarks.servers.PEERS", absent)
    bench = Bench(home=tmp_path)
    with bench.servers() as servers:
        assert bench.peers(servers, "h2o", "granian") == {}
    report = a_report(missing=bench.missing)
    report.add("x", {}, QUIET)
    for text in (report.as_page(), report.as_text()):
        assert "Not installed here, and so not measured: h2o, granian." in text
    assert "| CPU | not measured |" in report.as_page()


QUIET = Noise(others=0.0, stolen=0.0, load=0.1)


def a_report(missing: Sequence[str] = ()) -> Report:
    rows = [
        Row(what="CPU", value="cpu", unit="µs", least=20, aim=10),
        Row(what="against nginx", value="cpu", over="nginx", digits=1),
    ]
    return Report(sizes="Rounds: 3.", groups={"x": Group("A hit", lambda _: {}, "How.", rows)}, missing=list(missing))


@pytest.mark.parametrize(
    ("median", "more_is_better", "verdict"),
    [
        (1.0, False, "aim"),
        (2.0, False, "at least"),
        (2.1, False, "**missed**"),
        (2.004, False, "at least"),
        (2.0, True, "aim"),
        (0.9, True, "**missed**"),
    ],
)
def test_a_row_says_what_it_reached(median: float, more_is_better: bool, verdict: str) -> None:
    least, aim = (1.0, 2.0) if more_is_better else (2.0, 1.0)
    row = Row(what="x", value="x", least=least, aim=aim, more_is_better=more_is_better)
    assert row.columns([{"x": median}])[-1] == verdict


def test_the_page_shows_median_and_range_of_the_rounds() -> None:
    report = a_report()
    for cpu in (12.0, 30.0, 16.0):
        report.add("x", {"cpu": cpu, "nginx": 4.0}, QUIET)
    assert "| CPU | 16.00 µs | 12.00 to 30.00 | 20.00 µs | 10.00 µs | at least |" in report.as_page()
    assert "| against nginx | 4.0 | 3.0 to 7.5 |" in report.as_page()
    assert "The machine was quiet during all measurements." in report.as_page()


@pytest.mark.parametrize(("rounds", "is_said"), [(2, True), (3, False)])
def test_the_page_says_when_it_has_too_few_rounds(rounds: int, is_said: bool) -> None:
    report = a_report()
    for _ in range(rounds):
        report.add("x", {}, QUIET)
    assert ("**Fewer than 3 rounds:**" in report.as_page()) is is_said


@pytest.mark.parametrize("noise", [Noise(others=0.2, stolen=0.0, load=2.5), Noise(others=0.0, stolen=0.1, load=0.1)])
def test_the_page_says_when_the_machine_was_not_quiet(noise: Noise) -> None:
    report = a_report()
    report.add("x", {}, QUIET)
    report.add("x", {}, noise)
    for text in (report.as_page(), report.as_text()):
        assert "**The machine was not quiet** during these measurements: A hit." in text
    shares = f"0.0% to {noise.others:.1%} | 0.0% to {noise.stolen:.1%}"
    assert f"| A hit | {shares} | 0.10, {noise.load:.2f} | not quiet |" in report.as_page()


def test_the_work_of_the_benchmark_itself_is_not_that_of_others() -> None:
    burn = "import time\nwhile time.process_time() < 0.15: pass"
    began = time.monotonic()
    with Watch() as watch:
        for running in [subprocess.Popen([sys.executable, "-S", "-c", burn]) for _ in CORES * 4]:
            assert running.wait() == 0
    ours = 4 * 0.15 / (time.monotonic() - began)  # of each core
    assert watch.noise.others <= 1 - ours + 0.1  # if ours were in it, it would be more than there is


def test_an_orphan_of_a_server_belongs_to_the_benchmark() -> None:
    code = """if True:
        import os, subprocess
        from benchmarks.processes import family
        from benchmarks.quiet import adopt_orphans
        adopt_orphans()
        shell = ["sh", "-c", "sleep 60 >/dev/null 2>&1 & echo $!"]
        orphan = int(subprocess.run(shell, capture_output=True, check=True).stdout)
        print(orphan in family(os.getpid()))
        os.kill(orphan, 9)
    """
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=ROOT, check=True
    )
    assert done.stdout == "True\n"


@pytest.mark.parametrize("mix", MIXES)
def test_the_fast_path_recognises_every_request_of_a_mix(mix: str) -> None:
    made = requests(mix, host="127.0.0.1:8080")
    assert len(set(made)) == len(made) == (1 if mix == "four headers" else 4_000)
    path = FastPath("/track", ["Referer", "User-Agent"])
    for request in made:
        sent = request.replace(NUMBER.encode(), b"1").replace(ADDRESS.encode(), b"192.0.2.1")
        assert len(path.find(sent)) == 1


def test_chrome_sends_thirteen_headers() -> None:
    assert {request.count(b": ") for request in requests("Chrome", host="127.0.0.1")} == {13}


def test_the_mixed_requests_have_the_browsers_in_their_proportions() -> None:
    mixed = requests("mixed", host="127.0.0.1")
    for name, share in {b"Chrome/": 0.7, b"Version/": 0.18, b"GoogleImageProxy": 0.08, b"Gecko/20100101": 0.04}.items():
        assert sum(name in request for request in mixed) / len(mixed) == pytest.approx(share, abs=0.02)


def test_wrk_sends_the_requests_of_a_mix_one_after_the_other(free_port: int) -> None:
    seen = heard(free_port, "mixed", 50)
    mix = requests("mixed", host=f"127.0.0.1:{free_port}")
    first = mix.index(seen[0])  # wrk has asked for some before, to try the script
    assert first < 5
    assert seen == mix[first : first + 50]


def test_where_nothing_repeats_wrk_puts_a_number_and_an_address_of_its_own_into_each_request(free_port: int) -> None:
    seen = heard(free_port, "nothing repeats", 50)
    for pattern in (rb"track\?n=(\d+)", rb"X-Forwarded-For: (9\.\d+\.\d+\.\d+)\r", rb"Cookie: (_ga=GA1\.1\.\d+\..*)"):
        found = [match[1] for request in seen if (match := re.search(pattern, request))]
        assert len(set(found)) == len(seen)


def heard(port: int, mix: str, count: int) -> list[bytes]:
    """The first requests that wrk sends on one connection. The last one is not answered."""
    seen: list[bytes] = []

    class Answer(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            request = b""
            with contextlib.suppress(ConnectionError):
                for line in self.rfile:
                    request += line
                    if line == b"\r\n":
                        seen.append(request)
                        request = b""
                        if len(seen) < count:
                            self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    with socketserver.ThreadingTCPServer(("127.0.0.1", port), Answer) as server:
        threading.Thread(target=server.serve_forever).start()
        wrk(f"http://127.0.0.1:{port}/track", seconds=1, connections=1, mix=mix)
        server.shutdown()
    return seen


def test_a_constant_rate_gives_each_worker_as_many_connections(tmp_path: Path) -> None:
    with Bench(home=tmp_path).servers() as servers:
        outbox = servers.directory("outbox")
        aws = servers.aws(keep=False)
        aws.down(True)  # so that the journals are kept
        pixel = servers.pixel(aws.endpoint, workers=3, outbox=outbox)
        command = [sys.executable, "-m", "benchmarks.rate", *map(str, (pixel.port, 1, 1, *pixel.workers()))]
        subprocess.run(command, check=True, capture_output=True, timeout=60, cwd=ROOT)
        lines = [sum(path.read_bytes().count(b"\n") for path in each.glob("0*")) for each in journals(outbox)]
    assert sorted(lines) == [21, 21, 22]  # each connection was answered once, and one of them sent the one request


def test_a_server_far_away_answers_later(tmp_path: Path) -> None:
    with Bench(home=tmp_path).servers() as servers:
        aws = servers.aws(keep=False)
        far = urlsplit(servers.distant(aws.endpoint, 0.2))
        began = time.monotonic()
        assert get(far.port or 0, "/calls") == b"{}"
        assert 0.2 <= time.monotonic() - began < 5.0


def test_the_page_about_capacity_takes_its_figures_from_rows_of_the_benchmarks() -> None:
    capacity = (ROOT / "docs/capacity.md").read_text(encoding="utf-8")
    named = re.findall(r'^\| \*\w\* \|.*"(.+)" \|$', capacity, re.MULTILINE)
    assert named
    assert set(named) <= {row.what for group in GROUPS.values() for row in group.rows}


def test_the_readme_quotes_only_figures_of_the_benchmarks_page() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    page = PAGE.read_text(encoding="utf-8")
    claims = readme[readme.index("## Speed") :].partition("\n## ")[0]
    rows = re.findall(r"^\| .*\d.* \|$", claims, re.MULTILINE)
    assert rows
    for row in rows:
        assert f"\n{row} " in page, row  # a row of the page has more columns
    text = re.sub(r"^\|.*", "", claims, flags=re.MULTILINE)
    assert not re.search(r"\d", text), "a figure outside the table"


def test_the_first_screen_of_the_readme_rounds_the_figures_of_other_pages() -> None:
    readme, capacity = ((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "docs/capacity.md"))
    ratio = re.search(r"^\| nginx's CPU a hit over the pixel's, Chrome \| ([\d.]+) \|", readme, re.MULTILINE)
    assert ratio is not None
    assert f"A hit costs about {1 / float(ratio[1]):.1f} times the CPU time of nginx" in readme
    cost = re.search(r"A billion visits in 30 days .*?([\d.]+) USD", capacity, re.DOTALL)
    assert cost is not None
    assert f"about {float(cost[1]):.0f} US dollars" in readme


def test_the_table_of_the_readme_gets_the_medians_of_a_run() -> None:
    report = a_report()
    report.add("x", {"cpu": 12.0, "nginx": 4.0}, QUIET)
    before = "# X\n\n| what | median |\n|---|---|\n| CPU | 99.00 µs |\n| CPU of another | 1 |\n"
    assert report.refreshed(before) == before.replace("99.00", "12.00")


def test_no_two_rows_have_the_same_name() -> None:
    names = [row.what for group in GROUPS.values() for row in group.rows]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("visits", [1, 3_000, 9_000])
def test_a_backlog_is_whole_spans_one_behind_the_other(visits: int) -> None:
    spans = [unpack(message.attributes, message.body) for message in packed_spans(visits)]
    end = 0
    for span in spans:
        assert isinstance(span, StoredSpan)
        assert span.start == end
        end = span.end
    assert sum(span.visits for span in spans if isinstance(span, StoredSpan)) == visits


@pytest.fixture
def running(tmp_path: Path) -> Iterator[tuple[Pixel, Service, Path]]:
    with Servers(tmp_path) as servers:
        endpoint = servers.aws(keep=True).endpoint
        folder = servers.directory("storage")
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
    monkeypatch.setattr(shutil, "which", lambda *_: None)
    with pytest.raises(WrkMissing, match="apt-get install wrk"):
        wrk("http://127.0.0.1:1/track", seconds=1)
