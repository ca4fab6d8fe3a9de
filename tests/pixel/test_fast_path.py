"""The fast path recognises what browsers send, records before it answers, and closes idle connections."""

import asyncio
import re
import signal

import pytest

from tests.pixel.requests import LINES, PLAIN, whole
from tests.pixel.wires import BothPaths, Notes, Wire, wait_quiet
from tests.waiting import until
from tracker.config import Http, PixelConfig, SnsConfig
from tracker.core.discards import NOT_READING
from tracker.pixel.connections import PASS_VISITS
from tracker.pixel.control import refused_connection, refused_request
from tracker.pixel.fallback import Fallback
from tracker.pixel.fast_path import PIPELINED, FastPath

SNS = SnsConfig(topic_arn="arn:aws:sns:us-east-1:000000000000:tracking")
CONFIG = PixelConfig(sns=SNS)

VISITORS = {
    "chrome": """
Host: pixel.example
Connection: keep-alive
sec-ch-ua-platform: "Windows"
User-Agent: Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/130.0.0.0
sec-ch-ua: "Chromium";v="130", "Google Chrome";v="130", "Not?A_Brand";v="99"
sec-ch-ua-mobile: ?0
Accept: image/avif,image/webp,image/apng,image/svg+xml,image/*,*/*;q=0.8
Sec-Fetch-Site: cross-site
Sec-Fetch-Mode: no-cors
Sec-Fetch-Dest: image
Sec-Fetch-Storage-Access: active
Referer: https://shop.example/
Accept-Encoding: gzip, deflate, br, zstd
Accept-Language: de-DE,de;q=0.9,en-US;q=0.8,en;q=0.7""",
    "firefox": """
Host: pixel.example
User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:132.0) Gecko/20100101 Firefox/132.0
Accept: image/avif,image/webp,image/png,image/svg+xml,image/*;q=0.8,*/*;q=0.5
Accept-Language: en-US,en;q=0.5
Accept-Encoding: gzip, deflate, br, zstd
Referer: https://shop.example/
DNT: 1
Sec-GPC: 1
Connection: keep-alive
Sec-Fetch-Dest: image
Sec-Fetch-Mode: no-cors
Sec-Fetch-Site: cross-site
Priority: u=5, i""",
    "an AWS load balancer": """
X-Forwarded-For: 203.0.113.9
X-Forwarded-Proto: https
X-Forwarded-Port: 443
Host: pixel.example
X-Amzn-Trace-Id: Root=1-67891233-abcdef012345678912345678
user-agent: Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Safari/605.1.15
accept: image/webp,image/avif,image/jxl,image/heic,image/heic-sequence,video/*;q=0.8,image/png,image/*;q=0.8
referer: https://shop.example/
accept-language: en-GB,en;q=0.9
sec-fetch-dest: image
cookie: session=0123456789""",
    "wrk": """
Host: 127.0.0.1:8080
User-Agent: Mozilla/5.0
Referer: https://shop.example/""",
}


@pytest.mark.parametrize("headers", VISITORS.values(), ids=VISITORS.keys())
def test_what_browsers_and_load_balancers_send_is_plain(headers: str) -> None:
    read = whole([b"GET /track?1700000000 HTTP/1.1", *headers.strip().encode().split(b"\n")])
    requests = FastPath("/track", ["Referer"])
    assert requests.find(read * 2) == [[None, "https://shop.example/"]] * 2


def test_a_path_is_taken_literally() -> None:
    find = FastPath("/t.k", ["Referer"]).find
    assert find(b"GET /t.k HTTP/1.1\r\nHost: a\r\n\r\n")
    assert not find(b"GET /tak HTTP/1.1\r\nHost: a\r\n\r\n")


@pytest.mark.parametrize("name", ["Accept-Address", "Sec-CH-Address", "Host", "Referer", "True-Client-IP"])
def test_the_header_of_the_address_may_be_any(name: str) -> None:
    requests = FastPath("/track", ["Referer", name])
    lines = [b"GET /track HTTP/1.1", b"Host: a", b"Referer: a"]
    if name not in ("Host", "Referer"):
        lines.append(f"{name.upper()}: a".encode())
    (request,) = requests.find(whole(lines))
    assert request == [None, "a", "a"]


def test_where_the_address_is_in_an_odd_header_nothing_is_plain() -> None:
    assert FastPath("/track", ["Content-Location"]).find(PLAIN) == []


def test_no_crafted_request_is_tried_in_many_ways() -> None:
    """If one line could be matched in two ways, 64 of them could be matched in 2^64 ways."""
    find = FastPath("/track", ["Referer", "User-Agent", "X-Forwarded-For"]).find
    lines = [
        b"a: b",
        b"Accept: a",
        b"sec-ch-ua: a",
        b"Connection: keep-alive",
        b"accept: " + b" a" * 50,
        b"aaa",
        b"a:" * 50,
    ]
    signal.alarm(20)  # it ends the process: nothing else interrupts a regular expression
    try:
        for line in lines:
            read = whole([*LINES, *[line] * min(50, 7000 // len(line))])
            assert find(read[:-2] + b"\x00") == []
    finally:
        signal.alarm(0)


async def test_the_fast_path_is_taken_again_behind_a_request_that_was_not_plain(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    heads: list[bytes] = []
    read_head = Fallback.read

    def watched(self: Fallback, head: bytes) -> object:
        heads.append(head)
        return read_head(self, head)

    monkeypatch.setattr(Fallback, "read", watched)
    paths = BothPaths(CONFIG, "203.0.113.5")
    connect, close = paths.open(Notes())
    wire = Wire(connect(True), "203.0.113.5")
    odd = whole([b"GET /track HTTP/1.1", b"Host: a", b"Content-Length: 0"])
    for read in (PLAIN, odd, PLAIN, PLAIN[:-1], PLAIN[-1:], PLAIN):
        wire.read(read)
        await wait_quiet(wire)
    assert heads == [odd, PLAIN]
    assert wire.written.count(b"HTTP/1.1 200 OK\r\n") == 5
    wire.close()
    await close()


async def test_answers_of_both_paths_leave_in_the_order_of_the_requests() -> None:
    connect, close = BothPaths(CONFIG, None).open(Notes())
    wire = Wire(connect(True), "203.0.113.5")
    wire.read(PLAIN)
    wire.read(b"GET /other HTTP/1.1\r\nHost: a\r\n\r\n")
    wire.read(PLAIN)
    await wait_quiet(wire)
    assert re.findall(rb"HTTP/1.1 (\d+)", wire.written) == [b"200", b"404", b"200"]
    wire.close()
    await close()


class Watched(Notes):
    """Notes for each write how many bytes of answers were sent before it."""

    def __init__(self, wires: list[Wire]) -> None:
        super().__init__()
        self.wires = wires
        self.writes: list[tuple[int, int]] = []

    def record(self, lines: bytes, visits: int = 1) -> None:
        super().record(lines, visits)
        self.writes.append((visits, sum(len(wire.written) for wire in self.wires)))


async def test_the_visits_of_a_pass_are_one_write_and_no_answer_leaves_before_it() -> None:
    wires: list[Wire] = []
    notes = Watched(wires)
    connect, close = BothPaths(CONFIG, None).open(notes)
    wires += [Wire(connect(True), "203.0.113.5") for _ in range(5)]
    for wire in wires:
        wire.read(PLAIN * 2)
    assert notes.writes == []
    await wait_quiet(wires[0])
    assert notes.writes == [(10, 0)]
    assert len(set(re.findall(rb'"VisitedAt":"([^"]*)"', notes.lines))) == 1
    assert all(wire.written.count(b"HTTP/1.1 200 OK\r\n") == 2 for wire in wires)
    for wire in wires:
        wire.close()
    await close()


async def test_a_pass_of_many_visits_is_several_writes() -> None:
    notes = Watched([])
    connect, close = BothPaths(CONFIG, None).open(notes)
    wire = Wire(connect(True), "203.0.113.5")
    small = b"GET /track HTTP/1.1\r\nHost: a\r\n\r\n"
    for _ in range(3 * PASS_VISITS // PIPELINED):
        wire.read(small * PIPELINED)
    assert [visits for visits, _ in notes.writes] == [PASS_VISITS] * 3
    wire.close()
    await close()


async def test_a_visitor_who_closes_his_half_at_once_has_his_answer() -> None:
    connect, close = BothPaths(CONFIG, None).open(Notes())
    wire = Wire(connect(True), "203.0.113.5")
    wire.read(PLAIN)
    wire.end()
    assert wire.written.startswith(b"HTTP/1.1 200 OK\r\n")
    assert wire.closed
    await wait_quiet(wire)
    await close()


async def test_what_was_read_before_a_stop_is_answered() -> None:
    notes = Notes()
    connect, close = BothPaths(CONFIG, None).open(notes)
    wire = Wire(connect(True), "203.0.113.5")
    wire.read(PLAIN)
    await close()
    assert wire.written.startswith(b"HTTP/1.1 200 OK\r\n")
    assert wire.closed
    assert len(notes.visits()) == 1


@pytest.mark.parametrize("fast", [True, False])
async def test_an_idle_connection_is_closed_and_one_that_is_used_is_not(fast: bool) -> None:
    config = PixelConfig(sns=SNS, http=Http(keepalive_timeout=0.2))
    connect, close = BothPaths(config, None).open(Notes())
    wire, idle = (Wire(connect(fast), "203.0.113.5") for _ in range(2))
    began = asyncio.get_running_loop().time()
    while asyncio.get_running_loop().time() < began + 0.5:
        wire.read(PLAIN)
        await asyncio.sleep(0.02)
    assert idle.closed
    assert not wire.closed
    await until(lambda: wire.closed)
    await close()


@pytest.mark.parametrize("fast", [True, False])
async def test_a_request_that_is_never_finished_is_given_up(fast: bool) -> None:
    config = PixelConfig(sns=SNS, http=Http(keepalive_timeout=0.1))
    notes = Notes()
    connect, close = BothPaths(config, None).open(notes)
    wire = Wire(connect(fast), "203.0.113.5")
    for byte in PLAIN[:-1]:
        if not wire.ended:
            wire.read(bytes([byte]))
            await asyncio.sleep(0.01)
    await until(lambda: wire.ended)
    assert wire.written.startswith(b"HTTP/1.1 408 ")
    assert notes.counts == {refused_request(408): 1}
    await close()


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("more", [[], [PLAIN[:9]], [PLAIN * 10] * 100], ids=["nothing", "a part", "much"])
async def test_a_visitor_who_sends_without_reading_is_stopped_and_given_up(fast: bool, more: list[bytes]) -> None:
    config = PixelConfig(sns=SNS, http=Http(keepalive_timeout=0.2))
    notes = Notes()
    connect, close = BothPaths(config, None).open(notes)
    wire = Wire(connect(fast), "203.0.113.5", capacity=1000)
    wire.read(PLAIN * 4)
    await wait_quiet(wire)
    for read in more:
        wire.read(read)
        await asyncio.sleep(0)
    assert len(notes.visits()) <= 15, "of a thousand"
    assert len(wire.written) < 15 * 450
    await until(lambda: wire.closed)
    assert notes.counts[refused_connection(NOT_READING)] == 1
    await close()
