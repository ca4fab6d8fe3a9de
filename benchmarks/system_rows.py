"""Pixel and storage together: the bytes and AWS calls of a visit, and the time until its line is durable."""

import time
from concurrent.futures import ThreadPoolExecutor

from benchmarks.bench import Bench
from benchmarks.latency import LatencyMonitor
from benchmarks.pixel_rows import send_at
from benchmarks.processes import CLIENT, SERVER
from benchmarks.report import Row
from benchmarks.sample import JOURNAL, span
from benchmarks.servers import Servers
from tracker.core.log_line import format_lines
from tracker.core.message import pack
from tracker.core.visit import split_lines

CALLS_RATES = {1_000: (12_000, 10_500), 10_000: (1_500, 1_000)}  # visits a second: at least, aim
CALLS_TURNS = 4  # calls are counted for the time of so many turns
EDGE_SECONDS = 1.0  # of load before and after the counted time, so that the first and last calls are not counted
COUNTED = ("Publish", "PublishBatch", "ReceiveMessage", "DeleteMessageBatch")
SHORT_SPAN = 200  # 1,000 visits a second for a linger of 0.2 s
LATENCY_RATE = 2_000
LATENCY_TURNS = 3
MILLION = 1_000_000


def sizes(bench: Bench) -> list[Row]:
    """The size of a visit at each place, in bytes; the visits are those of `benchmarks.sample`."""
    data = span(0)
    lines = split_lines(data)
    whole, short = (pack(JOURNAL, 0, b"".join(part), compress=True) for part in (lines, lines[:SHORT_SPAN]))
    logged = sum(map(len, format_lines(data)))
    return [
        Row(what="a visit in the journal", value=len(data) / len(lines), unit="bytes", digits=0),
        Row(what="a visit in the log", value=logged / len(lines), unit="bytes", digits=0),
        Row(what="visits in the longest span", value=len(lines), digits=0),
        Row(what="a message of the longest span", value=whole.size, unit="bytes", digits=0),
        Row(what=f"a message of {SHORT_SPAN} visits", value=short.size, unit="bytes", digits=0),
    ]


def calls(bench: Bench) -> list[Row]:
    """AWS API calls for a million visits."""
    rows = []
    for rate, (least, aim) in CALLS_RATES.items():
        with bench.servers() as servers:
            made, visits = _calls(servers, rate, bench.seconds * CALLS_TURNS)
        each = ", ".join(f"{name} {made.get(name, 0):,}" for name in COUNTED)
        rows.append(
            Row(
                what=f"AWS calls for a million visits at {rate:,} a second",
                value=sum(made.get(name, 0) for name in COUNTED) * MILLION / visits,
                digits=0,
                least=least,
                aim=aim,
                note=f"scaled from {visits:,} visits: {each}",
            )
        )
    return rows


def _calls(servers: Servers, rate: int, seconds: float) -> tuple[dict[str, int], int]:
    """The calls during a steady load, and the visits published in that time."""
    aws = servers.aws(keep=True)
    pixel = servers.pixel(aws.endpoint)
    servers.storage(aws.endpoint, servers.log_directory())
    published = "tracker_pixel_visits_published"
    with ThreadPoolExecutor(1) as executor:
        sending = executor.submit(send_at, pixel, rate, seconds + 2 * EDGE_SECONDS)
        pixel.process.wait_until(lambda: pixel.metric(published) > 0, "the first visit is published")
        time.sleep(EDGE_SECONDS)
        before = pixel.metric(published)
        aws.calls()
        time.sleep(seconds)
        visits, made = pixel.metric(published) - before, aws.calls()
        sending.result()
    return made, int(visits)


def latency(bench: Bench) -> list[Row]:
    """From the answer to the durable line, through the local broker of `make run`."""
    with bench.servers() as servers:
        endpoint = servers.broker()
        pixel = servers.pixel(endpoint)
        folder = servers.log_directory()
        storage = servers.storage(endpoint, folder, cores=SERVER | CLIENT)
        appended = "tracker_storage_visits_appended"
        seconds = bench.seconds * LATENCY_TURNS
        visits = int(LATENCY_RATE * seconds)
        with LatencyMonitor(folder / "visits.log", lambda: storage.metric(appended)) as monitor:
            send_at(pixel, LATENCY_RATE, seconds)
            storage.process.wait_until(lambda: len(monitor.latencies) >= visits, "every line was seen")
    note = f"{LATENCY_RATE:,} hits/s for {seconds:g} s, local broker; read every 10 ms"
    return [
        _latency_row("median", monitor.percentile(0.5), 0.5, 0.3, note),
        _latency_row("p99", monitor.percentile(0.99), 1.0, 0.5, note),
    ]


def _latency_row(which: str, seconds: float, least: float, aim: float, note: str) -> Row:
    return Row(what=f"from answer to durable line, {which}", value=seconds, unit="s", least=least, aim=aim, note=note)
