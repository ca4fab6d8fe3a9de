r"""The first step of a log's bytes on their way into a report: lines that are spelled in the one plain way.

Promise: every line that leaves is the line `core.log_line.format_line` writes for the visit that `parse_line` reads, so
the database behind may split at ``|``, cast the time, and take ``\xHH`` as it stands, without a doubt or an error.
A single match over thousands of lines recognises nearly all lines of our own log. The two functions read and write each
other line (one of the legacy .NET services, an unusual spelling of an address, a leap day), and a line that they refuse
is counted.
"""

import re

from tracker.core.client_ip import IPV4
from tracker.core.log_line import format_line, parse_line
from tracker.errors import MalformedMessage

# Each pattern accepts less than what is valid, never more.
#
# Time is linear, because after each repetition the next character alone decides how the match goes on: a match that
# fails later fails again at once wherever it is taken up. Memory is that of the longest line, because an atomic group
# forgets the repetitions within a line once the line has matched.
#
# Possessive quantifiers stand behind single characters only. Around a group they are wrong in several releases: Python
# before 3.11.5 lets half of the group through (gh-106052), and up to 3.13.0 captures are wrong (gh-101955). Atomic
# groups are right in all. tests/test_repository.py checks the patterns of all modules.
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
# Without escapes, which is the usual case and the fastest; with them; the text that is not the missing field `null`.
_TEXT = rf"(?:{_UNESCAPED}++(?!\\)|{_UNESCAPED}*+(?:{_ESCAPED}{_UNESCAPED}*+)+|\\x6Eull)"
# Eight groups, or up to four before the `::` and up to two behind it, none of them zero.
_GROUP = r"[1-9a-f][0-9a-f]{0,3}+"
_IPV6 = rf"(?:{_GROUP}:){{7}}{_GROUP}|(?:{_GROUP}:){{1,4}}:(?:{_GROUP}(?::{_GROUP})?)?"
_LINES = re.compile(rf"(?:(?>{_TIME}\|{_TEXT}\|{_TEXT}\|(?:{IPV4}|{_IPV6})\n))*".encode("ascii"))


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
