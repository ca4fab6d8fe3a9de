"""Whatever visitors do to the public port: the others are answered, nothing grows without bound, every line is good."""

import json
import os
import re
import resource
import select
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.pixel.requests import ODD, PLAIN, PLAIN_VARIANTS

from .lone_pixel import Pixel
from .wire import DEADLINE, LOOPBACK, Connection, get, wait_for

SOAK = os.environ.get("TRACKER_SOAK") == "1"
KEEPALIVE_SECONDS = 2.0
STALLED = 3_000
GIF = b"GIF89a"


@pytest.fixture(scope="module", autouse=True)
def _many_files() -> Iterator[None]:
    """The visitors of these tests are files of this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < STALLED + 500:
        pytest.skip(f"the open-file limit is {hard}, no room for {STALLED} visitors")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, STALLED + 500), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture(scope="module")
def pixel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pixel]:
    service = Pixel(tmp_path_factory.mktemp("bad"), keepalive_timeout=KEEPALIVE_SECONDS)
    try:
        service.wait_ready()
        yield service
    finally:
        service.destroy()


@pytest.fixture
def worker(pixel: Pixel) -> Iterator[int]:
    """The worker's process, which outlives every test."""
    (pid,) = pixel.children()
    yield pid
    assert pixel.children() == [pid], pixel.output
    assert "Traceback" not in pixel.output
    assert get(pixel.port).is_gif


def memory(pid: int) -> int:
    """Bytes of a process that are in memory."""
    status = Path(f"/proc/{pid}/statm")
    if not status.exists():
        pytest.skip("no /proc here to read a process's memory from")
    return int(status.read_text().split()[1]) * resource.getpagesize()


def connect(port: int) -> socket.socket:
    visitor = socket.create_connection((LOOPBACK, port), DEADLINE)
    visitor.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return visitor


def read_all(visitor: socket.socket) -> bytes:
    """What the server sends until it closes."""
    received = b""
    try:
        while more := visitor.recv(65536):
            received += more
    except OSError:
        pass  # reset: it had not read all of what we sent
    return received


@st.composite
def pieces(draw: st.DrawFn) -> list[bytes]:
    requests = st.sampled_from(PLAIN_VARIANTS) | st.sampled_from(ODD) | st.binary(max_size=200)
    stream = b"".join(draw(st.lists(requests, min_size=1, max_size=6)))
    edges = sorted({0, len(stream), *draw(st.lists(st.integers(0, len(stream)), max_size=8))})
    return [stream[start:end] for start, end in pairwise(edges)]


def test_any_bytes_in_any_pieces_are_answered_or_refused_and_every_line_is_good(pixel: Pixel, worker: int) -> None:
    before = len(pixel.recorded().splitlines())
    images = 0

    @settings(max_examples=5_000 if SOAK else 100, suppress_health_check=list(HealthCheck))
    @given(pieces(), st.booleans())
    def visit(parts: list[bytes], patient: bool) -> None:
        nonlocal images
        received = b""
        with connect(pixel.port) as visitor:
            try:
                for part in parts:
                    visitor.sendall(part)
                if patient and select.select([visitor], [], [], 0.05)[0]:
                    received = visitor.recv(65536)
                visitor.shutdown(socket.SHUT_WR)
            except OSError:
                pass  # refused in mid-sentence
            received += read_all(visitor)
        statuses = re.findall(rb"HTTP/1\.1 (\d\d\d) ", received)
        assert set(statuses) <= {b"200", b"400", b"404", b"405", b"414", b"431"}, received
        images += received.count(GIF)

    visit()
    lines = pixel.recorded().splitlines()[before:]
    assert images <= len(lines)
    for line in lines:
        assert line.isascii()
        assert line.isprintable()
        assert list(json.loads(line)) == ["Referer", "UserAgent", "IpAddress", "VisitedAt"]


def test_thousands_of_stalled_visitors_keep_nobody_waiting_and_are_closed_in_time(pixel: Pixel, worker: int) -> None:
    before = memory(worker)
    starts = [b"", PLAIN[:1], PLAIN[:40], PLAIN[:-1], b"POST /track HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n"]
    stalled = [connect(pixel.port) for _ in range(STALLED)]
    for number, visitor in enumerate(stalled):
        visitor.sendall(starts[number % len(starts)])
    assert all(get(pixel.port).is_gif for _ in range(50))
    assert memory(worker) - before < STALLED * 32_768
    poll = select.poll()
    for visitor in stalled:
        poll.register(visitor, select.POLLRDHUP)
    wait_for(lambda: len(poll.poll(0)) == STALLED, lambda: f"{len(poll.poll(0))} of {STALLED} closed")
    for visitor in stalled:
        visitor.close()


def test_a_visitor_who_sends_without_reading_costs_no_memory_and_is_closed(pixel: Pixel, worker: int) -> None:
    before = memory(worker)
    peak = sent = 0
    with connect(pixel.port) as visitor:
        visitor.settimeout(0.2)
        deadline = time.monotonic() + DEADLINE
        try:
            while time.monotonic() < deadline:
                try:
                    sent += visitor.send(PLAIN * 100)
                except TimeoutError:
                    pass  # it reads no more from us
                peak = max(peak, memory(worker))
        except (BrokenPipeError, ConnectionResetError):
            pass
        else:
            raise AssertionError(f"not closed, {sent} bytes sent")
    assert peak - before < 16_000_000


HOGS = 300
CONNECTION_BYTES = 65_536
START = b"GET /track HTTP/1.1\r\nHost: a\r\n"
GREEDY = {
    "unfinished headers of 8,000 bytes": START + b"".join(b"X-%d: %08000d\r\n" % (n, n) for n in range(115)),
    "one header without an end": START + b"Cookie: " + b"c" * 900_000,
    "many short header lines": START + b"a:b\r\n" * 150_000,
    "just below the limits, in wide characters": START + (b"X: " + "😀".encode() * 2_000 + b"\r\n") * 4,
    "as much as may wait": b"GET /track?" + b"q" * 8_000 + b" HTTP/1.1\r\n" + (b"X: " + b"x" * 7_990 + b"\r\n") * 4,
    "just below the limits, in short lines": START + b"a:b\r\n" * 125,
    "a request line without an end": b"GET /track?" + b"q" * 900_000,
    "empty lines": b"\r\n" * 450_000,
    "no HTTP": b"\x16\x03\x01" + bytes(900_000),
    "one chunk without an end": START + b"Transfer-Encoding: chunked\r\n\r\nfffffff\r\n" + b"c" * 900_000,
    "a chunk extension": START + b"Transfer-Encoding: chunked\r\n\r\n5;" + b"e" * 900_000,
    "trailers": START + b"Transfer-Encoding: chunked\r\n\r\n0\r\n" + b"Trailer: x\r\n" * 75_000,
    "a long body": START + b"Content-Length: 900000\r\n\r\n" + b"b" * 900_000,
    "a compressed body": START + b"Content-Encoding: gzip\r\nContent-Length: 60000\r\n\r\n" + bytes(60_000),
    "plain requests": PLAIN * 1_000,
    "small plain requests": (START + b"\r\n") * 5_000,
    "requests for the fallback": (START + b"Content-Length: 0\r\n\r\n") * 4_000,
    "large requests": (START + (b"X: " + b"x" * 8_000 + b"\r\n") * 3 + b"\r\n") * 12,
    "what follows an upgrade": START + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n" + b"\x81\x7e" * 400_000,
    "answers, then an unfinished request": (START + b"\r\n") * 60 + START + b"X: y\r\n" * 2_000,
}


@dataclass
class Fed:
    """A pixel whose worker's memory is known from before anybody was greedy."""

    pixel: Pixel
    worker: int
    memory: int


@pytest.fixture(scope="module")
def fed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fed]:
    pixel = Pixel(tmp_path_factory.mktemp("fed"))
    try:
        pixel.wait_ready()
        for method in ("GET", "HEAD"):  # both paths are loaded
            with Connection(pixel.port) as connection:
                assert connection.get(method=method).status == 200
        (worker,) = pixel.children()
        yield Fed(pixel, worker, memory(worker))
        assert pixel.children() == [worker], pixel.output
        assert "Traceback" not in pixel.output
    finally:
        pixel.destroy()


@pytest.mark.parametrize("stream", GREEDY.values(), ids=GREEDY.keys())
def test_a_connection_costs_at_most_64_kib_whatever_is_sent_on_it(fed: Fed, stream: bytes) -> None:
    pixel, worker = fed.pixel, fed.worker
    peak = 0
    hogs = []
    for _ in range(HOGS):
        hog = socket.socket()
        hog.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)  # it reads nothing: the rest stays with the server
        hog.connect((LOOPBACK, pixel.port))
        hog.setblocking(False)
        hogs.append(hog)
    sent = dict.fromkeys(hogs, 0)
    stalled = 0
    while sent and stalled < 20:
        stalled += 1
        for hog in list(sent):
            try:
                more = hog.send(stream[sent[hog] : sent[hog] + 60_000])
            except BlockingIOError:
                continue
            except OSError:
                del sent[hog]  # refused in mid-sentence
                continue
            stalled = 0
            sent[hog] += more
            if sent[hog] >= len(stream):
                del sent[hog]
        peak = max(peak, memory(worker))
        time.sleep(0.01)
    assert get(pixel.port).is_gif, "another visitor is answered while all of them are there"
    peak = max(peak, memory(worker))
    for hog in hogs:
        hog.close()
    assert (peak - fed.memory) / HOGS < CONNECTION_BYTES


def test_a_worker_with_few_open_files_says_so_and_refuses_what_is_too_much(tmp_path: Path) -> None:
    if not hasattr(resource, "prlimit"):
        pytest.skip("this system cannot limit another process's open files")
    service = Pixel(tmp_path)
    try:
        resource.prlimit(service.pid, resource.RLIMIT_NOFILE, (128, 128))  # long before it starts its worker
        service.wait_ready()
        assert "open_files_limited" in service.output
        (worker,) = service.children()
        visitors = [connect(service.port) for _ in range(300)]
        wait_for(lambda: "connections_exhausted" in service.output, lambda: service.output)
        for visitor in visitors:
            try:
                visitor.sendall(PLAIN)
            except (BrokenPipeError, ConnectionResetError):
                continue
        answered = 0
        for visitor in visitors:
            try:
                answered += visitor.recv(100).startswith(b"HTTP/1.1 200 OK\r\n")
            except ConnectionResetError:
                pass
            visitor.close()
        assert answered >= 64
        assert len(service.recorded().splitlines()) == answered
        wait_for(lambda: _answers(service.port), "an answer once there is room again")
        assert service.children() == [worker]
    finally:
        service.destroy()


def _answers(port: int) -> bool:
    try:
        return get(port).is_gif
    except ConnectionError:
        return False
