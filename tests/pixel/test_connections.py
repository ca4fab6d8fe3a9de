"""Bodies, half-closes, raw bytes, repeated headers and bursts of one visitor do not disturb the others."""

import asyncio
import logging
import re
from itertools import pairwise
from zlib import compress

import pytest

from tests.pixel.requests import ODD, PLAIN, whole
from tests.pixel.wires import BothPaths, Notes, Wire, wait_quiet
from tests.waiting import until
from tracker.config import Http, PixelConfig, SnsConfig
from tracker.core.discards import NOT_READING, REFUSED_STATUSES
from tracker.pixel import connection as module
from tracker.pixel.connection import Connection
from tracker.pixel.control import refused_connection, refused_request
from tracker.pixel.fallback import Fallback
from tracker.pixel.fast_path import PIPELINED
from tracker.pixel.limits import BODY_BYTES, HEAD_BYTES, WRITE_BYTES

CONFIG = PixelConfig(sns=SnsConfig(topic_arn="arn:aws:sns:us-east-1:000000000000:tracking"))
HOST = b"Host: a"
GET = b"GET /track HTTP/1.1"
GIF = b"GIF89a"
PATHS = pytest.mark.parametrize("fast", [True, False], ids=["fast path first", "fallback alone"])
CODINGS = [b"gzip", b"deflate", b"br", b"zstd", b"GZIP", b"gzip, br", b"x-unknown", b"identity", b"", b"\xff"]


class Visitor:
    """One connection in memory, and what was answered on it."""

    def __init__(self, *, fast: bool = True, config: PixelConfig = CONFIG, capacity: int | None = None) -> None:
        self.notes = Notes()
        connect, self._close = BothPaths(config, "203.0.113.5").open(self.notes)
        self.wire = Wire(connect(fast), "203.0.113.5", capacity)

    async def send(self, *reads: bytes) -> None:
        for read in reads:
            self.wire.read(read)
        await wait_quiet(self.wire)

    @property
    def statuses(self) -> list[int]:
        return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d\d\d) ", self.wire.written)]

    @property
    def visits(self) -> int:
        return len(self.notes.visits())

    async def close(self) -> None:
        self.wire.close()
        await self._close()


def with_body(head: bytes, body: bytes, *headers: bytes) -> bytes:
    return whole([head, HOST, *headers, b"Content-Length: %d" % len(body)]) + body


@PATHS
@pytest.mark.parametrize("method", [b"GET", b"HEAD", b"POST", b"PUT", b"OPTIONS"])
@pytest.mark.parametrize("path", [b"/track", b"/other"])
async def test_no_content_encoding_changes_an_answer_or_the_connection(
    fast: bool, method: bytes, path: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    head = b"%b %b HTTP/1.1" % (method, path)
    bodies = (b"abcdef", compress(bytes(1_000_000)))
    plain = Visitor(fast=fast)
    for body in bodies:
        await plain.send(with_body(head, body), PLAIN)
    assert len(plain.statuses) == 4, "the connection goes on behind a body"
    assert plain.statuses[1] == plain.statuses[3] == 200
    for coding in CODINGS:
        visitor = Visitor(fast=fast)
        for body in bodies:
            await visitor.send(with_body(head, body, b"Content-Encoding: " + coding), PLAIN)
        assert visitor.statuses == plain.statuses, coding
        assert not visitor.wire.ended, coding
        await visitor.close()
    assert caplog.get_records("call") == []
    await plain.close()


@PATHS
@pytest.mark.parametrize(
    "head",
    [
        whole([GET, HOST, b"Transfer-Encoding: chunked"]),
        whole([GET, HOST, b"Transfer-Encoding: gzip, chunked", b"Content-Encoding: gzip"]),
        whole([GET, HOST, b"Content-Length: %d" % (BODY_BYTES + 1)]),
        whole([GET, HOST, b"Content-Length: 18446744073709551615", b"Content-Encoding: br"]),
        whole([GET, HOST, b"Content-Length: 5", b"Expect: 100-continue"]),
    ],
)
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"5\r\nhello\r\n0\r\n\r\n" + PLAIN,
        b"5;" + b"extension" * 5_000 + b"\r\nhello\r\n",
        b"0\r\n" + b"Trailer: x\r\n" * 5_000 + b"\r\n",
        b"zz\r\n",
        PLAIN * 500,
    ],
)
async def test_a_body_that_is_long_or_of_unknown_length_ends_the_connection_with_the_answer(
    fast: bool, head: bytes, body: bytes
) -> None:
    visitor = Visitor(fast=fast)
    await visitor.send(head + body[:100], *(body[at : at + 1_000] for at in range(100, len(body), 1_000)))
    assert visitor.statuses == [200]
    assert b"\r\nConnection: close\r\n" in visitor.wire.written
    assert visitor.wire.ended
    assert visitor.visits == 1, "nothing in a body is taken for a request"
    await visitor.close()


async def test_what_comes_after_the_last_answer_is_dropped_for_a_short_time_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    visitor = Visitor()
    await visitor.send(whole([GET, HOST, b"Transfer-Encoding: chunked"]))
    assert not visitor.wire.closed, "a reset would take the answer away"
    await visitor.send(*[bytes(200_000)] * 6)
    assert visitor.wire.closed
    await visitor.close()
    monkeypatch.setattr(module, "LINGER_SECONDS", 0.05)
    silent = Visitor()
    await silent.send(whole([GET, HOST, b"Transfer-Encoding: chunked"]))
    await until(lambda: silent.wire.closed)
    await silent.close()


async def test_a_body_that_does_not_end_holds_the_connection_no_longer_than_an_idle_one() -> None:
    visitor = Visitor(config=PixelConfig(sns=CONFIG.sns, http=Http(keepalive_timeout=0.1)))
    await visitor.send(whole([GET, HOST, b"Content-Length: 50000"]))
    assert visitor.statuses == [200]
    while not visitor.wire.closed:
        await visitor.send(b"x")
        await until(lambda: True)
    assert visitor.visits == 1
    await visitor.close()


HALF_CLOSED = {
    "plain": [PLAIN],
    "HTTP/1.0": [b"GET /track HTTP/1.0\r\n\r\n"],
    "HTTP/1.0 keep-alive": [b"GET /track HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"],
    "Connection: close": [whole([GET, HOST, b"Connection: close"])],
    "a non-ASCII agent": [whole([GET, HOST, b"User-Agent: \xc3\xbc\xff"])],
    "Content-Length: 0": [whole([GET, HOST, b"Content-Length: 0"])],
    "a body": [with_body(GET, b"hello")],
    "a part of a body": [with_body(GET, b"hello")[:-2]],
    "chunks": [whole([GET, HOST, b"Transfer-Encoding: chunked"]) + b"0\r\n\r\n"],
    "two writes": [PLAIN[:40], PLAIN[40:]],
    "byte by byte": [bytes([byte]) for byte in PLAIN],
    "raw query": [whole([b"GET /track?\xfc HTTP/1.1", HOST])],
    "an upgrade": [whole([GET, HOST, b"Connection: Upgrade", b"Upgrade: websocket"])],
}


@PATHS
@pytest.mark.parametrize("reads", HALF_CLOSED.values(), ids=HALF_CLOSED.keys())
async def test_a_visitor_who_closes_his_half_behind_the_request_has_his_answer(fast: bool, reads: list[bytes]) -> None:
    visitor = Visitor(fast=fast)
    for read in reads:
        visitor.wire.read(read)
    visitor.wire.end()
    assert visitor.statuses == [200]
    assert visitor.wire.written.endswith(b";")
    assert visitor.visits == 1
    assert visitor.wire.closed
    await wait_quiet(visitor.wire)
    await visitor.close()


@PATHS
async def test_pipelined_requests_before_a_half_close_are_all_answered(fast: bool) -> None:
    visitor = Visitor(fast=fast)
    odd = whole([GET, HOST, b"Content-Length: 0"])
    visitor.wire.read(PLAIN + odd + with_body(b"POST /track HTTP/1.1", b"hello") + PLAIN + PLAIN[:50])
    visitor.wire.end()
    assert visitor.statuses == [200, 200, 405, 200]
    assert visitor.wire.closed, "for an unfinished request nobody waits"
    await wait_quiet(visitor.wire)
    await visitor.close()


async def test_a_half_closed_visitor_who_reads_late_has_all_his_answers() -> None:
    visitor = Visitor(capacity=100)
    visitor.wire.read(PLAIN)
    await wait_quiet(visitor.wire)
    visitor.wire.read(whole([GET, HOST, b"Content-Length: 0"]) * 40)
    visitor.wire.end()
    await wait_quiet(visitor.wire)
    assert visitor.statuses == [200]
    visitor.wire.drink()
    await wait_quiet(visitor.wire)
    assert visitor.statuses == [200] * 41
    assert visitor.wire.closed
    await wait_quiet(visitor.wire)
    await visitor.close()


QUERIES = [
    "Über".encode(),
    "Über".encode("latin-1"),
    b"t=\xdcber&\xfc",
    b"#",
    b"a#b#c?d",
    b"%zz%&&==",
    b"%00%ff",
    b"\x7f\x80",
    b"\x01\t\x0b\x1b",
    b"\xff" * 2_000,
    "😀=€".encode(),
    bytes(sorted({*range(256)} - {*b" \r\n"})),
]


@PATHS
@pytest.mark.parametrize("query", QUERIES)
@pytest.mark.parametrize("before", [b"/track?", b"/%74rack?", b"http://pixel.example/track?"])
async def test_any_bytes_in_a_query_are_a_visit(fast: bool, query: bytes, before: bytes) -> None:
    visitor = Visitor(fast=fast)
    await visitor.send(whole([b"GET " + before + query + b" HTTP/1.1", HOST]), PLAIN)
    assert visitor.statuses == [200, 200]
    assert visitor.visits == 2
    await visitor.close()


@PATHS
@pytest.mark.parametrize("target", [b"/tr\xc3\xa4ck", b"/track\xff", b"/\xfc?a", b"/track\xff?a", b"/track?a b"])
async def test_raw_bytes_in_a_path_and_spaces_are_refused(fast: bool, target: bytes) -> None:
    visitor = Visitor(fast=fast)
    await visitor.send(whole([b"GET " + target + b" HTTP/1.1", HOST]))
    assert visitor.statuses == [400]
    assert visitor.visits == 0
    await visitor.close()


@PATHS
@pytest.mark.parametrize("name", [b"User-Agent", b"Referer", b"user-agent", b"REFERER"])
@pytest.mark.parametrize("copies", [2, 5])
async def test_of_a_header_that_is_there_twice_the_first_one_counts(fast: bool, name: bytes, copies: int) -> None:
    visitor = Visitor(fast=fast)
    names = [name, name.lower(), name.upper(), name.title(), name][:copies]
    await visitor.send(whole([GET, HOST, *(each + b": %d" % number for number, each in enumerate(names))]), PLAIN)
    assert visitor.statuses == [200, 200]
    first = visitor.notes.visits()[0]
    assert isinstance(first, dict)
    assert {first["Referer"], first["UserAgent"]} == {"0", None}
    await visitor.close()


@PATHS
@pytest.mark.parametrize("name", [b"Host", b"Content-Length"])
async def test_a_header_that_says_where_a_request_ends_must_not_be_there_twice(fast: bool, name: bytes) -> None:
    visitor = Visitor(fast=fast)
    await visitor.send(whole([GET, HOST, name + b": 0", name + b": 0"]))
    assert visitor.statuses == [400]
    await visitor.close()


@PATHS
@pytest.mark.parametrize("protocol", [b"h2c", b"websocket", b"WebSocket", b"tls/1.0", b"h2c, websocket"])
async def test_a_request_to_upgrade_is_ignored_and_what_follows_is_answered(fast: bool, protocol: bytes) -> None:
    visitor = Visitor(fast=fast)
    upgrade = whole([GET, HOST, b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: " + protocol, b"HTTP2-Settings: AA"])
    await visitor.send(upgrade + PLAIN + upgrade, PLAIN)
    assert visitor.statuses == [200] * 4
    assert visitor.visits == 4
    await visitor.close()


@PATHS
@pytest.mark.parametrize("size", [8_000, 12_000, 16_384])
async def test_large_cookies_of_a_first_party_are_accepted(fast: bool, size: int) -> None:
    visitor = Visitor(fast=fast)
    await visitor.send(whole([GET, HOST, b"Cookie: " + b"c" * size, b"Referer: https://a.example/"]), PLAIN)
    assert visitor.statuses == [200, 200]
    await visitor.close()


@PATHS
async def test_headers_of_32_kib_together_are_answered(fast: bool) -> None:
    visitor = Visitor(fast=fast)
    cookies = [b"Cookie: " + b"c" * 16_000, b"X-Other: " + b"o" * 16_000]
    await visitor.send(whole([GET, HOST, *cookies]), PLAIN)
    assert visitor.statuses == [200, 200]
    await visitor.close()


@PATHS
async def test_each_refusal_is_counted_once_with_its_status(fast: bool) -> None:
    requests = {
        404: whole([b"GET /other HTTP/1.1", HOST]),
        405: with_body(b"POST /track HTTP/1.1", b"hello"),
        400: b"\x16\x03\x01\x02\x00",
        414: whole([b"GET /track?" + b"q" * 9_000 + b" HTTP/1.1", HOST]),
        431: whole([GET, HOST, b"X: " + b"x" * 17_000]),
    }
    for status, request in requests.items():
        visitor = Visitor(fast=fast)
        await visitor.send(PLAIN, request)
        assert visitor.statuses == [200, status]
        counted = {name: count for name, count in visitor.notes.counts.items() if name.startswith("refused")}
        assert counted == {refused_request(status): 1}
        await visitor.close()


@pytest.mark.slow
async def test_every_refusal_has_its_count_and_no_request_makes_a_traceback(caplog: pytest.LogCaptureFixture) -> None:
    seen = set()
    for request in ODD:
        visitor = Visitor()
        await visitor.send(request)
        refused = [status for status in visitor.statuses if status != 200]
        counted = sum(visitor.notes.counts[refused_request(status)] for status in REFUSED_STATUSES)
        assert counted == len(refused), request
        seen |= {*refused}
        await visitor.close()
    assert seen == {400, 404, 405, 414, 431}
    assert [record for record in caplog.get_records("call") if record.levelno >= logging.WARNING] == []


async def test_a_fault_of_the_pixel_is_answered_with_500_logged_and_counted(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(self: Fallback, head: bytes) -> None:
        raise RuntimeError("a fault")

    monkeypatch.setattr(Fallback, "read", fail)
    visitor = Visitor(fast=False)
    await visitor.send(PLAIN)
    assert visitor.statuses == [500]
    assert visitor.notes.counts == {refused_request(500): 1}
    assert visitor.wire.ended
    assert "request_failed" in caplog.text
    await visitor.close()


@PATHS
@pytest.mark.parametrize("size", [40, 300, 9_000, 60_000, 250_000])
async def test_a_connection_keeps_no_more_than_a_head_and_few_answers(fast: bool, size: int) -> None:
    """The visitor reads nothing and sends as much as possible, in reads of any size."""
    visitor = Visitor(fast=fast, capacity=WRITE_BYTES)
    small = b"GET /track HTTP/1.1\r\nHost: a\r\n\r\n"
    stream = small * (2 * size // len(small) + 20) + PLAIN[:-1]
    connection = visitor.wire.get_protocol()
    assert isinstance(connection, Connection)
    for start, end in pairwise(range(0, len(stream), size)):
        await visitor.send(stream[start:end])
        assert len(connection.leftover) <= HEAD_BYTES
        assert len(visitor.wire.written) < WRITE_BYTES + 8_000
    await visitor.close()


async def test_a_burst_is_answered_in_full_to_a_visitor_who_reads() -> None:
    visitor = Visitor()
    small = b"GET /track HTTP/1.1\r\nHost: a\r\n\r\n"
    await visitor.send(*[small * 1_000] * 5)
    assert visitor.statuses == [200] * 5_000
    assert not visitor.wire.ended
    await visitor.close()


async def test_a_burst_of_one_visitor_keeps_the_others_waiting_for_a_few_requests_only() -> None:
    burst, other = Visitor(), Visitor()
    burst.wire.read(b"GET /track HTTP/1.1\r\nHost: a\r\n\r\n" * 1_000)
    other.wire.read(PLAIN)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert other.statuses == [200]
    assert 0 < len(burst.statuses) <= 3 * PIPELINED
    await wait_quiet(burst.wire)
    assert len(burst.statuses) == 1_000
    await burst.close()
    await other.close()


async def test_of_many_bursts_one_goes_on_in_each_pass_of_the_loop() -> None:
    paths, notes = BothPaths(CONFIG, None), Notes()
    connect, close = paths.open(notes)
    wires = [Wire(connect(True), "203.0.113.5") for _ in range(20)]
    for wire in wires:
        wire.read(b"GET /track HTTP/1.1\r\nHost: a\r\n\r\n" * 100)
    while len(notes.visits()) < 20 * 100:
        before = len(notes.visits())
        await asyncio.sleep(0)
        assert len(notes.visits()) - before <= PIPELINED
        counts = [wire.written.count(GIF) for wire in wires]
        assert max(counts) - min(counts) <= PIPELINED
    for wire in wires:
        wire.close()
    await close()


async def test_a_visitor_who_does_not_read_a_burst_is_counted_and_keeps_what_was_answered() -> None:
    visitor = Visitor(capacity=WRITE_BYTES)
    await visitor.send(b"GET /track HTTP/1.1\r\nHost: a\r\n\r\n" * 5_000)
    assert visitor.notes.counts[refused_connection(NOT_READING)] == 1
    assert len(visitor.statuses) == visitor.visits < 20
    assert visitor.wire.is_closing()
    await visitor.close()


@PATHS
async def test_a_half_closed_visitor_who_does_not_read_is_not_kept_longer_than_an_idle_one(fast: bool) -> None:
    visitor = Visitor(fast=fast, config=PixelConfig(sns=CONFIG.sns, http=Http(keepalive_timeout=0.2)))
    visitor.wire.unread = True
    await visitor.send(PLAIN, PLAIN[:40])
    visitor.wire.end()
    assert visitor.wire.is_closing()
    assert not visitor.wire.closed
    await until(lambda: visitor.wire.closed)
    assert visitor.statuses == [200]
    await visitor.close()


@pytest.mark.parametrize("start", [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", GET + b"\n" + HOST + b"\n\n"])
async def test_an_unfinished_head_that_is_no_http_is_refused_at_once(start: bytes) -> None:
    visitor = Visitor()
    await visitor.send(start)
    assert visitor.statuses == [400]
    await visitor.close()
