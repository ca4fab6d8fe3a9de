"""The rate limit: what a client may send, with the times given by the test, and how much memory is used."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracker.core.rate_limit import BURST_SECONDS, RateLimit, client_of


def test_a_quiet_client_may_send_ten_seconds_worth_at_once_and_no_more() -> None:
    limit = RateLimit(2.0)
    assert [limit.allows("192.0.2.1", 100.0) for _ in range(25)] == [True] * 20 + [False] * 5


def test_after_a_burst_it_goes_on_at_the_rate() -> None:
    limit = RateLimit(2.0)
    for _ in range(20):
        assert limit.allows("192.0.2.1", 0.0)
    assert not limit.allows("192.0.2.1", 0.25)
    assert limit.allows("192.0.2.1", 0.5)
    assert not limit.allows("192.0.2.1", 0.75)
    assert limit.allows("192.0.2.1", 1.0)


def test_what_was_refused_does_not_count() -> None:
    limit = RateLimit(1.0)
    while limit.allows("192.0.2.1", 0.0):
        pass
    for _ in range(1_000):
        assert not limit.allows("192.0.2.1", 0.5)
    assert limit.allows("192.0.2.1", 1.0)


def test_less_than_one_visit_in_ten_seconds_still_lets_the_first_one_through() -> None:
    limit = RateLimit(0.01)
    assert [limit.allows("192.0.2.1", time) for time in (0.0, 50.0, 99.0, 100.0)] == [True, False, False, True]


def test_each_client_has_a_limit_of_its_own() -> None:
    limit = RateLimit(1.0)
    while limit.allows("192.0.2.1", 0.0):
        pass
    assert limit.allows("192.0.2.2", 0.0)
    assert limit.allows("2001:db8::1", 0.0)


@pytest.mark.parametrize(
    ("ip", "client"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
        ("2001:db8:1:2::9", "2001:db8:1:2::"),
        ("2001:db8:1:3::9", "2001:db8:1:3::"),
        ("::1", "::"),
    ],
)
def test_one_client_is_an_ipv4_address_or_a_64_of_ipv6(ip: str, client: str) -> None:
    assert client_of(ip) == client


def test_memory_is_bounded_whatever_addresses_come() -> None:
    limit = RateLimit(1.0, max_clients=100)
    for number in range(10_000):
        assert limit.allows(f"10.0.{number // 256}.{number % 256}", number * 1e-6)
        assert len(limit) <= 100


def test_idle_clients_are_forgotten_before_busy_ones() -> None:
    limit = RateLimit(1.0, max_clients=100)
    while limit.allows("192.0.2.1", 0.0):
        pass
    for number in range(99):
        assert limit.allows(f"10.0.0.{number}", 0.0)
    assert limit.allows("192.0.2.2", 5.0)  # the 99 are idle again, the busy one is not
    assert len(limit) == 2
    while limit.allows("192.0.2.1", 5.0):
        pass
    assert not limit.allows("192.0.2.1", 5.5)


@given(
    per_second=st.floats(0.05, 50),
    gaps=st.lists(st.floats(0, 3), min_size=1, max_size=200),
)
def test_in_any_stretch_no_more_than_the_rate_and_one_burst_pass(per_second: float, gaps: list[float]) -> None:
    limit = RateLimit(per_second)
    now, passed = 0.0, []
    for gap in gaps:
        now += gap
        if limit.allows("192.0.2.1", now):
            passed.append(now)
    burst = max(1.0, BURST_SECONDS * per_second)
    for first in range(len(passed)):
        for last in range(first, len(passed)):
            stretch = passed[last] - passed[first]
            assert last - first + 1 <= burst + stretch * per_second + 1e-6


@given(per_second=st.floats(0.05, 50), count=st.integers(1, 100))
def test_a_client_that_keeps_to_the_rate_is_never_refused(per_second: float, count: int) -> None:
    limit = RateLimit(per_second)
    assert all(limit.allows("192.0.2.1", number / per_second * (1 + 1e-9)) for number in range(count))
