r"""The first step of a log's bytes on their way into a report: lines that are spelled in the one plain way.

Promise: every line that leaves is the line `core.log_line.format_line` writes for the visit that `parse_line` reads, so
the database behind may split at ``|``, cast the time, and take ``\xHH`` as it stands, without a doubt or an error.
Nearly all lines of our own log pass by a single match over thousands of them; others (the seed's, unusual spellings of
an address, a leap day) are read and written by the two functions themselves, and what they refuse is counted.
"""

import re

from tracker.core.log_line import format_line, parse_line
from tracker.errors import MalformedMessage

# Every pattern says a little less than what is valid, never more, and is possessive: linear, whatever the line.
_TIME = (
    r"(?!0000)[0-9]{4}-"
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
_TEXT = rf"(?:[ -\[\]-{{}}~]*+(?:{_ESCAPED}[ -\[\]-{{}}~]*+)*+(?<!\|)|\\x6Eull)"
_OCTET = r"(?:1[0-9]{0,2}+|2(?:[0-4][0-9]?+|5[0-5]?+|[6-9])?+|[3-9][0-9]?+|0)"
# Eight groups, or up to four before the `::` and up to two behind it, none of them zero.
_GROUP = r"[1-9a-f][0-9a-f]{0,3}+"
_IPV6 = (
    rf"{_GROUP}:(?:{_GROUP}:(?:{_GROUP}:(?:{_GROUP}:)?+)?+)?+"
    rf"(?::(?:{_GROUP}(?::{_GROUP})?+)?+|(?:{_GROUP}:){{3}}{_GROUP})"
)
_LINES = re.compile(
    rf"(?:{_TIME}\|{_TEXT}\|{_TEXT}\|(?:{_OCTET}\.{_OCTET}\.{_OCTET}\.{_OCTET}|{_IPV6})\n)*+".encode("ascii")
)


def tidy(block: bytes) -> tuple[bytes, int]:
    """The plain lines of a block of whole lines, in their order, and how many lines were malformed."""
    kept = []
    malformed = start = 0
    while start < len(block):
        plain = _LINES.match(block, start)
        assert plain is not None  # it matches nothing at all, too
        end = plain.end()
        if end == start:
            end = block.index(b"\n", start) + 1
            try:
                kept.append(format_line(parse_line(block[start:end])))
            except MalformedMessage:
                malformed += 1
        else:
            kept.append(block[start:end])
        start = end
    return b"".join(kept), malformed
