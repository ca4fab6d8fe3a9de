import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.core.strategies import changed_lines, odd_lines, plain_lines, visit_lines, visits
from tracker.core.log_line import format_line, format_lines, parse_line
from tracker.core.visit import MAX_HEADER_CHARS, MAX_MESSAGE_LINES, Visit, decode_line, encode_line
from tracker.errors import MalformedMessage

TIME_TEXT = "2026-11-23T07:09:24.932706+00:00"
PLAIN = encode_line(TIME_TEXT, "https://a.example/", "curl/8", "192.0.2.1")
TIME = datetime(2026, 11, 23, 7, 9, 24, 932706, tzinfo=UTC)


@given(visits)
def test_a_visit_is_read_back_exactly(visit: Visit) -> None:
    assert parse_line(format_line(visit)) == visit
    assert parse_line(format_line(visit)[:-1]) == visit


@given(visits)
def test_a_line_is_four_columns_of_printable_ascii(visit: Visit) -> None:
    line = format_line(visit)
    assert line.count(b"|") == 3
    assert line.index(b"\n") == len(line) - 1
    assert all(0x20 <= byte <= 0x7E for byte in line[:-1])


def formatted(data: bytes) -> list[str]:
    """What `format_lines` returns, line by line."""
    lines, count = format_lines(data)
    texts = [f"{text}\n" for text in lines.decode("ascii").split("\n")[:-1]]
    assert len(texts) == count
    return texts


def one_by_one(data: bytes) -> list[str] | None:
    """The log lines of a span when each journal line is decoded on its own; None if one of them is malformed."""
    try:
        return [format_line(decode_line(line)).decode() for line in data.split(b"\n")[:-1]]
    except MalformedMessage:
        return None


def together(data: bytes) -> list[str] | None:
    """The log lines of the same span, as storage makes them; None if it is malformed."""
    try:
        return formatted(data)
    except MalformedMessage:
        return None


@given(st.lists(visit_lines, max_size=6) | st.lists(visit_lines | odd_lines, max_size=3))
def test_lines_of_a_span_are_those_of_its_visits_one_by_one(many: list[bytes]) -> None:
    data = b"".join(line + b"\n" for line in many)
    assert together(data) == one_by_one(data)


@given(st.lists(changed_lines, min_size=1, max_size=3))
def test_whatever_is_changed_in_a_plain_line_it_is_read_as_if_it_were_alone(many: list[bytes]) -> None:
    data = b"".join(line + b"\n" for line in many)
    assert together(data) == one_by_one(data)


RAW_BYTES = [b'"%c"' % byte for byte in range(256) if byte != 0x0A]
JSON_ESCAPES = [
    b'"%b"' % escape for escape in (b"\\n", b'\\"', b"\\/", b"\\x41", b"\\u0041", b"\\ud83d\\ude00", b"\\ud800", b"\\")
]
HEADERS = [
    b"null",
    b'""',
    b'"null"',
    b'"nullx"',
    b'" null"',
    b"nul",
    b"true",
    b"7",
    b"[]",
    b'"',
    b"",
    b'"caf\xc3\xa9"',
    b'"a""b"',
]
TIMES = [
    "2026-11-23T07:09:24.9327069+00:00",
    "2026-11-23T07:09:24.93270+00:00",
    "2026-11-23T07:09:24+00:00",
    "2026-11-23T07:09:24.932706Z",
    "2026-11-23T09:09:24.932706+02:00",
    "2026-11-23T07:09:24.932706-00:00",
    "2026-11-23T07:09:24.932706+0000",
    "2026-11-23 07:09:24.932706+00:00",
    "2026-11-23t07:09:24.932706z",
    "2026-11-23T07:09:24.932706",
    "2026-11-23T07:09:24,932706+00:00",
    "2026-W48-1T07:09:24.932706+00:00",
    "2024-02-29T07:09:24.932706+00:00",
    "2023-02-29T07:09:24.932706+00:00",
    "",
]
IPS = [
    "2001:DB8::1",
    "2001:db8:0:0::1",
    "::ffff:192.0.2.1",
    "fe80::1%eth0",
    "192.0.2.01",
    "192.0.2.256",
    "1.2.3",
    "x",
    "",
]


DETAILS = [
    *((b'"https://a.example/"', text) for text in (*RAW_BYTES, *JSON_ESCAPES, *HEADERS)),
    *((b'"curl/8"', text) for text in (*RAW_BYTES, *JSON_ESCAPES, *HEADERS)),
    *((TIME_TEXT.encode(), text.encode()) for text in TIMES),
    *((b"192.0.2.1", text.encode()) for text in IPS),
    *((b"{", text) for text in (b" {", b"{ ", b"[{", b"{{", b"", b'{"x":1,', b'{"x":NaN,', b'{"Referer":"z",')),
    *((b"}", text) for text in (b"} ", b" }", b"}x", b"}}", b"},", b"", b',"x":1e999}', b',"UserAgent":"z"}', b"}{}")),
    *((b",", text) for text in (b", ", b",,", b" ,", b";", b"")),
    *((b"Referer", text) for text in (b"referer", b"UserAgent", b"\\u0052eferer", b"X")),
]


def test_a_line_that_differs_from_ours_in_one_detail_is_read_as_if_it_were_alone() -> None:
    assert [detail for detail in DETAILS if _is_read_otherwise_beside_ours(*detail)] == []


def _is_read_otherwise_beside_ours(ours: bytes, other: bytes) -> bool:
    line = PLAIN.replace(ours, other, 1)
    return any(together(data) != one_by_one(data) for data in (line, PLAIN + line + PLAIN))


@given(st.lists(plain_lines, min_size=1, max_size=3))
def test_a_plain_line_becomes_its_own_texts_in_the_order_of_the_columns(many: list[tuple[str, str, str, str]]) -> None:
    data = b"".join(encode_line(*fields) for fields in many)
    assert formatted(data) == [f"{time}|{referrer}|{agent}|{ip}\n" for time, referrer, agent, ip in many]


@pytest.mark.parametrize("year", ["0000", "0001", "1900", "2000", "2023", "2024", "2100", "9999", "-001", "+024"])
def test_a_day_that_no_calendar_has_is_malformed_in_every_month(year: str) -> None:
    days = [f"{year}-{month:02}-{day:02}T07:09:24" for month in range(14) for day in range(33)]
    for data in (encode_line(f"{day}.932706+00:00", None, None, "::1") for day in days):
        assert together(data) == one_by_one(data)


@pytest.mark.parametrize("part", ["{:02}:09:24", "07:{:02}:24", "07:09:{:02}"])
def test_a_time_that_no_clock_shows_is_malformed(part: str) -> None:
    for data in (encode_line(f"2026-11-23T{part.format(n)}.932706+00:00", None, None, "::1") for n in range(100)):
        assert together(data) == one_by_one(data)


LONG_TEXTS = ["x", "|", "é", "😀", "\\", "\x7f", "a|é😀", "\x00"]


@pytest.mark.parametrize("length", [MAX_HEADER_CHARS - 1, MAX_HEADER_CHARS, MAX_HEADER_CHARS + 1, 100_000])
@pytest.mark.parametrize("pattern", LONG_TEXTS)
@pytest.mark.parametrize("ascii_only", [True, False])
@pytest.mark.parametrize("key", ["Referer", "UserAgent"])
def test_a_longer_header_than_the_pixel_keeps_is_cut_as_the_pixel_cuts_it(
    key: str, ascii_only: bool, pattern: str, length: int
) -> None:
    text = (pattern * length)[:length]
    kept = text[:MAX_HEADER_CHARS]
    keys = {"VisitedAt": TIME.isoformat(), "IpAddress": "192.0.2.1", key: text}
    encoded = json.dumps(keys, ensure_ascii=ascii_only).encode() + b"\n"
    referrer, user_agent = (kept, None) if key == "Referer" else (None, kept)
    expected = Visit(TIME, referrer, user_agent, "192.0.2.1")
    for before in range(3):
        lines = formatted(PLAIN * before + encoded + PLAIN)
        assert parse_line(lines[before].encode()) == expected
        assert [*lines[:before], *lines[before + 1 :]] == formatted(PLAIN) * (before + 1)
    assert decode_line(encoded) == expected


@given(st.lists(st.tuples(st.integers(1900, 2300), st.booleans()), max_size=12))
def test_of_lines_about_as_long_as_the_limit_each_is_cut_or_left_as_it_is(sizes: list[tuple[int, bool]]) -> None:
    data = b"".join(
        encode_line("2026-11-23T07:09:24.932706+00:00", "r" * size, "u" * (size * second), "192.0.2.1")
        for size, second in sizes
    )
    assert formatted(data) == [format_line(decode_line(line)).decode() for line in data.splitlines()]


def test_a_message_of_more_lines_than_any_span_has_is_malformed() -> None:
    assert len(formatted(PLAIN * MAX_MESSAGE_LINES)) == MAX_MESSAGE_LINES
    for data in (PLAIN * (MAX_MESSAGE_LINES + 1), PLAIN * 2 * MAX_MESSAGE_LINES):
        with pytest.raises(MalformedMessage, match=f"more than {MAX_MESSAGE_LINES} lines"):
            format_lines(data)
    with pytest.raises(MalformedMessage):
        format_lines(b"\n" * (8 << 20))


@pytest.mark.parametrize("control", [*range(0x0A), *range(0x0B, 0x20)])
def test_a_raw_control_character_makes_a_span_malformed(control: int) -> None:
    with pytest.raises(MalformedMessage):
        format_lines(
            encode_line("2026-11-23T07:09:24.932706+00:00", "a", None, "::1").replace(b'"a"', b'"%c"' % control)
        )


@given(st.binary())
def test_any_bytes_are_a_visit_or_malformed(line: bytes) -> None:
    try:
        visit = parse_line(line)
    except MalformedMessage:
        return
    assert parse_line(format_line(visit)) == visit


@pytest.mark.parametrize(
    ("text", "column"),
    [
        (None, b"null"),
        ("", b"null"),
        ("null", b"\\x6Eull"),
        ("NULL", b"NULL"),
        ("nullx", b"nullx"),
        ("|", b"\\x7C"),
        ("\\", b"\\x5C"),
        ("\\x7C", b"\\x5Cx7C"),
        ("\\x6Eull", b"\\x5Cx6Eull"),
        ("a\tb", b"a\\x09b"),
        ("\r\n", b"\\x0D\\x0A"),
        ("\x1b[31m", b"\\x1B[31m"),
        ("\x7f", b"\\x7F"),
        ("é", b"\\xC3\\xA9"),
        ("\x85", b"\\xC2\\x85"),
        ("\u202e", b"\\xE2\\x80\\xAE"),
        ("😀", b"\\xF0\\x9F\\x98\\x80"),
        (" ~", b" ~"),
    ],
)
def test_escapes(text: str | None, column: bytes) -> None:
    line = format_line(Visit(TIME, text, None, "192.0.2.1"))
    assert line == b"2026-11-23T07:09:24.932706+00:00|" + column + b"|null|192.0.2.1\n"
    assert parse_line(line).referrer == (text or None)
    keys = {"VisitedAt": TIME.isoformat(), "IpAddress": "192.0.2.1", "Referer": text}
    for escaped in (True, False):  # as our pixel writes it, and as UTF-8
        encoded = json.dumps(keys, ensure_ascii=escaped).encode().replace(b"\\u007f", b"\x7f") + b"\n"
        assert formatted(PLAIN + encoded + PLAIN) == [*formatted(PLAIN), line.decode(), *formatted(PLAIN)]


def test_a_time_without_fraction_has_six_digits_all_the_same() -> None:
    line = format_line(Visit(TIME.replace(microsecond=0), None, None, "::1"))
    assert line == b"2026-11-23T07:09:24.000000+00:00|null|null|::1\n"


@pytest.mark.parametrize(
    ("line", "referrer", "user_agent"),
    [
        (b"2026-11-23T07:09:24.9327069+00:00|https://localhost:7058/|null|192.0.2.1", "https://localhost:7058/", None),
        (b"2026-11-23T07:09:24.9327069+00:00|||192.0.2.1\r\n", None, None),
        (b"2026-11-23T07:09:24.9327069+00:00|C:\\x|caf\xc3\xa9|192.0.2.1", "C:\\x", "café"),
        (b"2026-11-23T07:09:24.9327069+00:00|caf\xe9|\\x7c|192.0.2.1", "café", "\\x7c"),
        (b"2026-11-23T09:09:24.932706+02:00|null|null|::ffff:192.0.2.1", None, None),
    ],
)
def test_lines_of_the_legacy_dotnet_service_are_read(line: bytes, referrer: str | None, user_agent: str | None) -> None:
    assert parse_line(line) == Visit(TIME, referrer, user_agent, "192.0.2.1")


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"\n",
        b"|||",
        b"2026-11-23T07:09:24.932706+00:00|null|192.0.2.1",
        b"2026-11-23T07:09:24.932706+00:00|null|null|null|192.0.2.1",
        b"2026-11-23T07:09:24.932706+00:00|null|null|",
        b"2026-11-23T07:09:24.932706+00:00|null|null|null",
        b"2026-11-23T07:09:24.932706+00:00|null|null|192.0.2.1 ",
        b"2026-11-23T07:09:24.932706|null|null|192.0.2.1",
        b"\xff|null|null|192.0.2.1",
        b"2026-11-23T07:09:24.932706+00:00|nu\nll|null|192.0.2.1",
        b"2026-11-23T07:09:24.932706+00:00|null|null|192.0.2.1\n\n",
    ],
)
def test_what_is_no_line_is_malformed(line: bytes) -> None:
    with pytest.raises(MalformedMessage):
        parse_line(line)
