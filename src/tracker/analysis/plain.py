r"""The first step of a report: it brings every line of the logs into one form, the form in which storage writes it.

Each line that is returned is the line that `core.log_line.format_line` writes for the visit that `parse_line` reads. So
the database can split every line at ``|``, cast its time and read its ``\xHH`` without an error.

1. One match of a regular expression accepts thousands of lines that have this form already, as nearly all our lines do.
2. The next line (of the legacy .NET services, an unusual form of an address, a leap day) is read by `parse_line` and
   written by `format_line`. If `parse_line` refuses it, it is counted as malformed and left out.
3. The regular expression goes on after that line.

For a report, `shortened` then replaces the ends of long texts, so that memory stays small whatever a log holds.
"""

import re
from collections.abc import Iterator
from hashlib import sha256

from tracker.core.ip_address import IPV4
from tracker.core.log_line import format_line, parse_line
from tracker.errors import MalformedMessage

# Each pattern accepts less than what is valid, never more.
#
# A match takes linear time, because after each repetition the next character alone decides how the match goes on. So
# when a match fails, every other way to repeat that the engine tries (backtracking) fails at its first character. A
# match takes memory for the longest line only, because the engine drops the backtracking positions of an atomic group
# when the group, here a line, has matched.
#
# Possessive quantifiers stand behind single characters only. Behind a group they are wrong in several releases: Python
# before 3.11.5 accepts half of the group (gh-106052), and up to 3.13.0 captures are wrong (gh-101955). Atomic groups
# are right in all releases. tests/test_repository.py checks the patterns of all modules.
_TIME = (
    r"[1-9][0-9]{3}-"
    r"(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)|02-(?:0[1-9]|1[0-9]|2[0-8]))"
    r"T(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]\.[0-9]{6}\+00:00"
)
# The well-formed byte sequences of UTF-8 (Unicode, table 3-7), each byte as \xHH.
_TAIL = r"\\x[89AB][0-9A-F]"
_ESCAPED = (
    r"\\x(?:[01][0-9A-F]|5C|7C|7F"
    rf"|(?:C[2-9A-F]|D[0-9A-F]){_TAIL}"
    rf"|(?:E0\\x[AB][0-9A-F]|E[1-9A-CEF]{_TAIL}|ED\\x[89][0-9A-F]){_TAIL}"
    rf"|(?:F0\\x[9AB][0-9A-F]|F[1-3]{_TAIL}|F4\\x8[0-9A-F]){_TAIL}{_TAIL})"
)
_UNESCAPED = r"[ -\[\]-{}~]"
# Three cases: no escape, which is usual and fastest; with escapes; the text "null", which is no missing field.
_TEXT = rf"(?:{_UNESCAPED}++(?!\\)|{_UNESCAPED}*+(?:{_ESCAPED}{_UNESCAPED}*+)+|\\x6Eull)"
# Eight groups, or up to four before the `::` and up to two behind it, none of them zero.
_GROUP = r"[1-9a-f][0-9a-f]{0,3}+"
_IPV6 = rf"{':'.join([_GROUP] * 8)}|(?:{_GROUP}:){{1,4}}:(?:{_GROUP}(?::{_GROUP})?)?"
_ADDRESS = rf"(?:{IPV4}|{_IPV6})"
PLAIN_LINES = re.compile(rf"(?:(?>{_TIME}\|{_TEXT}\|{_TEXT}\|{_ADDRESS}\n))*".encode("ascii"))
# One column of many plain lines, with a newline between two texts.
PLAIN_TEXTS = re.compile(rf"(?>{_TEXT})(?:\n(?>{_TEXT}))*".encode("ascii"))
PLAIN_ADDRESSES = re.compile(rf"(?>{_ADDRESS})(?:\n(?>{_ADDRESS}))*".encode("ascii"))

_EMPTY_LINES = re.compile(rb"\n+")
LONG_TEXT = 1000  # bytes
SHORTENED = r"\xE2\x80\xA6"  # an ellipsis between the beginning of a long text and its checksum
CHECKSUM_CHARACTERS = 32  # of the hexadecimal digits of SHA-256, which DuckDB has too
WHOLE_CHARACTERS = rf"{_UNESCAPED}|{_ESCAPED}"
_BEGINNING = re.compile(rf"(?>{WHOLE_CHARACTERS})*".encode("ascii"))


def shortened(block: bytes) -> bytes:
    """Plain lines in which a page or a user agent of more than 1,000 bytes is its beginning and its checksum.

    Different texts stay different. The database holds thousands of rows in memory, so a row must not be long. The query
    of a page is shortened by itself, so pages without their queries can still be compared.
    """
    kept = []
    start = copied = 0
    while start < len(block):
        # The last newline that is near: many short lines take one step, and only a long line has none.
        end = block.rfind(b"\n", start, start + LONG_TEXT + 1) + 1
        if not end:
            end = block.index(b"\n", start) + 1
            kept += [block[copied:start], _shortened(block[start:end])]
            copied = end
        start = end
    return b"".join([*kept, block[copied:]])


def _shortened(line: bytes) -> bytes:
    time, page, agent, ip = line.split(b"|")
    page, query, rest = page.partition(b"?")
    return b"|".join([time, _short_text(page) + query + _short_text(rest), _short_text(agent), ip])


def _short_text(text: bytes) -> bytes:
    if len(text) <= LONG_TEXT:
        return text
    kept = _BEGINNING.match(text[:LONG_TEXT])
    assert kept is not None  # it also matches none
    return kept[0] + f"{SHORTENED}{sha256(text).hexdigest()[:CHECKSUM_CHARACTERS]}".encode()


def plain_lines(block: bytes) -> tuple[bytes, int]:
    """The lines of a block of whole lines in plain form, in their order, and the number of malformed lines."""
    kept = []
    malformed = 0
    for plain, refused in plain_pieces(block):
        kept.append(plain)
        malformed += refused.count(b"\n")
    return b"".join(kept), malformed


def plain_pieces(block: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The lines of a block of whole lines, in their order: some in plain form, then one malformed line or empty lines.

    Each half of a pair may be empty.
    """
    start = 0
    while start < len(block):
        plain = PLAIN_LINES.match(block, start)
        assert plain is not None  # it also matches zero lines
        end = plain.end()
        if block.startswith(b"\n", end):  # a file can hold millions of them, and they compress well
            empty = _EMPTY_LINES.match(block, end)
            assert empty is not None
            yield block[start:end], empty[0]
            end = empty.end()
        elif end == start:
            end = block.index(b"\n", start) + 1
            try:
                yield format_line(parse_line(block[start:end])), b""
            except MalformedMessage:
                yield b"", block[start:end]
        else:
            yield block[start:end], b""
        start = end
