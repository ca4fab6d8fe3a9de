from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.core.strategies import header_bytes, times, visits
from tracker.core.log_line import format_lines
from tracker.core.visit import (
    JournalLine,
    Visit,
    decode_line,
    encode_line,
    encode_lines,
    header_text,
    utc_time,
    utc_time_text,
    visited_at_text,
)
from tracker.errors import MalformedMessage

TIME = "2026-11-23T07:09:24.932706+00:00"
GOOD = encode_line(TIME, "https://a.example/", "curl/8", "192.0.2.1")


def encoded(visit: Visit) -> bytes:
    time = visit.time.isoformat(timespec="microseconds")
    return encode_line(time, visit.referrer, visit.user_agent, visit.ip)


@given(visits)
def test_a_line_is_read_back_to_the_same_visit(visit: Visit) -> None:
    assert decode_line(encoded(visit)) == visit


@given(st.text(st.characters()), st.text(st.characters()))
def test_a_line_is_one_line_of_ascii_that_sqs_takes_and_decodes_whatever_is_in_it(
    referrer: str, user_agent: str
) -> None:
    line = encode_line(TIME, referrer, user_agent, "192.0.2.1")
    assert line.endswith(b"\n")
    assert all(0x20 <= byte <= 0x7F for byte in line[:-1])
    assert decode_line(line).ip == "192.0.2.1"


@given(st.lists(st.tuples(st.text(st.characters()), st.text(st.characters())), min_size=1, max_size=4))
def test_lines_that_are_encoded_together_are_those_of_each_visit(many: list[tuple[str, str]]) -> None:
    lines = [JournalLine(referrer or None, agent or None, "192.0.2.1", TIME) for referrer, agent in many]
    assert encode_lines(lines) == b"".join(encode_line(TIME, *headers, "192.0.2.1") for headers in many)


@pytest.mark.parametrize("referrer", ["https://a.example/", "https://é.example/", None])
def test_the_keys_are_those_of_the_legacy_services_in_their_order(referrer: str | None) -> None:
    keys = [part.split(b'"')[1] for part in encode_line(TIME, referrer, None, "::1")[1:].split(b",")]
    assert keys == [b"Referer", b"UserAgent", b"IpAddress", b"VisitedAt"]


def test_what_is_missing_is_null() -> None:
    assert encode_line(TIME, None, "", "::1") == (
        b'{"Referer":null,"UserAgent":null,"IpAddress":"::1","VisitedAt":"2026-11-23T07:09:24.932706+00:00"}\n'
    )


@given(header_bytes)
def test_header_text_is_utf8_or_else_latin1(raw: bytes) -> None:
    try:
        expected = raw.decode()
    except UnicodeDecodeError:
        expected = raw.decode("iso-8859-1")
    assert header_text(raw.decode("utf-8", "surrogateescape")) == expected


@given(st.text(st.characters()))
def test_header_text_is_always_valid_text(value: str) -> None:
    header_text(value).encode()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2023-12-10T22:22:43.7936205+00:00", "2023-12-10T22:22:43.793620+00:00"),
        ("2023-12-10T22:22:43.9999999+00:00", "2023-12-10T22:22:43.999999+00:00"),
        ("2023-12-10T22:22:43.79362+00:00", "2023-12-10T22:22:43.793620+00:00"),
        ("2023-12-10T22:22:43.7936205Z", "2023-12-10T22:22:43.793620+00:00"),
        ("2023-12-10T22:22:43Z", "2023-12-10T22:22:43.000000+00:00"),
        ("2023-12-10t22:22:43z", "2023-12-10T22:22:43.000000+00:00"),
        ("2023-12-10 22:22:43.793620+00:00", "2023-12-10T22:22:43.793620+00:00"),
        ("2023-12-11T00:22:43.5+02:00", "2023-12-10T22:22:43.500000+00:00"),
        ("2023-12-10T17:52:43.5-04:30", "2023-12-10T22:22:43.500000+00:00"),
        ("2023-12-10T22:22:43.123456789012-00:00", "2023-12-10T22:22:43.123456+00:00"),
        ("2023-12-11T00:22:43.5+0200", "2023-12-10T22:22:43.500000+00:00"),
    ],
)
def test_times_are_cut_to_microseconds_and_converted_to_utc(text: str, expected: str) -> None:
    assert utc_time(text).isoformat(timespec="microseconds") == utc_time_text(text) == expected
    assert utc_time(text).tzinfo is UTC


@pytest.mark.parametrize(
    "text",
    [
        "",
        "yesterday",
        "2023-12-10",
        "2023-12-10T22:22:43.793620",
        "2023-13-10T22:22:43+00:00",
        "2023-12-10T22:22:43+99:00",
        "0001-01-01T00:00:00+05:00",
        "9999-12-31T23:59:59-05:00",
        "1702246963",
        "2023-02-29T22:22:43.793620+00:00",
        "2023-12-10T22:22:60.793620+00:00",
        "2023-12-10T22:22:43.7936\u0662\u0660+00:00",
        "2023-12-10T22:22:43.793620-99:00",
        "2023-12-10T22:22:43." + "7" * 1_000_000 + "+00:00",
        "12023-12-10T22:22:43+00:00",
        "-001-12-10T22:22:43+00:00",
        "0000-12-10T22:22:43+00:00",
        # Which of these `datetime.fromisoformat` takes depends on the release of Python.
        "2023-12-31T24:00:00+00:00",
        "2023-12-31T24:00:00.000000+00:00",
        "2023-12-10T22:22:43:793620+00:00",
        "20231210T2222.Z",
        "20231210T222243Z",
        "2023-W49-7T22:22:43Z",
        "2023-12-10T22:22:43.+00:00",
        "2023-12-10T22:22:43,5Z",
        "2023-12-10T22:22Z",
        "2023-12-10x22:22:43z",
        "2023-12-10T22:22:43zz",
        "2023-12-10T22:22:43+00",
        "2023-12-10T22:22:43+00:00:00.5",
        "2023-12-10T22:22:43+24:00",
        "2023-12-10T22:22:43Z\n",
    ],
)
def test_a_time_that_is_none_or_naive_or_out_of_range_is_malformed(text: str) -> None:
    with pytest.raises(MalformedMessage):
        utc_time(text)
    with pytest.raises(MalformedMessage):
        utc_time_text(text)


@given(times.map(lambda time: time.isoformat(timespec="microseconds")), st.data())
def test_a_time_as_text_is_the_time_or_malformed_whatever_is_changed_in_it(text: str, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(text)))
    changed = (
        text[:at]
        + data.draw(st.text("0123456789-+:.TWZ \u0660", max_size=2))
        + text[at + data.draw(st.integers(0, 2)) :]
    )
    try:
        expected = utc_time(changed).isoformat(timespec="microseconds")
    except MalformedMessage:
        with pytest.raises(MalformedMessage):
            utc_time_text(changed)
    else:
        assert utc_time_text(changed) == expected


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"\n",
        b"null",
        b"[]",
        b"{",
        b"{}",
        GOOD + GOOD,
        b"\xff\xfe",
        GOOD.replace(b"curl", b"cu\xffrl"),
        GOOD.replace(b"curl", b"\\ud800"),
        GOOD.replace(b'"curl/8"', b"8"),
        GOOD.replace(b"192.0.2.1", b"192.0.2.1:80"),
        GOOD.replace(b"192.0.2.1", b"192.0.2.256"),
        GOOD.replace(b"192.0.2.1", b" 192.0.2.1"),
        GOOD.replace(b"192.0.2.1", b"192.0.2.1\\n"),
        GOOD.replace(b"192.0.2.1", b"fe80::1%" + b"z" * 1_000_000),
        GOOD.replace(b'"192.0.2.1"', b"null"),
        GOOD.replace(b"+00:00", b""),
        GOOD.replace(b"2026-11-23T07:09:24.932706+00:00", b"0001-01-01T00:00:00+05:00"),
        b'{"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    ],
)
def test_a_line_that_is_no_visit_is_malformed(line: bytes) -> None:
    with pytest.raises(MalformedMessage):
        decode_line(line)
    with pytest.raises(MalformedMessage):
        format_lines(GOOD + (line if line.count(b"\n") < 2 else line.replace(b"\n", b"")) + b"\n")


@pytest.mark.parametrize(
    "value",
    [b"1" * 1_000_000, b"1e-99999", b'"' + b"x" * 1_000_000 + b'"', b"[" * 90 + b"]" * 90, b"{" + b" " * 9_999 + b"}"],
)
def test_whatever_an_unknown_key_holds_is_ignored(value: bytes) -> None:
    assert decode_line(GOOD.replace(b"{", b'{"Unknown":' + value + b",")) == decode_line(GOOD)


@pytest.mark.parametrize(
    "data",
    [
        GOOD[:-1],
        GOOD + GOOD[:-1],
        GOOD + b"\n",
        b"\n" + GOOD,
        GOOD[:-1] + GOOD + b"\n",
        GOOD.replace(b",", b",\n", 1),
        GOOD.replace(b",", b",\n", 1) + GOOD[:-1] + GOOD,
    ],
)
def test_lines_are_one_visit_a_line_exactly(data: bytes) -> None:
    with pytest.raises(MalformedMessage):
        format_lines(data)


def test_a_legacy_body_is_read_with_empty_text_as_missing_and_unknown_keys_ignored() -> None:
    body = (
        '{"Id":7,"Referer":"","UserAgent":"Mozilla\\u002B","IpAddress":"::ffff:10.0.0.1",'
        '"VisitedAt":"2023-12-11T10:06:40.5064909\\u002B00:00"}'
    )
    time = datetime(2023, 12, 11, 10, 6, 40, 506490, tzinfo=UTC)
    assert decode_line(body) == Visit(time, None, "Mozilla+", "10.0.0.1")


@given(st.integers(min_value=0, max_value=250_000_000_000_000_000))
def test_visited_at_text_is_the_time_to_the_microsecond(epoch_us: int) -> None:
    expected = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=epoch_us)
    assert visited_at_text(epoch_us) == expected.isoformat(timespec="microseconds")
