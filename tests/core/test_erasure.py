"""Which lines belong to a person."""

import pytest

from tracker.core.erasure import Key, Selection
from tracker.errors import MalformedMessage, UsageError

LINE = b"2026-11-24T12:00:00.000000+00:00|https://example.org/\\xC3\\xBC|Mozilla/5.0 \\x7C x|203.0.113.7\n"


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({"ips": ["203.0.113.7"]}, Key.IP),
        ({"ips": ["192.0.2.1", "203.0.113.0/24"]}, Key.IP),
        ({"ips": ["::ffff:203.0.113.7"]}, Key.IP),
        ({"ips": ["203.0.113.70", "203.0.113.8/29", "203.0.11.7"]}, None),
        ({"ips": ["2001:db8::/32"]}, None),
        ({"agents": ["Mozilla/5.0 | x"]}, Key.AGENT),
        ({"agents": ["Mozilla/5.0", "Mozilla/5.0 \\x7C x", "mozilla/5.0 | x"]}, None),
        ({"pages": ["https://example.org/ü"]}, Key.PAGE),
        ({"pages": ["https://example.org/", "example.org/ü"]}, None),
        ({"pages": ["https://example.org/ü"], "agents": ["Mozilla/5.0 | x"]}, Key.AGENT),
    ],
)
def test_a_line_is_selected_by_whole_values_as_they_are_after_unescaping(
    values: dict[str, list[str]], key: Key | None
) -> None:
    selection = Selection(**values)
    for line in (LINE, LINE.removesuffix(b"\n"), LINE.replace(b"\n", b"\r\n")):
        assert selection.key_of(line) is key


def test_ipv6_addresses_are_found_in_any_spelling() -> None:
    line = b"2026-11-24T12:00:00.000000+00:00|null|null|2001:db8::7\n"
    for text in ("2001:DB8:0:0::7", "2001:db8::/64", "2001:db8::7/128"):
        assert Selection(ips=[text]).key_of(line) is Key.IP
    assert Selection(ips=["2001:db8:1::/48"]).key_of(line) is None


def test_a_missing_value_is_no_text() -> None:
    line = b"2026-11-24T12:00:00.000000+00:00|null|\\x6Eull|192.0.2.1\n"
    assert Selection(pages=["null", ""]).key_of(line) is None
    assert Selection(agents=["null"]).key_of(line) is Key.AGENT


@pytest.mark.parametrize("line", [b"\n", b"a|b\n", b"a|b|c|d|e\n", b"time|page|agent|nobody\n", b"\x00\xff\n"])
def test_a_line_that_is_no_visit_is_not_judged(line: bytes) -> None:
    with pytest.raises(MalformedMessage):
        Selection(ips=["192.0.2.1"]).key_of(line)


@pytest.mark.parametrize("text", ["", "nobody", "203.0.113.7/24", "203.0.113.0/33", "203.0.113", "2001:db8::/129"])
def test_an_address_that_is_none_is_a_usage_error(text: str) -> None:
    with pytest.raises(UsageError, match=r"--ip: expected an IP address or a network such as 203\.0\.113\.0/24"):
        Selection(ips=[text])


@pytest.mark.parametrize(
    ("line", "key"),
    [
        (b"2026-11-24T12:00:00.000000+00:00|page|an|agent|203.0.113.7\n", Key.IP),
        (b"203.0.113.7|page\r\n", Key.IP),
        (b"anna", Key.AGENT),
        (b"time|page|an\\x7Cagent|more|192.0.2.1\n", Key.AGENT),
        (b"page|1|2|3|4\n", Key.PAGE),
        (b"page|anna|203.0.113.7|4|5\n", Key.IP),
    ],
)
def test_of_a_line_without_the_four_columns_each_column_may_have_the_value(line: bytes, key: Key) -> None:
    selection = Selection(ips=["203.0.113.0/24"], agents=["anna", "an|agent"], pages=["page"])
    assert selection.key_of(line) is key


@pytest.mark.parametrize(
    ("line", "mentioned"),
    [
        (b"from 203.0.113.7, or so\n", True),
        (b"[2001:db8::7]\n", True),
        (b"anna@example.org\n", True),
        (b"an\\xC3\xbcna-\\xC3\\xBC\n", True),
        ("ü".encode(), True),
        (b"203.0.113.70 2001:db8:1::7 12:00:00 ann\n", False),
    ],
)
def test_a_value_may_be_mentioned_anywhere_in_a_line(line: bytes, mentioned: bool) -> None:
    selection = Selection(ips=["203.0.113.7", "2001:db8::/48"], agents=["anna"], pages=["ü"])
    assert selection.is_mentioned(line) is mentioned


def test_addresses_are_looked_up_one_by_one_too() -> None:
    selection = Selection(ips=["203.0.113.7", "2001:db8::/48"])
    found = [selection.has_address(text) for text in ("203.0.113.7", "2001:db8::9", "203.0.113.8", "", "é")]
    assert found == [True, True, False, False, False]
