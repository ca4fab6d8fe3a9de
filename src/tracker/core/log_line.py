r"""The line of the visit log: ``<time>|<referrer>|<user agent>|<ip>\n``.

A line has exactly three raw ``|`` and otherwise printable ASCII, whatever the visitor sent. In the UTF-8 bytes of a
field, each byte outside 0x20-0x7E and each ``|`` and ``\`` is written ``\xHH``, as nginx does. `parse_line` reads the
same visit back. No other module knows this escaping or the columns.
"""

import re

from tracker.core.client_ip import canonical_ip
from tracker.core.visit import (
    MAX_HEADER_CHARS,
    Visit,
    cut_header,
    decode_journal_lines,
    mandatory_ip,
    utc_time,
    utc_time_text,
)
from tracker.errors import MalformedMessage

_ESCAPES = {byte: f"\\x{byte:02X}" for byte in range(256) if not 0x20 <= byte <= 0x7E or byte in b"|\\"}
_ESCAPE = re.compile(rb"\\x([0-9A-F]{2})")

MAX_LOG_LINE_BYTES = 2 * MAX_HEADER_CHARS * 4 * len(r"\xHH") + 256
"""No line of the visit log is longer. Two headers have up to four bytes a character, each byte escaped; 256 bytes are
enough for the other columns."""


def format_line(visit: Visit) -> bytes:
    """The line of a visit, with its newline."""
    time = visit.time.isoformat(timespec="microseconds")
    return f"{time}|{_column(visit.referrer)}|{_column(visit.user_agent)}|{visit.ip}\n".encode("ascii")


def format_lines(data: bytes) -> list[str]:
    """The log lines of whole journal lines; each is what `format_line` gives for its visit. Raises MalformedMessage.

    Most fields need no escaping. A few searches through all of `data` find the lines that may need it. This is faster
    than examining each field.
    """
    decoded = decode_journal_lines(data)
    for index in _special_lines(data) if data.isascii() else range(len(decoded)):
        line = decoded[index]
        line.referrer, line.user_agent = _column(cut_header(line.referrer)), _column(cut_header(line.user_agent))
    return [
        f"{utc_time_text(v.visited_at)}|{v.referrer or 'null'}|{v.user_agent or 'null'}|{mandatory_ip(v.ip)}\n"
        for v in decoded
    ]


# A line of ASCII JSON without any of these needs no escaping: JSON writes control characters with a backslash.
_TO_ESCAPE = (b"\\", b"|", b"\x7f", b'"null"')


def _special_lines(data: bytes) -> set[int]:
    """The indexes of the lines in which a header may have to be escaped or cut."""
    found: set[int] = set()
    for special in _TO_ESCAPE:
        index = start = 0
        while (at := data.find(special, start)) >= 0:
            index += data.count(b"\n", start, at)
            found.add(index)
            index, start = index + 1, data.index(b"\n", at) + 1
    # A header that is too long makes a line longer than MAX_HEADER_CHARS: find stretches without a newline.
    start = counted = index = 0
    while start + MAX_HEADER_CHARS < len(data):
        if (last := data.rfind(b"\n", start, start + MAX_HEADER_CHARS + 1)) >= 0:
            start = last + 1
            continue
        index += data.count(b"\n", counted, start)
        found.add(index)
        counted, start = start, data.index(b"\n", start) + 1
    return found


def parse_line(line: bytes) -> Visit:
    """The visit of a line, with or without its newline. Raises MalformedMessage.

    Lines of the legacy .NET services are read too. They have seven digits after the decimal point, empty fields, text
    without escapes, and CRLF.
    """
    columns = line.removesuffix(b"\n").removesuffix(b"\r").split(b"|")
    if len(columns) != 4 or b"\n" in line[:-1]:
        raise MalformedMessage("not a line of four columns")
    time, referrer, user_agent, ip = columns
    canonical = canonical_ip(ip.decode("iso-8859-1"))
    if canonical is None:
        raise MalformedMessage("the last column is not an IP address")
    return Visit(utc_time(time.decode("iso-8859-1")), _unescape(referrer), _unescape(user_agent), canonical)


def escape(text: str) -> str:
    """The text as it is written in a column. A lone surrogate (see `sys.argv`) stands for a byte that is not UTF-8."""
    return text.encode("utf-8", "surrogateescape").decode("iso-8859-1").translate(_ESCAPES)


def _column(text: str | None) -> str:
    if not text:
        return "null"
    if text.isascii() and text.isprintable() and "|" not in text and "\\" not in text:
        return text if text != "null" else "\\x6Eull"
    return escape(text)


def _unescape(column: bytes) -> str | None:
    if column in (b"", b"null"):
        return None
    # A backslash that does not begin an escape is kept: the legacy .NET services wrote it, and they escape nothing.
    raw = _ESCAPE.sub(lambda match: bytes((int(match[1], 16),)), column) if b"\\" in column else column
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw.decode("iso-8859-1")
