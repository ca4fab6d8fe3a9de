"""Pixel and storage together: the bytes and AWS calls of a visit, and the time until its line is durable."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from benchmarks.bench import Bench, Values
from benchmarks.latency import LatencyMonitor
from benchmarks.pixel_rows import send_at
from benchmarks.processes import ALL
from benchmarks.rate import WARM_UP
from benchmarks.sample import JOURNAL, span
from benchmarks.servers import APPENDED, PUBLISHED, FakeAws, Pixel, Servers
from tracker.core.log_line import format_lines
from tracker.core.message import pack
from tracker.core.visit import split_lines
from tracker.pixel.journal import Journal
from tracker.pixel.outbox_files import journals

CALLS_RATES = (1_000, 10_000)  # visits a second
CALLS_TURNS = 5  # calls are counted for the time of so many turns
EDGE_SECONDS = 1.0  # of load before and after the counted time, so that the first and last calls are not counted
PUBLISHES = ("Publish", "PublishBatch")
COUNTED = (*PUBLISHES, "ReceiveMessage", "DeleteMessageBatch")
SHORT_SPAN = 200  # 1,000 visits a second for a linger of 0.2 s
LATENCY_RATE = 2_000
MANY_WORKERS, LITTLE_RATE = 8, 400  # 50 visits a second for each worker
DISTANCE = 0.05  # seconds
ORPHANS = 100
MILLION = 1_000_000


def sizes(bench: Bench) -> Values:
    """The size of a visit at each place, in bytes; the visits are those of `benchmarks.sample`."""
    data = span(0)
    lines = split_lines(data)
    whole, short = (pack(JOURNAL, 0, b"".join(part), compress=True) for part in (lines, lines[:SHORT_SPAN]))
    return {
        "journal": len(data) / len(lines),
        "log": len(format_lines(data)[0]) / len(lines),
        "visits": len(lines),
        "long message": whole.size,
        "short message": short.size,
    }


def calls(bench: Bench) -> Values:
    """AWS API calls for a million visits."""
    values = {}
    for rate in CALLS_RATES:
        with bench.servers() as servers:
            aws = servers.aws(keep=True)
            pixel = servers.pixel(aws.endpoint)
            servers.storage(aws.endpoint, servers.directory("storage"))
            made, visits = _calls(aws, pixel, rate, bench.seconds * CALLS_TURNS)
        values[f"{rate} a second"] = sum(made.get(name, 0) for name in COUNTED) * MILLION / visits
    return values


def _calls(aws: FakeAws, pixel: Pixel, rate: int, seconds: float) -> tuple[dict[str, int], float]:
    """The calls in `seconds` of a steady load of all workers, and the visits published in that time."""
    with ThreadPoolExecutor(1) as executor:
        sending = executor.submit(send_at, pixel, rate, seconds + 2 * EDGE_SECONDS, pixel.workers())
        before = pixel.metric(PUBLISHED)
        pixel.process.wait_until(lambda: pixel.metric(PUBLISHED) > before, "the first visit is published")
        time.sleep(EDGE_SECONDS)
        before = pixel.metric(PUBLISHED)
        aws.calls()
        time.sleep(seconds)
        visits, made = pixel.metric(PUBLISHED) - before, aws.calls()
        sending.result()
    return made, visits


def latency(bench: Bench) -> Values:
    """From the answer to the durable line, through the local broker of `make run`."""
    with bench.servers() as servers:
        endpoint = servers.broker()
        pixel = servers.pixel(endpoint)
        with _lines(servers, endpoint, pixel) as wait:
            send_at(pixel, LATENCY_RATE, bench.seconds * CALLS_TURNS)
            return wait(int(LATENCY_RATE * bench.seconds * CALLS_TURNS))


def many_workers(bench: Bench) -> Values:
    """With many workers and SNS far away: from the answer to the durable line, and how often SNS is called."""
    with bench.servers() as servers:
        aws = servers.aws(keep=True)
        pixel = servers.pixel(servers.distant(aws.endpoint, DISTANCE), workers=MANY_WORKERS)
        seconds = bench.seconds * CALLS_TURNS
        with _lines(servers, aws.endpoint, pixel) as wait:
            made, _ = _calls(aws, pixel, LITTLE_RATE, seconds)
            values = wait(int(LITTLE_RATE * (seconds + 2 * EDGE_SECONDS)))
        return values | {"publishes a second": sum(made.get(name, 0) for name in PUBLISHES) / seconds}


@contextmanager
def _lines(servers: Servers, endpoint: str, pixel: Pixel) -> Iterator[Callable[[int], Values]]:
    """Start a storage. Yields a function: wait for the lines of so many visits, and say how long they took.

    What is loaded with the first visit is loaded before.
    """
    folder = servers.directory("storage")
    storage = servers.storage(endpoint, folder, cores=ALL)
    send_at(pixel, LITTLE_RATE, EDGE_SECONDS)
    first = LITTLE_RATE * EDGE_SECONDS + WARM_UP
    storage.process.wait_until(lambda: storage.metric(APPENDED) >= first, "the first visits are durable")
    with LatencyMonitor(folder / "visits.log", lambda: storage.metric(APPENDED)) as monitor:

        def wait(visits: int) -> Values:
            storage.process.wait_until(lambda: len(monitor.latencies) >= visits + WARM_UP, "every line was seen")
            return {"p50": monitor.percentile(0.5), "p99": monitor.percentile(0.99)}

        yield wait


def orphans(bench: Bench) -> Values:
    """How fast the journals of dead workers are published and removed, with SNS far away."""
    with bench.servers() as servers:
        outbox = servers.directory("outbox")
        count = max(2, int(ORPHANS * bench.share))
        for line in split_lines(span(0))[:count]:
            journal = Journal.create(outbox, 1 << 20)
            journal.append(line)
            journal.close()
        pixel = servers.pixel(servers.distant(servers.aws(keep=False).endpoint, DISTANCE), outbox=outbox, ready=False)
        left = count + 1  # with the journal of the worker
        pixel.process.wait_until(lambda: len(journals(outbox)) < left, "an orphan is published", pause=0.002)
        began, left = time.monotonic(), len(journals(outbox))
        pixel.process.wait_until(lambda: len(journals(outbox)) <= 1, "all orphans are published", pause=0.02)
        return {"orphans a second": (left - 1) / (time.monotonic() - began)}
