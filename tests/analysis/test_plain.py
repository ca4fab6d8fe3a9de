"""Whatever is in a file, the lines that go on are the ones the log itself would have."""

import tracemalloc
from datetime import UTC, datetime

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.core.strategies import log_lines, visits
from tracker.analysis import plain
from tracker.analysis.log_files import LONGEST_LINE
from tracker.analysis.plain import LONG_TEXT, plain_lines, shortened
from tracker.core.log_line import format_line, parse_line
from tracker.core.visit import MAX_HEADER_CHARS, Visit
from tracker.errors import MalformedMessage

LINE = b"2026-11-23T07:09:24.932706+00:00|https://example.com/|Mozilla/5.0|192.0.2.1\n"


def by_hand(block: bytes) -> tuple[bytes, int]:
    """What `plain_lines` promises, line by line and slowly."""
    kept = []
    malformed = 0
    for line in block.splitlines(keepends=True) if b"\r" not in block else [x + b"\n" for x in block.split(b"\n")[:-1]]:
        try:
            kept.append(format_line(parse_line(line)))
        except MalformedMessage:
            malformed += 1
    return b"".join(kept), malformed


def is_plain(line: bytes) -> bool:
    found = plain.PLAIN_LINES.match(line)
    return found is not None and found.end() == len(line)


@given(st.lists(visits))
def test_lines_of_our_log_pass_as_they_are(made: list[Visit]) -> None:
    block = b"".join(map(format_line, made))
    assert plain_lines(block) == (block, 0)


@given(st.lists(log_lines))
def test_other_lines_are_spelled_as_our_log_spells_them_and_the_malformed_are_counted(lines: list[bytes]) -> None:
    block = b"".join(lines)
    expected = [by_hand(line) for line in lines]
    assert plain_lines(block) == (b"".join(kept for kept, _ in expected), sum(malformed for _, malformed in expected))


@given(st.text("0123456789abf:.", max_size=24))
@example("1:0:0:2:3:4:5:6")
@example("1:0:2:3:4:5:6:7")
@example("2001:db8:0:1::5")
@example("2001:db8:0::5")
@example("2001:db8::0:5")
@example("1::2:3:4:5:6:7")
@example("1:2:3:4:5:6::")
@example("1:2:3:4:5:6:7::")
@example("::ffff:c000:201")
@example("::1")
@example("10:20::30:0:0:40")
def test_an_address_passes_at_a_glance_only_in_its_canonical_spelling(ip: str) -> None:
    line = LINE.replace(b"192.0.2.1", ip.encode())
    if is_plain(line):
        assert format_line(parse_line(line)) == line


@given(st.from_regex(rb"(?:\\x[0-9A-F]{2}|[a|])*", fullmatch=True))
def test_escapes_pass_at_a_glance_only_as_our_log_writes_them(column: bytes) -> None:
    line = LINE.replace(b"Mozilla/5.0", column)
    if is_plain(line):
        assert format_line(parse_line(line)) == line


def test_the_usual_lines_do_pass_at_a_glance() -> None:
    for ip in (b"192.0.2.1", b"2001:db8::17", b"2a02:8108:1:2:3:4:5:6", b"2001:db8:1::"):
        assert is_plain(LINE.replace(b"192.0.2.1", ip)), ip
    for text in (
        b"null",
        b"\\x6Eull",
        b"M\\xC3\\xBCnchen",
        b"a\\x7Cb\\x5C",
        b"\\xF0\\x9F\\x98\\x80",
        b"\\xE2\\x80\\xAE",
    ):
        assert is_plain(LINE.replace(b"Mozilla/5.0", text)), text


@pytest.mark.parametrize(
    "piece", [b"a", b"\\x", b"\\xC3\\xBC", b"\\xE2\\x80\\xAE", b"a\\x7C", b"\\x5C", b"1:", b"1.", b"|"]
)
@pytest.mark.parametrize("column", [b"https://example.com/", b"Mozilla/5.0", b"192.0.2.1"])
def test_a_long_odd_line_costs_time_in_proportion(column: bytes, piece: bytes) -> None:
    long = LINE.replace(column, piece * (LONGEST_LINE // len(piece)))  # a quadratic match takes minutes
    expected, malformed = by_hand(long)
    assert plain_lines(LINE + long + LINE) == (LINE + expected + LINE, malformed)


def test_many_lines_of_many_escapes_cost_little_memory() -> None:
    line = LINE.replace(b"Mozilla/5.0", b"\\xC3\\xBC" * MAX_HEADER_CHARS)
    assert is_plain(line)
    block = line * (LONGEST_LINE // len(line))
    tracemalloc.start()
    try:
        assert plain_lines(block) == (block, 0)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 * LONGEST_LINE


@pytest.mark.parametrize(
    "time",
    [
        "0000-01-01T00:00:00.000000+00:00",
        "2026-02-29T00:00:00.000000+00:00",
        "2026-04-31T00:00:00.000000+00:00",
        "2026-01-32T00:00:00.000000+00:00",
        "2026-13-01T00:00:00.000000+00:00",
        "2026-00-01T00:00:00.000000+00:00",
        "2026-01-00T00:00:00.000000+00:00",
        "2026-01-01T24:00:00.000000+00:00",
        "2026-01-01T00:60:00.000000+00:00",
        "2026-01-01T00:00:60.000000+00:00",
        "2026-01-01T00:00:00.000000",
    ],
)
def test_a_time_that_was_never_is_malformed(time: str) -> None:
    assert plain_lines(LINE.replace(LINE[:32], time.encode())) == (b"", 1)


def test_long_texts_are_shortened_for_a_report_and_still_differ() -> None:
    time = datetime(2026, 11, 24, tzinfo=UTC)
    long = ["\U0001f600" * 2000, "\U0001f600" * 1999 + "x", "https://example.com/" + "a" * 2000, "|" * 2048]
    visits = [Visit(time, page, agent, "::1") for page in (*long, None, "null", "short") for agent in (*long, None)]
    made = shortened(b"".join(map(format_line, visits)))
    assert plain_lines(made) == (made, 0)
    lines = made.splitlines(keepends=True)
    assert len(set(lines)) == len(lines) == len(visits)
    assert max(map(len, lines)) < 3 * LONG_TEXT
    assert [line for line in lines if len(line) < 200] == [
        format_line(visit) for visit in visits if len(format_line(visit)) < 200
    ]
    queries = [format_line(Visit(time, "https://example.com/" + "a" * 1500 + f"?{n}", None, "::1")) for n in range(2)]
    pages = {parse_line(line).referrer for line in shortened(b"".join(queries)).splitlines(keepends=True)}
    assert len(pages) == 2
    assert len({(page or "").split("?")[0] for page in pages}) == 1
    assert shortened(LINE * 3) == LINE * 3
    longest = LINE.replace(b"|", b"|" + b"a" * (LONG_TEXT + 1 - len(LINE)), 1)
    assert shortened(longest * 3) == longest * 3
    longer = longest.replace(b"a", b"a" * (LONG_TEXT + 1), 1)
    assert shortened(LINE + longer + LINE * 9 + longer) == LINE + shortened(longer) + LINE * 9 + shortened(longer)
