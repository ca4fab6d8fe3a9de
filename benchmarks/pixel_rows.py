"""The pixel: the CPU time and the latency of a hit, the memory, the time of a start."""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import msgspec

from benchmarks.bench import CONNECTIONS, Bench, Turn, load, median, over
from benchmarks.processes import ALL, CLIENT, DEADLINE, BenchmarkFailed, get, wait_for
from benchmarks.rate import Latencies
from benchmarks.report import Row
from benchmarks.servers import Pixel, Server, Servers
from benchmarks.wrk import wrk
from tests.launched import ROOT

MANY_CONNECTIONS = (1, CONNECTIONS, 1_000)
STARTS = 3  # in a turn


def send_at(server: Server, rate: float, seconds: float) -> Latencies:
    """Send at a constant rate from the client's core; see `benchmarks.rate`."""
    command = ["taskset", "-c", ",".join(map(str, CLIENT)), sys.executable, "-m", "benchmarks.rate"]
    done = subprocess.run(
        [*command, "127.0.0.1", str(server.port), str(rate), str(seconds)],
        capture_output=True,
        text=True,
        timeout=seconds * 10 + DEADLINE,
        cwd=ROOT,
        check=False,
    )
    if done.returncode != 0:
        raise BenchmarkFailed(f"the client of a constant rate failed: {done.stderr[-1000:]}")
    server.wait_done(int(rate * seconds))
    return msgspec.convert(json.loads(done.stdout), Latencies)


def hits(bench: Bench) -> list[Row]:
    """CPU time a hit beside nginx and the naive application; latency at half of the rate that the pixel can answer."""
    with bench.servers() as servers:
        peers: dict[str, Server | None] = {
            "pixel": servers.pixel(servers.aws(keep=False).endpoint),
            "nginx, access_log": servers.nginx(log=True),
            "nginx, no log": servers.nginx(log=False),
            "naive": servers.naive(),
        }
        installed = _installed(bench, peers)
        turns = bench.interleave(
            {name: partial(load, server, seconds=bench.seconds, cores=CLIENT) for name, server in installed.items()}
        )
        cpu = {name: median([turn.cpu_us for turn in of]) for name, of in turns.items()}
        rate = {name: median([turn.hits.rate for turn in of]) for name, of in turns.items()}
        nginx = cpu.get("nginx, access_log")
        rows = [
            Row(
                what="nginx's CPU a hit over the pixel's",
                value=over(nginx, cpu["pixel"]),
                least=0.45,
                aim=0.8,
                more_is_better=True,
                note="pixel: workers, main and publishing; nginx: `empty_gif`, `access_log buffer=64k`; 64 connections",
            ),
            Row(
                what="the naive application's CPU a hit over the pixel's",
                value=over(cpu["naive"], cpu["pixel"]),
                unit="times",
                digits=0,
                least=25,
                aim=60,
                more_is_better=True,
                note="`benchmarks/naive.py`: one publish a hit, in the background",
            ),
        ]
        half = rate["pixel"] / 2
        calm = {name: server for name, server in installed.items() if name in ("pixel", "nginx, access_log")}
        answers = bench.interleave(
            {name: partial(send_at, server, half, bench.seconds) for name, server in calm.items()}
        )
        p99 = {name: median([turn.p99 for turn in of]) for name, of in answers.items()}
        rows.append(
            Row(
                what="the pixel's p99 over nginx's, at half of the pixel's capacity",
                value=over(p99["pixel"], p99.get("nginx, access_log")),
                unit="times",
                least=4,
                aim=2,
                note=f"{half:,.0f} hits/s to both, each latency from the moment the request was due; "
                "worker and publishing share the one core",
            )
        )
        rows += [Row(what=f"p99 at that rate: {name}", value=p99[name] * 1e3, unit="ms") for name in p99]
        rows += [Row(what=f"CPU a hit: {name}", value=cpu[name], unit="µs", digits=1) for name in cpu]
        main = median([turn.main_us for turn in turns["pixel"]])
        rows.append(Row(what="of the pixel's, its main process, which publishes", value=main, unit="µs", digits=1))
        rows += [Row(what=f"hits a second on one core: {name}", value=rate[name], digits=0) for name in rate]
        return rows


def _installed(bench: Bench, peers: dict[str, Server | None]) -> dict[str, Server]:
    if None in peers.values():
        bench.note_missing("nginx")
    return {name: server for name, server in peers.items() if server is not None}


def connections(bench: Bench) -> list[Row]:
    """Whether a hit costs more when there are more connections."""
    with bench.servers() as servers:
        pixel = servers.pixel(servers.aws(keep=False).endpoint)
        installed = _installed(bench, {"pixel": pixel, "nginx": servers.nginx(log=True)})
        measures: dict[str, Callable[[], Turn]] = {
            f"{name}, {count:,} connections": partial(
                load, server, seconds=bench.seconds, cores=CLIENT, connections=count
            )
            for count in MANY_CONNECTIONS
            for name, server in installed.items()
        }
        turns = bench.interleave(measures)
        return [
            Row(what=f"CPU a hit: {name}", value=median([turn.cpu_us for turn in of]), unit="µs", digits=1)
            for name, of in turns.items()
        ]


def workers(bench: Bench) -> list[Row]:
    """Whether a second worker costs anything but its memory."""
    with bench.servers() as servers:
        endpoint = servers.aws(keep=False).endpoint
        pixels = {count: servers.pixel(endpoint, workers=count, cores=ALL) for count in (1, 2)}
        turns = bench.interleave(
            {
                str(count): partial(load, pixel, seconds=bench.seconds, cores=ALL, connections=CONNECTIONS * count)
                for count, pixel in pixels.items()
            }
        )
        cpu = {count: median([turn.cpu_us for turn in of]) for count, of in turns.items()}
        return [
            Row(
                what="`workers: 2`: CPU a hit over that of one worker",
                value=over(cpu["2"], cpu["1"]),
                unit="times",
                least=1.1,
                aim=1.0,
                note=f"{CONNECTIONS} connections a worker; server and client share all cores",
            )
        ]


def outage(bench: Bench) -> list[Row]:
    """Memory under full load, and its growth while nothing can be published."""
    with bench.servers() as servers:
        aws = servers.aws(keep=False)
        pixel = servers.pixel(aws.endpoint)
        with _peak_memory(pixel) as peaks:
            load(pixel, seconds=bench.seconds, cores=CLIENT)
            worker, main = peaks()
        aws.down(True)
        with _peak_memory(pixel) as peaks:
            visits = 0
            while visits < bench.backlog:
                visits += wrk(pixel.url, seconds=min(10.0, bench.seconds * 10), cores=CLIENT).requests
            aws.down(False)
            pixel.wait_done(visits)
            worker_after, main_after = peaks()
        note = f"{visits:,} visits while SNS answers 503, and their publishing afterwards"
        return [
            Row(what="memory of a worker under full load", value=worker / 1e6, unit="MB", digits=0, least=60, aim=40),
            Row(what="memory of main under full load", value=main / 1e6, unit="MB", digits=0, least=80, aim=60),
            _growth("worker", worker_after - worker, note),
            _growth("main", main_after - main, note),
        ]


def _growth(of: str, grown: int, note: str) -> Row:
    what = f"growth of {of} through an outage"
    return Row(what=what, value=max(0, grown) / 1e6, unit="MB", digits=1, least=5, aim=0, note=note)


@contextmanager
def _peak_memory(pixel: Pixel) -> Iterator[Callable[[], tuple[int, int]]]:
    """Yields a function: the highest memory so far of any worker, and of main, in bytes."""
    peaks = [0, 0]
    ended = threading.Event()

    def poll() -> None:
        while not ended.wait(0.1):
            worker = max(pixel.process.memory(pid) for pid in pixel.workers())
            peaks[:] = max(peaks[0], worker), max(peaks[1], pixel.process.memory())

    polling = threading.Thread(target=poll)
    polling.start()
    try:
        yield lambda: (peaks[0], peaks[1])
    finally:
        ended.set()
        polling.join()


def start(bench: Bench) -> list[Row]:
    """From the start of the process to the first GIF."""
    with bench.servers() as servers:
        endpoint = servers.aws(keep=False).endpoint
        took = [_start(servers, endpoint) for _ in range(bench.turns * STARTS)]
        row = Row(what="from process start to first GIF", value=median(took), unit="s", least=1.0, aim=0.4)
        return [row]


def _start(servers: Servers, endpoint: str) -> float:
    began = time.monotonic()
    pixel = servers.pixel(endpoint, cores=ALL, ready=False)
    wait_for(lambda: get(pixel.port, "/track").startswith(b"GIF8"), "the first GIF", pause=0.002)
    took = time.monotonic() - began
    pixel.process.destroy()
    return took
