"""The collector limits clients that send too many visits, ignores headers of untrusted peers, and cuts long headers."""

from collections import Counter

import pytest

from tracker.config import Http, OutboxConfig, PixelConfig, Privacy, SnsConfig
from tracker.core.discards import HEADERS_CUT, HEADERS_MISSING, HEADERS_UNTRUSTED
from tracker.core.visit import JournalLine, decode_line, encode_lines
from tracker.pixel.collector import Collector
from tracker.pixel.recorder import Recorder

SNS = SnsConfig(topic_arn="arn:aws:sns:us-east-1:000000000000:tracking")


def collector(http: Http, privacy: Privacy | None = None) -> tuple[Collector, Counter[str]]:
    counts: Counter[str] = Counter()
    config = PixelConfig(sns=SNS, http=http, privacy=privacy or Privacy())
    return Collector(config=config, recorder=Recorder(config=OutboxConfig(), quota=0, counts=counts)), counts


def visit(of: Collector, peer: str, ip_header: str | None = None) -> JournalLine | None:
    return of.journal_line(of.peer(peer), [None, None, None, ip_header])


def test_beyond_its_rate_a_client_is_discarded_and_counted() -> None:
    collecting, counts = collector(Http(rate_limit=0.3))
    made = [visit(collecting, "192.0.2.1") for _ in range(5)]
    assert [line is not None for line in made] == [True, True, True, False, False]
    assert counts == {"rate_limited": 2}
    assert visit(collecting, "192.0.2.2") is not None


def test_the_client_behind_a_proxy_is_limited_and_not_the_proxy() -> None:
    collecting, counts = collector(Http(rate_limit=0.01, trusted_proxies=["192.0.2.1"]))
    assert visit(collecting, "192.0.2.1", "198.51.100.1") is not None
    assert visit(collecting, "192.0.2.1", "198.51.100.2") is not None
    assert visit(collecting, "192.0.2.1", "198.51.100.1") is None
    assert counts == {"rate_limited": 1}


def test_truncated_addresses_do_not_share_a_limit() -> None:
    collecting, _ = collector(Http(rate_limit=0.01), Privacy(ip="truncated"))
    assert visit(collecting, "192.0.2.1") is not None
    second = visit(collecting, "192.0.2.2")
    assert second is not None
    assert second.ip == "192.0.2.0"


def test_without_a_limit_nobody_is_limited() -> None:
    collecting, counts = collector(Http())
    assert all(visit(collecting, "192.0.2.1") for _ in range(1_000))
    assert not counts


@pytest.mark.parametrize(("trusted", "counted"), [([], 1), (["203.0.113.0/24"], 1), (["192.0.2.0/24"], 0)])
def test_a_client_ip_header_of_an_untrusted_peer_is_counted(trusted: list[str], counted: int) -> None:
    collecting, counts = collector(Http(trusted_proxies=trusted))
    visit(collecting, "192.0.2.1", "198.51.100.1")
    visit(collecting, "192.0.2.1")
    assert counts[HEADERS_UNTRUSTED] == counted


@pytest.mark.parametrize(("length", "cut"), [(1_023, 0), (1_024, 1), (3_000, 1)])
@pytest.mark.parametrize("field", ["referrer", "user_agent"])
def test_a_header_is_cut_by_its_length_as_it_is_recorded(field: str, length: int, cut: int) -> None:
    collecting, counts = collector(Http())
    value = "é" * length + "\udcff"  # not UTF-8 because of its last byte, so each of its bytes is a character
    fields = [None, value, None, None] if field == "referrer" else [None, None, value, None]
    line = collecting.journal_line(collecting.peer("192.0.2.1"), fields)
    assert line is not None
    line.visited_at = "2026-11-23T07:09:24.932706+00:00"
    assert getattr(decode_line(encode_lines([line])), field) == ("Ã©" * length + "ÿ")[:2_048]
    assert counts[HEADERS_CUT] == cut


@pytest.mark.parametrize(
    ("ip_header", "counted"),
    [(None, 1), ("", 1), ("unknown", 1), ("192.0.2.1", 1), ("198.51.100.1", 0), ("198.51.100.1, 192.0.2.2", 0)],
)
def test_a_trusted_proxy_that_names_no_client_is_counted(ip_header: str | None, counted: int) -> None:
    collecting, counts = collector(Http(trusted_proxies=["192.0.2.0/24"]))
    assert visit(collecting, "192.0.2.1", ip_header) is not None
    visit(collecting, "203.0.113.1")
    assert counts[HEADERS_MISSING] == counted
