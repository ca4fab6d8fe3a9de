"""Requests that were seen before are read as the fast path and the fallback read them, and take bounded memory."""

import asyncio
import itertools
import os
import random
import tracemalloc

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.pixel.header_sets import FRONTS, share_known, visit
from tests.pixel.requests import PLAIN, whole
from tests.pixel.wires import BothPaths, Notes, Wire, wait_quiet
from tracker.config import Http, PixelConfig, Privacy, SnsConfig
from tracker.core.page import NamedPage
from tracker.pixel.fast_path import FastPath
from tracker.pixel.known_requests import (
    KNOWN_BYTES,
    LEARN_EVERY,
    LOOK_UP_EVERY,
    PATIENCE,
    VARYING,
    KnownRequests,
)

SOAK = os.environ.get("TRACKER_SOAK") == "1"
WANTED = ["Referer", "User-Agent", "X-Forwarded-For", "Sec-GPC"]
CONFIG = PixelConfig(
    sns=SnsConfig(topic_arn="arn:aws:sns:us-east-1:000000000000:tracking"),
    http=Http(trusted_proxies=["10.0.0.0/8"], page_parameter="page"),
    privacy=Privacy(honor=["gpc"]),
)


def seen(seed: int) -> list[bytes]:
    """Some requests of each kind, one in four without a query, each with a signal now and then."""
    chance = random.Random(seed)
    requests = [visit(front, chance) for front in FRONTS for _ in range(4)]
    requests[::4] = [b"GET /track HTTP/1.1\r\n" + request.partition(b"\r\n")[2] for request in requests[::4]]
    return [request[:-2] + b"Sec-GPC: 1\r\n\r\n" if chance.random() < 0.2 else request for request in requests]


SEEN = seen(1)


def taught() -> FastPath:
    fast_path = FastPath("/track", WANTED, named_page=NamedPage("page"))
    for request in SEEN * 2 * LEARN_EVERY:
        assert fast_path.find(request)
    return fast_path


TAUGHT = taught()
PIECES = st.sampled_from(
    [
        *[
            b"",
            b" ",
            b"\r",
            b"\n",
            b"\r\n",
            b"\r\n\r\n",
            b"\x00",
            b"\xff",
            b"\t",
            b'"\\',
            b"?",
            b"a",
            b"HTTP/1.1",
            PLAIN,
        ],
        *[
            b"?page=a%2Fb",
            b"Referer: ",
            b"\r\nReferer: b",
            b"\r\nX-Forwarded-For: 192.0.2.1",
            b"\r\nCookie: c",
            b"\r\nHost: b",
        ],
        b"\r\nContent-Length: 5",
    ]
)


@st.composite
def changed(draw: st.DrawFn) -> bytes:
    """A request that was seen before, with other values, or with lines or bytes changed."""
    request = draw(st.sampled_from(SEEN))
    lines = request.split(b"\r\n")
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(lines) - 1))
        name, colon, value = lines[at].partition(b": ")
        lines[at : at + 1] = draw(
            st.sampled_from(
                [
                    [name + colon + draw(PIECES) + value],
                    [name + colon + value + draw(PIECES)],
                    [name + colon + draw(st.sampled_from([b"", b"x", b"https://a.example/|", b"203.0.113.77"]))],
                    [],
                    [lines[at], lines[at]],
                    [lines[at], draw(st.sampled_from(SEEN)).split(b"\r\n")[draw(st.integers(0, 5))]],
                ]
            )
        )
    text = b"\r\n".join(lines)
    if draw(st.booleans()):
        at = draw(st.integers(0, len(text)))
        text = text[:at] + draw(PIECES) + text[at + draw(st.integers(0, 9)) :]
    return text


@pytest.mark.slow
@pytest.mark.unmeasured
@settings(max_examples=50_000 if SOAK else 500, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(changed())
def test_what_was_seen_before_changes_nothing(request: bytes) -> None:
    assert TAUGHT.find(request) == FastPath("/track", WANTED, named_page=NamedPage("page")).find(request)


@pytest.mark.slow
@pytest.mark.unmeasured
@settings(max_examples=5_000 if SOAK else 200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(changed(), min_size=1, max_size=3), st.sampled_from(["10.9.9.9", "203.0.113.5"]))
def test_what_was_seen_before_is_answered_as_the_fallback_answers_it(reads: list[bytes], peer: str) -> None:
    with asyncio.Runner() as runner:
        runner.run(compare(reads, peer))


async def compare(reads: list[bytes], peer: str) -> None:
    outcomes = []
    for fast in (True, False):
        paths, notes = BothPaths(CONFIG, peer), Notes()
        connect, close = paths.open(notes)
        paths.connections.fast_path = TAUGHT
        wire = Wire(connect(fast), peer)
        for read in reads:
            wire.read(read)
            await wait_quiet(wire)
        outcomes.append((wire.written.count(b"HTTP/1.1 "), wire.closed or wire.ended, notes.visits(), notes.counts))
        wire.close()
        await close()
    assert outcomes[0] == outcomes[1]


def test_other_values_behind_known_headers_and_another_named_page_are_read() -> None:
    fast_path = FastPath("/track", ["Referer", "User-Agent", "X-Forwarded-For"], named_page=NamedPage("page"))

    def request(number: int) -> bytes:
        varying = [f"{name}: {name}{number}".encode() for name in ("referer", "X-Forwarded-For", "Cookie")]
        return whole([b"GET /track?page=page%d HTTP/1.1" % number, b"Host: a", b"User-Agent: u", *varying])

    def fields(number: int) -> list[str]:
        return [f"page{number}", f"referer{number}", "u", f"X-Forwarded-For{number}"]

    for number in range(3 * LEARN_EVERY):
        assert fast_path.find(request(number)) == [fields(number)]
    fast_path.pattern = None  # type: ignore[assignment]  # nothing is matched any more
    assert fast_path.find(request(999)) == [fields(999)]


def test_a_request_that_was_seen_before_is_not_plain_behind_another_request_line() -> None:
    fast_path = FastPath("/track", ["Referer"])
    line, _, headers = PLAIN.partition(b"\r\n")
    without_query = b"GET /track HTTP/1.1\r\n" + headers
    for request in (PLAIN, without_query) * LEARN_EVERY:
        assert fast_path.find(request)
    assert fast_path.find(line + b"\r\n" + without_query) == []
    assert fast_path.find(b"\r\n" + headers) == []
    assert fast_path.find(headers) == []


@pytest.mark.slow
@pytest.mark.parametrize("front", FRONTS)
def test_most_visits_of_real_browsers_are_known(front: str) -> None:
    assert share_known(front, visits=5_000, seed=1) > 0.6


@pytest.mark.unmeasured
@pytest.mark.parametrize("name", ["X", "User-Agent", "Referer", "Cookie"])
def test_memory_is_bounded(name: str) -> None:
    known = KnownRequests(path="/track", request_line="GET /track", value="a", wanted=["User-Agent", "Referer"])
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        learned = 0
        for number in itertools.count():
            value = f"{number}" + "y" * (7_000 if name == "Referer" or number % 10 == 0 else 0)
            read = whole([b"GET /track", b"A: %d" % number, f"{name}: {value}".encode()])
            if (learned := learned + len(read)) > 3 * KNOWN_BYTES:
                break
            known.learn(read, [None, value if name == "User-Agent" else None, value if name == "Referer" else None])
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 1.1 * KNOWN_BYTES


def test_requests_that_repeat_are_known_soon_after_many_that_do_not() -> None:
    fast_path = FastPath("/track", ["Referer"])
    for number in range(2 * PATIENCE):
        assert fast_path.find(whole([b"GET /track HTTP/1.1", b"Host: a", b"X: %d" % number]))
    for _ in range(2 * LEARN_EVERY * LOOK_UP_EVERY):
        assert fast_path.find(PLAIN)
    fast_path.pattern = None  # type: ignore[assignment]
    assert fast_path.find(PLAIN)


def test_no_varying_header_is_special() -> None:
    for name in VARYING.split():
        assert FastPath("/track", ["Referer"]).find(whole([b"GET /track HTTP/1.1", b"Host: a", name.encode() + b": a"]))
