r"""The line of the visit log: ``<time>|<referrer>|<user agent>|<ip>\n``, the last form a visit takes.

Promise: exactly three raw ``|`` and printable ASCII between them, whatever the visitor sent, and `parse_line` reads the
same visit back. In the UTF-8 bytes of a field, those outside 0x20-0x7E and ``|`` and ``\`` are written ``\xHH``, as
nginx does.
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


def format_line(visit: Visit) -> bytes:
    """The line of a visit, newline included."""
    time = visit.time.isoformat(timespec="microseconds")
    return f"{time}|{_escape(visit.referrer)}|{_escape(visit.user_agent)}|{visit.ip}\n".encode("ascii")


def format_lines(data: bytes) -> list[str]:
    """Of whole journal lines the log's lines, each what `format_line` makes of its visit. Raises MalformedMessage.

    Nearly all lines are written as they are. The others are found by a search through all of `data`, which costs less
    than a look at each field.
    """
    decoded = decode_journal_lines(data)
    for index in _odd_lines(data) if data.isascii() else range(len(decoded)):
        line = decoded[index]
        line.referrer, line.user_agent = _escape(cut_header(line.referrer)), _escape(cut_header(line.user_agent))
    return [
        f"{utc_time_text(v.visited_at)}|{v.referrer or 'null'}|{v.user_agent or 'null'}|{mandatory_ip(v.ip)}\n"
        for v in decoded
    ]


# ASCII JSON in which none of these occurs has nothing to escape in it: it takes a backslash to say a control character.
_TO_ESCAPE = (b"\\", b"|", b"\x7f", b'"null"')


def _odd_lines(data: bytes) -> set[int]:
    """The numbers, from 0, of the lines that may have something to escape or to cut."""
    found: set[int] = set()
    for wanted in _TO_ESCAPE:
        index = start = 0
        while (at := data.find(wanted, start)) >= 0:
            index += data.count(b"\n", start, at)
            found.add(index)
            index, start = index + 1, data.index(b"\n", at) + 1
    # A line with a header that is too long has no newline within so many bytes.
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

    Lines of the legacy .NET service are read too: seven digits, empty fields, text that is not escaped, CRLF.
    """
    columns = line.removesuffix(b"\n").removesuffix(b"\r").split(b"|")
    if len(columns) != 4 or b"\n" in line[:-1]:
        raise MalformedMessage("not a line of four columns")
    time, referrer, user_agent, ip = columns
    canonical = canonical_ip(ip.decode("iso-8859-1"))
    if canonical is None:
        raise MalformedMessage("the last column is no IP address")
    return Visit(utc_time(time.decode("iso-8859-1")), _unescape(referrer), _unescape(user_agent), canonical)


def _escape(text: str | None) -> str:
    if not text:
        return "null"
    if text.isascii() and text.isprintable() and "|" not in text and "\\" not in text:
        return text if text != "null" else "\\x6Eull"
    return text.encode().decode("iso-8859-1").translate(_ESCAPES)


def _unescape(column: bytes) -> str | None:
    if column in (b"", b"null"):
        return None
    # A backslash that begins no escape is from the legacy .NET service, which escaped nothing: it stays.
    raw = _ESCAPE.sub(lambda match: bytes((int(match[1], 16),)), column) if b"\\" in column else column
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw.decode("iso-8859-1")
