"""A visit, and its journal line: one JSON object with a newline.

The worker appends this line to its journal, the message carries the same bytes, and storage reads them. The line is
ASCII without raw control characters, whatever bytes a visitor puts into a header. So SQS accepts it, and reading it
returns the same text.
"""

import json
import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Annotated

import msgspec

from tracker.core.ip_address import canonical_ip, is_ipv4
from tracker.errors import MalformedMessage

MAX_HEADER_CHARS = 2048
"""The referrer and the user agent are each cut to this many characters."""

MAX_JOURNAL_LINE_BYTES = 65_536
"""No journal line is longer: two headers of MAX_HEADER_CHARS, at most twelve bytes a character, and short texts."""

MAX_MESSAGE_LINES = 32_768
"""A message with more lines is malformed. A span has at most a third of that: 1 MiB with at least 97 bytes a line.

This bounds the time and the memory that storage needs for one message. The slowest lines take 35 microseconds each.
"""

_PART_BYTES = 1 << 16

MAX_TIME_CHARS = 64
"""A longer text is not a time. ISO 8601 with microseconds and an offset has 32 characters, a legacy .NET time 33."""

CANARY_AGENT = "tracker-doctor/"
"""The user agent of the test visits that `tracker doctor` makes begins with this. Reports leave these visits out."""


class Visit(msgspec.Struct, frozen=True, gc=False):
    """One answered ``GET /track``."""

    time: datetime
    """Aware, in UTC."""
    referrer: str | None
    """Valid text; None when missing, never empty."""
    user_agent: str | None
    """Valid text; None when missing, never empty."""
    ip: str
    """As `canonical_ip` writes it."""


class JournalLine(msgspec.Struct, gc=False):
    """The fields of a journal line, as they are to be encoded, or as they were decoded and are not checked yet.

    The keys and their order are those of the legacy .NET services.
    """

    referrer: str | None = msgspec.field(name="Referer", default=None)
    user_agent: str | None = msgspec.field(name="UserAgent", default=None)
    ip: str = msgspec.field(name="IpAddress", default="")
    visited_at: str = msgspec.field(name="VisitedAt", default="")


_encode_lines = msgspec.json.Encoder().encode_lines
_decoder = msgspec.json.Decoder(JournalLine)

# What the decoder raises: UnicodeError is a ValueError; RecursionError when unknown keys are nested too deeply.
DECODING_FAILURES = (msgspec.MsgspecError, ValueError, RecursionError)


def header_text(value: str) -> str:
    """The text of a header value that aiohttp decoded as UTF-8 with surrogateescape.

    If the value's bytes are not valid UTF-8, all of them are read as ISO-8859-1.
    """
    if value.isascii():
        return value
    try:
        value.encode()
    except UnicodeEncodeError:
        try:
            return value.encode("utf-8", "surrogateescape").decode("iso-8859-1")
        except UnicodeEncodeError:  # a surrogate that does not stand for a byte; no parser returns one
            return value.encode("utf-8", "replace").decode()
    return value


def encode_lines(lines: Sequence[JournalLine]) -> bytes:
    """The bytes of journal lines, each with its newline."""
    try:
        encoded = _encode_lines(lines)
        if encoded.isascii():
            return encoded
    except UnicodeEncodeError:
        pass  # a lone surrogate; header_text below replaces it
    return b"".join(encode_lines([line]) for line in lines) if len(lines) > 1 else _encode_odd(lines[0])


def _encode_odd(line: JournalLine) -> bytes:
    keys = {
        "Referer": header_text(line.referrer) if line.referrer else None,
        "UserAgent": header_text(line.user_agent) if line.user_agent else None,
        "IpAddress": line.ip,
        "VisitedAt": line.visited_at,
    }
    return json.dumps(keys, separators=(",", ":")).encode("ascii") + b"\n"


def encode_line(visited_at: str, referrer: str | None, user_agent: str | None, ip: str) -> bytes:
    """The journal line of a visit, with its newline. `visited_at` comes from `visited_at_text`."""
    return encode_lines([JournalLine(referrer or None, user_agent or None, ip, visited_at)])


def decode_line(line: bytes | str) -> Visit:
    """The visit of one line, with or without its newline, or of a legacy .NET message. Raises MalformedMessage.

    Both headers are cut as the pixel cuts them.
    """
    decoded = decode_fields(line)
    time, ip = utc_time(decoded.visited_at), mandatory_ip(decoded.ip)
    return Visit(time, cut_header(decoded.referrer), cut_header(decoded.user_agent), ip)


def decode_fields(line: bytes | str) -> JournalLine:
    """The fields of one line, neither checked nor cut. Raises MalformedMessage for a line that has another form."""
    try:
        return _decoder.decode(line)
    except DECODING_FAILURES as error:
        raise MalformedMessage(f"not a visit: {error}") from error


def split_lines(data: bytes) -> list[bytes]:
    """The whole lines of `data`, with their newlines. bytes.splitlines would also split at a carriage return."""
    return [line + b"\n" for line in data.split(b"\n")[:-1]]


def parts(lines: bytes) -> Iterator[bytes]:
    """Whole lines, about 64 KiB at a time: what is made of a whole span would need several times its size of memory."""
    start = 0
    while start < len(lines):
        end = lines.rfind(b"\n", start, start + _PART_BYTES) + 1 or lines.index(b"\n", start) + 1
        yield lines[start:end]
        start = end


class _CheckedLine(msgspec.Struct, gc=False):
    # The keys of JournalLine. msgspec checks the time in C, and accepts the same forms as `utc_time`.
    ip: str = msgspec.field(name="IpAddress")
    visited_at: Annotated[datetime, msgspec.Meta(tz=True)] = msgspec.field(name="VisitedAt")
    referrer: str | None = msgspec.field(name="Referer", default=None)
    user_agent: str | None = msgspec.field(name="UserAgent", default=None)


_check_lines = msgspec.json.Decoder(_CheckedLine).decode_lines


def addresses_of(data: bytes) -> set[str]:
    """The addresses in whole journal lines. Everything but the addresses is checked, much faster than by `decode_line`.

    Raises MalformedMessage for bytes that are not ASCII, and for lines that are not one visit each. It may also raise
    it for lines that `decode_line` accepts, if `encode_line` would write them differently.
    """
    if not data.isascii() or not data.endswith(b"\n"):
        raise MalformedMessage("not lines of ASCII")
    try:
        checked = _check_lines(data)
    except DECODING_FAILURES as error:
        raise MalformedMessage(f"not lines of visits: {error}") from error
    # msgspec accepts a newline wherever JSON allows white space. A newline within a visit, a blank line, or two visits
    # in one line make the two numbers differ. (With two of these the
    # numbers may be equal again; storage still notices them.)
    if len(checked) != data.count(b"\n"):
        raise MalformedMessage("not one visit a line")
    return {line.ip for line in checked}


def cut_header(text: str | None) -> str | None:
    """The part of a header that is recorded: its first `MAX_HEADER_CHARS` characters, None for an empty header.

    The pixel cuts before it records. Storage cuts again, because anybody who may publish to the topic can send more.
    """
    return text[:MAX_HEADER_CHARS] if text else None


def mandatory_ip(text: str) -> str:
    """`canonical_ip`, but raises MalformedMessage."""
    if is_ipv4(text):  # checked first: there are more IPv4 addresses than the cache holds
        return text
    ip = canonical_ip(text)
    if ip is None:
        raise MalformedMessage("IpAddress is not an IP address")
    return ip


def utc_time(text: str) -> datetime:
    """The UTC time of a text in the form of RFC 3339, which allows `t` or a space for `T`, and `z` for `Z`.

    An offset without its colon is accepted too, because `addresses_of` accepts it: storage must not refuse what the
    pixel publishes. Digits after the sixth of the fraction are cut.

    Raises MalformedMessage, also for other forms of ISO 8601 that `datetime.fromisoformat` accepts. The releases of
    Python differ in what they accept (3.14 accepts the hour 24). A message must become the same line on all of them.
    """
    if len(text) <= MAX_TIME_CHARS:
        separator = "T" if text[10:11] in ("t", " ") else text[10:11]
        text = f"{text[:10]}{separator}{text[11:].replace('z', 'Z')}"
    if len(text) > MAX_TIME_CHARS or not (_is_second(text[:19]) and _is_fraction_and_offset(text, 19)):
        raise MalformedMessage("not a time with seconds and an offset from UTC, as 2026-11-23T07:09:24.932706+00:00 is")
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError) as error:  # OverflowError: the offset moves it before year 1 or after 9999
        raise MalformedMessage("the year is not in 1 to 9999, or the offset from UTC is 24 hours or more") from error


def utc_time_text(text: str) -> str:
    """`utc_time` as text with six digits. A text that has this form already, as ours have, is returned unchanged."""
    if len(text) == 32 and _is_our_fraction(text, 19) and _is_second(text[:19]):
        return text
    return utc_time(text).isoformat(timespec="microseconds")


_is_our_fraction = re.compile(r"\.[0-9]{6}\+00:00").fullmatch
_is_fraction_and_offset = re.compile(r"(?:\.[0-9]+)?(?:Z|[+-][0-9]{2}:?[0-9]{2})").fullmatch


@lru_cache(maxsize=256)
def _is_second(text: str) -> bool:
    """Whether `text` is a date and time exactly as `isoformat` writes it. Many visits share one second."""
    try:
        return datetime.fromisoformat(text).isoformat() == text
    except ValueError:
        return False


def visited_at_text(epoch_us: int) -> str:
    """Microseconds since 1970 as ``2026-11-23T07:09:24.932706+00:00``."""
    second, microsecond = divmod(epoch_us, 1_000_000)
    return f"{_second_text(second)}.{microsecond:06d}+00:00"


@lru_cache(maxsize=2)
def _second_text(second: int) -> str:
    return datetime.fromtimestamp(second, UTC).isoformat()[:19]
