"""The metrics add up: in every look at them, under load, through the death of a worker and of main."""

import itertools
import os
import re
import signal

from tests.ports import free_port

from .processes import Service
from .stack import FakeStack
from .wire import Connection, Load, get, wait_for

Sample = dict[str, float]

BY_A_WORKER = ("outbox_full", "outbox_io", "privacy", "rate_limited", "no_address")


def scrape(pixel: Service) -> Sample:
    """One look: sample name with its labels, and value."""
    lines = pixel.admin("/metrics").body.decode().splitlines()
    pairs = (line.rpartition(" ") for line in lines if not line.startswith("#"))
    return {name: float(value) for name, _, value in pairs}


def visits(sample: Sample, what: str) -> int:
    return int(sample.get(f"tracker_pixel_visits_{what}_total", sample.get(f"tracker_pixel_visits_{what}", -1)))


def discarded(sample: Sample, *reasons: str) -> int:
    return sum(int(sample[f'tracker_pixel_visits_discarded_total{{reason="{reason}"}}']) for reason in reasons)


def assert_adds_up(sample: Sample) -> None:
    assert sample["tracker_pixel_hits_total"] == visits(sample, "accepted") + discarded(sample, *BY_A_WORKER)
    came = visits(sample, "accepted") + visits(sample, "adopted")
    went = visits(sample, "published") + visits(sample, "waiting") + discarded(sample, "refused", "damaged")
    assert came == went
    assert visits(sample, "waiting") >= 0


def assert_figures_of_all_processes(sample: Sample) -> None:
    for name in ("cpu_seconds_total", "open_fds"):
        for role in ("main", "worker"):
            assert sample[f'tracker_process_{name}{{role="{role}"}}'] > 0
    memory = {role: sample[f'tracker_process_resident_memory_bytes{{role="{role}"}}'] for role in ("main", "worker")}
    assert memory["main"] > 10_000_000
    assert memory["worker"] > 2 * 10_000_000
    assert sample["tracker_pixel_workers"] == 2
    assert sample["tracker_pixel_outbox_disk_free_bytes"] > 0


def load_and_look(pixel: Service, load: Load, hits: int) -> list[Sample]:
    """Looks again and again until so many more hits were answered."""
    until, samples = len(load.answered) + hits, [scrape(pixel)]
    while len(load.answered) < until:
        samples.append(scrape(pixel))
    return samples


def test_every_look_adds_up_through_a_kill_and_an_adoption(stack: FakeStack) -> None:
    override = {"http": {"port": free_port()}, "workers": 2, "privacy": {"honor": ["dnt"]}}
    pixel = stack.start_pixel(override)
    samples = []
    connections = 6
    with Load(pixel.port, connections=connections, pause=0.002) as load:
        samples += load_and_look(pixel, load, 300)
        wait_for(lambda: len(pixel.workers()) == 2, "two workers")
        assert_figures_of_all_processes(scrape(pixel))
        doomed = pixel.workers()[0]
        for _ in range(20):
            assert get(pixel.port, headers=[("DNT", "1")]).is_gif
        for _ in range(20):
            assert get(pixel.port, "/nothing-here").status == 404
        with Connection(pixel.port) as connection:
            assert connection.get(method="POST", headers=[("Content-Length", "0")]).status == 405
        os.kill(doomed, signal.SIGKILL)  # whatever it has counted since the last look is still counted
        samples += load_and_look(pixel, load, 300)
        stack.sns.down()
        samples += load_and_look(pixel, load, 300)
    first_run = scrape(pixel)
    samples.append(first_run)
    cpu = 'tracker_process_cpu_seconds_total{role="worker"}'
    assert all(a[cpu] <= b[cpu] for a, b in itertools.pairwise(samples)), "the dead worker's time is lost"
    assert all(visits(a, "accepted") <= visits(b, "accepted") for a, b in itertools.pairwise(samples))
    assert discarded(first_run, "privacy") == 20
    refused = {
        status: first_run[f'tracker_pixel_requests_refused_total{{status="{status}"}}'] for status in (400, 404, 405)
    }
    assert refused == {400: 0, 404: 20, 405: 1}
    # A killed worker may have recorded, at most, a visit a connection that it did not answer any more.
    assert len(load.answered) <= visits(first_run, "accepted") <= len(load.answered) + connections
    assert visits(first_run, "waiting") > 0
    assert first_run["tracker_pixel_outbox_age_seconds"] > 0
    assert visits(first_run, "waiting") <= len(stack.recorded())
    pixel.kill()

    second = stack.start_pixel(override)
    samples.append(scrape(second))
    assert visits(samples[-1], "accepted") == 0
    assert visits(samples[-1], "adopted") == visits(first_run, "waiting")
    stack.sns.up()
    with Load(second.port, pause=0.002) as more:
        samples += load_and_look(second, more, 300)
    second.wait_alive(lambda: visits(scrape(second), "waiting") == 0, "all published")
    last = scrape(second)
    samples.append(last)
    assert visits(last, "accepted") == len(more.answered)
    assert last["tracker_pixel_outbox_age_seconds"] == 0
    for sample in samples:
        assert_adds_up(sample)
    second.stop()
    hits = visits(last, "accepted")
    assert f"stopped hits={hits} accepted={hits} discarded=0 adopted={visits(last, 'adopted')}" in second.output
    both = {name: first_run[name] + last[name] for name in last.keys() & first_run.keys()}
    assert visits(both, "published") + visits(both, "waiting") == visits(both, "accepted") + visits(both, "adopted")


def test_no_visitor_byte_is_in_a_metric(stack: FakeStack) -> None:
    pixel = stack.start_pixel()
    storage = stack.start_storage()
    mark = "xyzzy-visitor"
    get(pixel.port, f"/track?{mark}", [("Referer", f"https://{mark}.example/"), ("User-Agent", mark)])
    get(pixel.port, f"/{mark}")
    stack.aws.send(stack.queue_url, mark, Journal=mark)
    stack.wait_lines(1)
    storage.wait_metric("tracker_storage_messages_malformed", 1)
    assert storage.metric("tracker_storage_end_to_end_latency_seconds_count") == 1
    assert mark not in pixel.admin("/metrics").body.decode()
    assert mark not in storage.admin("/metrics").body.decode()
    assert storage.metric("tracker_storage_log_disk_free_bytes") > 0
    assert storage.metric("tracker_storage_writing") == storage.metric("tracker_storage_receiving") == 1
    storage.stop()
    assert re.search(r" service_started version=\S+ config=\{.*\}; ", storage.output)
    totals = r"received=\d+ appended=1 duplicates=0 malformed=\d+ acknowledged=1"
    assert re.search(rf" service_stopped {totals}; ", storage.output)
