"""Fast path and fallback give the same answers, visits and counts for the same bytes, in reads of any size."""

import asyncio
import os
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.pixel.requests import NAMING_PAGES, ODD, PLAIN, PLAIN_VARIANTS
from tests.pixel.wires import BothPaths, Outcome
from tracker.config import Http, PixelConfig, Privacy, SnsConfig

pytestmark = [pytest.mark.slow, pytest.mark.unmeasured]

SOAK = os.environ.get("TRACKER_SOAK") == "1"
SNS = SnsConfig(topic_arn="arn:aws:sns:us-east-1:000000000000:tracking")

CONFIGS = {
    "defaults": PixelConfig(sns=SNS),
    "proxy": PixelConfig(sns=SNS, http=Http(trusted_proxies=["10.0.0.0/8"]), privacy=Privacy(honor=["gpc", "dnt"])),
    "named pages": PixelConfig(sns=SNS, http=Http(page_parameter="page"), privacy=Privacy(referrer="no_query")),
    "named pages, origins": PixelConfig(sns=SNS, http=Http(page_parameter="p"), privacy=Privacy(referrer="origin")),
    "forwarded": PixelConfig(
        sns=SNS,
        http=Http(trusted_proxies=["10.0.0.0/8"], client_ip_header="forwarded"),
        privacy=Privacy(ip="truncated", honor=["gpc"]),
    ),
}
PEERS = ["10.9.9.9", "203.0.113.5", None]

Reads = list[tuple[bytes, bool]]


async def both(paths: BothPaths, reads: Reads, *, end: bool) -> tuple[Outcome, Outcome]:
    fast = await paths.outcome(fast=True, reads=reads, end=end)
    fallback = await paths.outcome(fast=False, reads=reads, end=end)
    return fast, fallback


async def differing(config: str, peer: str | None, requests: list[bytes]) -> list[bytes]:
    """The requests that are answered differently, between two plain ones or right before a half-close."""

    async def differs(request: bytes) -> bool:
        paths = BothPaths(CONFIGS[config], peer)
        between: Reads = [(PLAIN, True), (request, True), (PLAIN, True)]
        outcomes = [await both(paths, between, end=True), await both(paths, [(request, False)], end=True)]
        return any(fast != fallback for fast, fallback in outcomes)

    found: list[bytes] = []
    for start in range(0, len(requests), 100):
        some = requests[start : start + 100]
        differences = await asyncio.gather(*map(differs, some))
        found += [request for request, difference in zip(some, differences, strict=True) if difference]
    return found


@pytest.mark.parametrize("part", range(4))
async def test_each_odd_request_is_the_same_in_both_paths(part: int) -> None:
    assert await differing("proxy", "10.9.9.9", ODD[part::4]) == []


@pytest.mark.parametrize("config", ["named pages", "named pages, origins"])
async def test_named_pages_are_the_same_in_both_paths(config: str) -> None:
    assert await differing(config, "203.0.113.5", NAMING_PAGES) == []


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("peer", PEERS)
async def test_what_is_plain_is_the_same_in_both_paths(config: str, peer: str | None) -> None:
    assert await differing(config, peer, PLAIN_VARIANTS) == []


@st.composite
def streams(draw: st.DrawFn) -> bytes:
    """Several requests, perhaps with one damaged byte."""
    requests = st.sampled_from(PLAIN_VARIANTS) | st.sampled_from(NAMING_PAGES) | st.sampled_from(ODD)
    stream = b"".join(draw(st.lists(requests, min_size=1, max_size=4)))
    if draw(st.integers(0, 3)) == 0:
        at = draw(st.integers(0, len(stream)))
        stream = stream[:at] + draw(st.binary(max_size=3)) + stream[at + draw(st.integers(0, 3)) :]
    return stream


@st.composite
def cuts(draw: st.DrawFn) -> Reads:
    """A stream cut into reads, each with whether to wait until it is answered."""
    stream = draw(streams())
    ends = [at + 4 for at in range(len(stream)) if stream.startswith(b"\r\n\r\n", at)]
    places = draw(st.sampled_from([[], ends, ends]) | st.lists(st.integers(0, len(stream)), max_size=6))
    edges = sorted({0, *places, len(stream)})
    return [(stream[start:end], draw(st.booleans())) for start, end in pairwise(edges)]


@settings(
    max_examples=20_000 if SOAK else 300,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(st.sampled_from(sorted(CONFIGS)), st.sampled_from(PEERS), cuts(), st.booleans())
def test_any_stream_in_any_reads_is_the_same_in_both_paths(
    config: str, peer: str | None, reads: Reads, end: bool
) -> None:
    with asyncio.Runner() as runner:
        fast, http = runner.run(both(BothPaths(CONFIGS[config], peer), reads, end=end))
    assert fast == http
