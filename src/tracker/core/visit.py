"""A visit, and the one line of JSON it is from the answer of the pixel to the append of the storage service.

The line is what the journal holds and, unchanged, what the message carries. Promise: whatever bytes a visitor put into
a header, the line is pure ASCII without a raw control character, so SQS takes it, and it is read back to the same text.
"""

import json
import re
from datetime import UTC, datetime
from functools import lru_cache
from typing import Annotated

import msgspec

from tracker.core.client_ip import canonical_ip, is_ipv4
from tracker.errors import MalformedMessage

MAX_HEADER_CHARS = 2048
"""Of the referrer and of the user agent, this many characters are kept."""

MAX_MESSAGE_LINES = 32_768
"""A message with more lines is malformed. A span of the pixel has at most a third of that: 1 MiB, 97 bytes a line.

It bounds the time and the memory that storage spends on one message: the slowest lines take 35 microseconds each.
"""

MAX_TIME_CHARS = 64
"""A longer text is no time; ISO 8601 with microseconds and an offset has 32, the legacy .NET pixel writes 33."""

CANARY_AGENT = "tracker-doctor/"
"""How the user agent of a visit begins that `tracker doctor` made; no person was there."""


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
    """The keys of the line, which are those of the seed's .NET services, in their order; read, but not yet checked."""

    referrer: str | None = msgspec.field(name="Referer", default=None)
    user_agent: str | None = msgspec.field(name="UserAgent", default=None)
    ip: str = msgspec.field(name="IpAddress", default="")
    visited_at: str = msgspec.field(name="VisitedAt", default="")


_encode = msgspec.json.Encoder().encode
_decoder = msgspec.json.Decoder(JournalLine)

# What the decoder raises on what it cannot read: UnicodeError is a ValueError; unknown keys may be nested too deeply.
DECODING_FAILURES = (msgspec.MsgspecError, ValueError, RecursionError)


def header_text(value: str) -> str:
    """The text of a header as aiohttp hands it over (UTF-8 with surrogateescape).

    Bytes that are no UTF-8 are read as ISO-8859-1, all of them, as the author of such a header meant them.
    """
    if value.isascii():
        return value
    try:
        value.encode()
    except UnicodeEncodeError:
        try:
            return value.encode("utf-8", "surrogateescape").decode("iso-8859-1")
        except UnicodeEncodeError:  # a surrogate that stands for no byte; no parser makes it
            return value.encode("utf-8", "replace").decode()
    return value


def encode_line(visited_at: str, referrer: str | None, user_agent: str | None, ip: str) -> bytes:
    """The journal's line of a visit, newline included. `visited_at` is from `visited_at_text`."""
    try:
        line = _encode(JournalLine(referrer or None, user_agent or None, ip, visited_at))
        if line.isascii():
            return line + b"\n"
    except UnicodeEncodeError:
        pass  # a lone surrogate, made text below
    keys = {
        "Referer": header_text(referrer) if referrer else None,
        "UserAgent": header_text(user_agent) if user_agent else None,
        "IpAddress": ip,
        "VisitedAt": visited_at,
    }
    return json.dumps(keys, separators=(",", ":")).encode("ascii") + b"\n"


def decode_line(line: bytes | str) -> Visit:
    """The visit of one line, with or without its newline, or of a body of the seed's pixel. Raises MalformedMessage."""
    try:
        decoded = _decoder.decode(line)
    except DECODING_FAILURES as error:
        raise MalformedMessage(f"not a visit: {error}") from error
    return visit_of(decoded)


def split_lines(data: bytes) -> list[bytes]:
    """The whole lines of `data`, newlines kept; bytes.splitlines would also split at a carriage return."""
    return [line + b"\n" for line in data.split(b"\n")[:-1]]


def decode_journal_lines(data: bytes) -> list[JournalLine]:
    """What whole lines hold, one JSON object each, not yet checked and not yet cut.

    Raises MalformedMessage, also for a blank line, for an object that spans two lines, and for more than
    `MAX_MESSAGE_LINES`.
    """
    *lines, rest = data.split(b"\n", MAX_MESSAGE_LINES)
    if rest:
        more = b"\n" in rest
        raise MalformedMessage(f"more than {MAX_MESSAGE_LINES} lines" if more else "the last line is cut off")
    decode = _decoder.decode
    try:
        # One by one: to msgspec's decode_lines a newline is any white space, to the ledger it is a place to cut.
        return [decode(line) for line in lines]
    except DECODING_FAILURES as error:
        raise MalformedMessage(f"not lines of visits: {error}") from error


class _CheckedLine(msgspec.Struct, gc=False):
    # The keys of JournalLine. msgspec reads the time in C, and takes what RFC 3339 allows, as `utc_time` does.
    ip: str = msgspec.field(name="IpAddress")
    visited_at: Annotated[datetime, msgspec.Meta(tz=True)] = msgspec.field(name="VisitedAt")
    referrer: str | None = msgspec.field(name="Referer", default=None)
    user_agent: str | None = msgspec.field(name="UserAgent", default=None)


_check_lines = msgspec.json.Decoder(_CheckedLine).decode_lines


def addresses_of(data: bytes) -> set[str]:
    """The addresses in whole journal lines, unchecked. All else is checked as `decode_line` does, but much faster.

    Raises MalformedMessage for what is not ASCII or not one visit a line. May raise it for lines that `decode_line`
    takes, if they are not written as `encode_line` writes them.
    """
    if not data.isascii() or not data.endswith(b"\n"):
        raise MalformedMessage("not lines of ASCII")
    try:
        checked = _check_lines(data)
    except DECODING_FAILURES as error:
        raise MalformedMessage(f"not lines of visits: {error}") from error
    # To msgspec a newline is any white space. A newline within a visit, a blank line, or two visits in a line change
    # the number of visits. (Two of these that cancel out go unnoticed here, not by storage.)
    if len(checked) != data.count(b"\n"):
        raise MalformedMessage("not one visit a line")
    return {line.ip for line in checked}


def visit_of(line: JournalLine) -> Visit:
    """The visit a line holds, with both headers cut as the pixel cuts them. Raises MalformedMessage."""
    time, ip = utc_time(line.visited_at), mandatory_ip(line.ip)
    return Visit(time, cut_header(line.referrer), cut_header(line.user_agent), ip)


def cut_header(text: str | None) -> str | None:
    """What is recorded of a header: its first `MAX_HEADER_CHARS` characters, None for an empty one.

    The pixel cuts before it records. Storage cuts again, because anybody who may publish to the topic can send more.
    """
    return text[:MAX_HEADER_CHARS] if text else None


def mandatory_ip(text: str) -> str:
    """`canonical_ip`, but raises MalformedMessage."""
    if is_ipv4(text):  # of which there are too many for a cache
        return text
    ip = canonical_ip(text)
    if ip is None:
        raise MalformedMessage("IpAddress is no IP address")
    return ip


def utc_time(text: str) -> datetime:
    """The UTC time of a text in the form of RFC 3339, which allows `t` or a space for `T`, and `z` for `Z`.

    An offset without its colon is taken, too, because `addresses_of` takes it: what the pixel publishes, storage must
    not refuse. Digits after the sixth of the fraction are cut. Raises MalformedMessage, also for the other forms of
    ISO 8601 that `datetime.fromisoformat` takes: each release of Python takes different ones (3.14 the hour 24), and a
    message must become the same line on all of them.
    """
    if len(text) <= MAX_TIME_CHARS:
        separator = "T" if text[10:11] in ("t", " ") else text[10:11]
        text = f"{text[:10]}{separator}{text[11:].replace('z', 'Z')}"
    if len(text) > MAX_TIME_CHARS or not (_is_second(text[:19]) and _is_fraction_and_offset(text, 19)):
        raise MalformedMessage("not a time with seconds and an offset from UTC, as 2026-11-23T07:09:24.932706+00:00 is")
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError) as error:  # OverflowError: year 1 or 9999, moved over the edge
        raise MalformedMessage("a time before the year 1, after 9999, or 24 hours and more off UTC") from error


def utc_time_text(text: str) -> str:
    """`utc_time` as text of always six digits; what is that already, as all our own times are, is not made anew."""
    if len(text) == 32 and _is_our_fraction(text, 19) and _is_second(text[:19]):
        return text
    return utc_time(text).isoformat(timespec="microseconds")


_is_our_fraction = re.compile(r"\.[0-9]{6}\+00:00").fullmatch
_is_fraction_and_offset = re.compile(r"(?:\.[0-9]+)?(?:Z|[+-][0-9]{2}:?[0-9]{2})").fullmatch


@lru_cache(maxsize=256)
def _is_second(text: str) -> bool:
    """Whether it is a date and time in the one form that `isoformat` gives it; visits of one second share it."""
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
