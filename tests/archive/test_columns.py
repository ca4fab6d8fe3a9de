"""Blocks of lines as columns: nothing but plain lines of one day is taken, and each visit is the one of its line."""

from datetime import UTC

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from msgspec.structs import replace

from tests.core.strategies import log_lines, visits
from tracker.analysis.log_files import LONGEST_LINE
from tracker.analysis.plain import PLAIN_LINES
from tracker.archive.columns import columns_of, plain_columns, unescaped
from tracker.core.log_line import format_line, parse_line
from tracker.core.visit import Visit

TIME = b"2026-11-24T12:00:00.000000+00:00"


def read(table: object) -> list[Visit]:
    rows = unescaped(table).to_pylist()
    return [Visit(row["time"].replace(tzinfo=UTC), row["page"], row["user_agent"], row["ip"]) for row in rows]


def taken(lines: bytes) -> list[Visit] | None:
    found = plain_columns(lines, 0, len(lines))
    if found is None:
        return None
    day, table = found
    assert {line[:10].decode() for line in lines.splitlines()} == {day}
    return read(table)


def is_plain(lines: bytes) -> bool:
    found = PLAIN_LINES.match(lines)
    return found is not None and found.end() == len(lines)


@given(st.lists(visits, min_size=1))
def test_plain_visits_of_one_day_are_taken_as_a_whole(made: list[Visit]) -> None:
    made = [replace(visit, time=visit.time.replace(2024, 2, 28)) for visit in made]
    lines = b"".join(map(format_line, made))
    assert read(columns_of(lines)) == made
    assert taken(lines) == (made if is_plain(lines) else None)


@given(st.lists(log_lines, min_size=1))
@example([b"2026-11-24T12:00:00.000000+00:0|a|b|192.0.2.1\n", b"02026-11-24T12:00:00.000000+00:00|a|b|192.0.2.1\n"])
@example([b"0000-01-01T12:00:00.000000+00:00|a|b|192.0.2.1\n"])
@example([b"0999-01-01T12:00:00.000000+00:00|a|b|192.0.2.1\n"])
def test_what_is_taken_is_plain(lines: list[bytes]) -> None:
    found = taken(b"".join(lines))
    if found is not None:
        assert is_plain(b"".join(lines))
        assert found == [parse_line(line) for line in lines]


@pytest.mark.parametrize(
    "odd",
    [
        b"\n", b"\r\n", b"|||\n", b"a|b|c|192.0.2.1\n", TIME + b"|a|b|192.0.2.1|\n", TIME + b"|a|192.0.2.1\n",
        TIME + b"||b|192.0.2.1\n", TIME + b"|a||192.0.2.1\n", TIME + b"|a|b|\n", TIME + b"|a|b|null\n",
        b"null|a|b|192.0.2.1\n", TIME + b"|a|b|192.0.2.1\r\n", TIME + b"|a\rb|b|192.0.2.1\n",
        TIME + b"|a\tb|b|192.0.2.1\n", TIME + b"|a|b\x7f|192.0.2.1\n", TIME + b"|a|b\x00|192.0.2.1\n",
        TIME + b"|caf\xc3\xa9|b|192.0.2.1\n", TIME + b"|caf\xe9|b|192.0.2.1\n", TIME + b"|a\\b|b|192.0.2.1\n",
        TIME + b"|a|\\x41|192.0.2.1\n", TIME + b"|a|\\xc3\\xa9|192.0.2.1\n", TIME + b"|a|\\xC3|192.0.2.1\n",
        TIME + b"|a|\\x6Eul|192.0.2.1\n", TIME + b'|a|b|"192.0.2.1"\n', TIME + b"|a|b|192.0.2.01\n",
        TIME + b"|a|b|2001:DB8::1\n", TIME + b"|a|b|::ffff:192.0.2.1\n", TIME + b"|a|b| 192.0.2.1\n",
        TIME.replace(b"T", b" ") + b"|a|b|192.0.2.1\n", TIME.replace(b"+00:00", b"Z") + b"|a|b|192.0.2.1\n",
        TIME.replace(b"+00", b"+02") + b"|a|b|192.0.2.1\n", TIME.replace(b"+00", b"-00") + b"|a|b|192.0.2.1\n",
        TIME.replace(b"T12", b"T24") + b"|a|b|192.0.2.1\n", TIME.replace(b":00.", b":60.") + b"|a|b|192.0.2.1\n",
        TIME.replace(b"11-24", b"13-24") + b"|a|b|192.0.2.1\n", TIME.replace(b"-24", b"-00") + b"|a|b|192.0.2.1\n",
        TIME.replace(b"11-24", b"02-29") + b"|a|b|192.0.2.1\n", TIME[:-2] + b"02|a|b|192.0.2.1\n",
        TIME.replace(b"0000", b"00007") + b"|a|b|192.0.2.1\n", b" " + TIME + b"|a|b|192.0.2.1\n",
        b"\xef\xbb\xbf" + TIME + b"|a|b|192.0.2.1\n", TIME + b"|" + b"a" * LONGEST_LINE + b"|b|192.0.2.1\n",
    ],
)  # fmt: skip
@pytest.mark.parametrize("alone", [True, False])
def test_one_odd_line_leaves_the_block_to_be_read_line_by_line(odd: bytes, alone: bool) -> None:
    plain = TIME + b"|a|b|192.0.2.1\n"
    assert taken(odd if alone else plain + odd + plain) is None


def test_a_block_with_two_days_is_left() -> None:
    lines = [TIME.replace(b"-24", day) + b"|a|b|192.0.2.1\n" for day in (b"-24", b"-25")]
    assert taken(lines[1]) is not None
    assert taken(b"".join(lines)) is None


def test_the_text_null_is_no_missing_field() -> None:
    assert taken(TIME + b"|\\x6Eull|null|192.0.2.1\n") == [parse_line(TIME + b"|\\x6Eull|null|192.0.2.1\n")]
