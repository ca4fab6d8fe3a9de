"""The pixel: the CPU time and the latency of a hit, what is left to publish, the memory, the time of a start."""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import msgspec

from benchmarks.bench import CONNECTIONS, Bench, Turn, Values, load, median
from benchmarks.peers import NGINX, PEERS
from benchmarks.processes import ALL, CLIENT, DEADLINE, BenchmarkFailed, get, wait_for
from benchmarks.rate import WARM_UP, Latencies
from benchmarks.servers import PUBLISHED, Pixel, Server, Servers
from benchmarks.visitors import MIXES
from benchmarks.wrk import wrk
from tests.launched import ROOT

MANY_CONNECTIONS = (1, CONNECTIONS, 1_000)
SHARES = (25, 50, 75)  # of the pixel's capacity, in percent
FIXED_RATE = 30_000  # hits a second
SATURATED_SECONDS = 5
STARTS = 3  # in a turn


def send_at(server: Server, rate: float, seconds: float, workers: Sequence[int] = ()) -> Latencies:
    """Send at a constant rate from the client's core, to each of the workers as much; see `benchmarks.rate`."""
    command = ["taskset", "-c", ",".join(map(str, CLIENT)), sys.executable, "-m", "benchmarks.rate"]
    done = subprocess.run(
        [*command, *map(str, (server.port, rate, seconds, *workers))],
        capture_output=True,
        text=True,
        timeout=seconds * 10 + DEADLINE,
        cwd=ROOT,
        check=False,
    )
    if done.returncode != 0:
        raise BenchmarkFailed(f"the client of a constant rate failed: {done.stderr[-1000:]}")
    server.wait_done(int(rate * seconds) + WARM_UP)
    return msgspec.convert(json.loads(done.stdout), Latencies)


def hits(bench: Bench) -> Values:
    """The CPU time of a hit beside nginx, for each mix of requests."""
    with bench.servers() as servers:
        endpoint = servers.aws(keep=False).endpoint
        nginx = bench.peers(servers, NGINX)
        direct = {"pixel": servers.pixel(endpoint), **nginx}
        behind_proxy = {"pixel": servers.pixel(endpoint, trusted_proxies=["127.0.0.1"]), **nginx}
        measures = {
            f"{mix}, {name}": partial(load, server, seconds=bench.seconds, mix=mix)
            for mix in MIXES
            for name, server in (behind_proxy if mix == "nothing repeats" else direct).items()
        }
        return bench.loads(measures)


def peers(bench: Bench) -> Values:
    """The CPU time of a hit beside other servers, with the mixed requests."""
    with bench.servers() as servers:
        pixel = servers.pixel(servers.aws(keep=False).endpoint)
        compared = {"pixel": pixel, **bench.peers(servers, *PEERS), "naive": servers.naive()}
        return bench.loads({name: partial(load, server, seconds=bench.seconds) for name, server in compared.items()})


def answers(bench: Bench) -> Values:
    """How long an answer takes at parts of the rate that the pixel can answer, and at a fixed one, beside nginx."""
    with bench.servers() as servers:
        pixel = servers.pixel(servers.aws(keep=False).endpoint)
        compared = {"pixel": pixel, **bench.peers(servers, NGINX)}
        capacity = load(pixel, seconds=bench.seconds).hits.rate
        rates = {f"{share} %": capacity * share / 100 for share in SHARES} | {"fixed": FIXED_RATE}
        measures = {
            f"{at}, {name}": partial(send_at, server, rate, bench.seconds)
            for at, rate in rates.items()
            for name, server in compared.items()
        }
        values = {f"rate: {at}": rate for at, rate in rates.items()}
        for name, turns in bench.interleave(measures).items():
            for which in ("p50", "p99", "p999"):
                values[f"{which}: {name}"] = median([getattr(turn, which) for turn in turns]) * 1e3
        return values


def saturation(bench: Bench) -> Values:
    """What is not published yet right after the pixel had to answer as much as it can."""
    with bench.servers() as servers:
        pixel = servers.pixel(servers.aws(keep=False).endpoint)
        left = []
        for _ in range(bench.turns):
            before = pixel.metric(PUBLISHED)
            sent = wrk(pixel.url, seconds=SATURATED_SECONDS * bench.share, cores=CLIENT).requests
            left.append(sent - (pixel.metric(PUBLISHED) - before))
            pixel.wait_done(sent)
        return {"unpublished": median(left)}


def connections(bench: Bench) -> Values:
    """Whether a hit costs more when there are more connections."""
    with bench.servers() as servers:
        compared = {"pixel": servers.pixel(servers.aws(keep=False).endpoint), **bench.peers(servers, NGINX)}
        measures = {
            f"{name}, {count} connections": partial(load, server, seconds=bench.seconds, connections=count)
            for count in MANY_CONNECTIONS
            for name, server in compared.items()
        }
        return bench.loads(measures)


def workers(bench: Bench) -> Values:
    """Whether a second worker costs anything but its memory."""
    with bench.servers() as servers:
        endpoint = servers.aws(keep=False).endpoint
        measures: dict[str, Callable[[], Turn]] = {}
        for count in (1, 2):
            pixel = servers.pixel(endpoint, workers=count, cores=ALL)
            measures[f"workers: {count}"] = partial(
                load, pixel, seconds=bench.seconds, cores=ALL, connections=CONNECTIONS * count
            )
        return bench.loads(measures)


def outage(bench: Bench) -> Values:
    """Memory under full load, and its growth while nothing can be published."""
    with bench.servers() as servers:
        aws = servers.aws(keep=False)
        pixel = servers.pixel(aws.endpoint)
        with _peak_memory(pixel) as peaks:
            load(pixel, seconds=bench.seconds)
            worker, main = peaks()
        aws.down(True)
        with _peak_memory(pixel) as peaks:
            visits = 0
            while visits < bench.backlog:
                visits += wrk(pixel.url, seconds=min(10.0, bench.seconds * 10), cores=CLIENT).requests
            aws.down(False)
            pixel.wait_done(visits)
            worker_after, main_after = peaks()
        return {
            "worker": worker / 1e6,
            "main": main / 1e6,
            "worker growth": max(0, worker_after - worker) / 1e6,
            "main growth": max(0, main_after - main) / 1e6,
        }


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


def start(bench: Bench) -> Values:
    """From the start of the process to the first GIF."""
    with bench.servers() as servers:
        endpoint = servers.aws(keep=False).endpoint
        return {"start": median([_start(servers, endpoint) for _ in range(bench.turns * STARTS)])}


def _start(servers: Servers, endpoint: str) -> float:
    began = time.monotonic()
    pixel = servers.pixel(endpoint, cores=ALL, ready=False)
    wait_for(lambda: get(pixel.port, "/track").startswith(b"GIF8"), "the first GIF", pause=0.002)
    took = time.monotonic() - began
    pixel.process.destroy()
    return took
