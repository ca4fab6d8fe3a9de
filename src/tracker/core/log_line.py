r"""The line of the visit log: ``<time>|<referrer>|<user agent>|<ip>\n``.

A line has exactly three raw ``|`` and otherwise printable ASCII, whatever the visitor sent. In the UTF-8 bytes of a
field, each byte outside 0x20-0x7E and each ``|`` and ``\`` is written ``\xHH``, as nginx does. `parse_line` reads the
same visit back. No other module knows this escaping or the columns.
"""

import re

from tracker.core.ip_address import IPV4, canonical_ip
from tracker.core.visit import (
    MAX_HEADER_CHARS,
    MAX_MESSAGE_LINES,
    Visit,
    cut_header,
    decode_fields,
    mandatory_ip,
    parts,
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


def format_lines(data: bytes) -> tuple[bytes, int]:
    """The log lines of whole journal lines, and their number. Each is what `format_line` gives for its visit.

    Raises MalformedMessage for a line that is not one visit, for a blank line, for a last line without its newline, and
    for more than `MAX_MESSAGE_LINES`.
    """
    if data and not data.endswith(b"\n"):
        raise MalformedMessage("the last line is cut off")
    formatted: list[bytes] = []
    count = 0
    for part in parts(data):
        lines = [
            _format_other(other)
            if other
            else f"{time or utc_time_text(odd_time)}|{page or 'null'}|{agent or 'null'}|{ip or mandatory_ip(odd_ip)}\n"
            for page, agent, ip, odd_ip, time, odd_time, other in _find_lines(part.decode("iso-8859-1"))
        ]
        count += len(lines)
        if count > MAX_MESSAGE_LINES:
            raise MalformedMessage(f"more than {MAX_MESSAGE_LINES} lines")
        # Joined here, so that the next part's texts get the memory of these: it is in the caches of the CPU.
        formatted.append("".join(lines).encode("ascii"))
    return b"".join(formatted), count


# `format_lines` reads nearly all lines by this one expression, because decoding the JSON and then examining each field
# takes longer. It matches every line, in one of two ways:
# 1. A plain line has the keys, the order and the separators of `encode_line`, and no character of it has to be
#    unescaped, escaped or cut. The IP or the time of a plain line may have another form; they are two groups each.
# 2. The last group takes any other line as a whole. `decode_fields` decides what it is.
_PLAIN = r"[ !#-\[\]-{}~]"
_HEADER = rf'(?:"(?!null")({_PLAIN}{{1,{MAX_HEADER_CHARS}}}+)"|null)'
_DAY = (
    "(?!0000)[0-9]{4}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)"
    "|02-(?:0[1-9]|1[0-9]|2[0-8]))"  # not 29 February: `utc_time_text` knows the leap years
)
_TIME = rf"{_DAY}T(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]\.[0-9]{{6}}\+00:00"
_find_lines = re.compile(
    rf'{{"Referer":{_HEADER},"UserAgent":{_HEADER},"IpAddress":"(?:({IPV4})|({_PLAIN}{{1,64}}+))",'
    rf'"VisitedAt":"(?:({_TIME})|({_PLAIN}{{1,64}}+))"}}\n|([^\n]*+\n)'
).findall


def _format_other(line: str) -> str:
    """The log line of a journal line that is not plain. Raises MalformedMessage. `line` has one character a byte."""
    fields = decode_fields(line.encode("iso-8859-1"))
    referrer, user_agent = _column(cut_header(fields.referrer)), _column(cut_header(fields.user_agent))
    return f"{utc_time_text(fields.visited_at)}|{referrer}|{user_agent}|{mandatory_ip(fields.ip)}\n"


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
    return Visit(utc_time(time.decode("iso-8859-1")), unescape(referrer), unescape(user_agent), canonical)


def escape(text: str) -> str:
    """The text as it is written in a column. A lone surrogate (see `sys.argv`) stands for a byte that is not UTF-8."""
    return text.encode("utf-8", "surrogateescape").decode("iso-8859-1").translate(_ESCAPES)


def _column(text: str | None) -> str:
    if not text:
        return "null"
    if text.isascii() and text.isprintable() and "|" not in text and "\\" not in text:
        return text if text != "null" else "\\x6Eull"
    return escape(text)


def unescape(column: bytes) -> str | None:
    """The text that a column stands for; None for a missing one."""
    if column in (b"", b"null"):
        return None
    # A backslash that does not begin an escape is kept: the legacy .NET services wrote it, and they escape nothing.
    raw = _ESCAPE.sub(lambda match: bytes((int(match[1], 16),)), column) if b"\\" in column else column
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw.decode("iso-8859-1")
