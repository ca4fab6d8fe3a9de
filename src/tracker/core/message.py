"""The wire format: how a span of a journal becomes an SNS message, and how storage reads a delivery from SQS.

There are three kinds of messages: a span (`StoredSpan`), the end marker of a journal (`EndMarker`), and a single visit
of the legacy .NET pixel, which has none of our attributes (`SingleVisit`).

1. `pack` takes whole lines of a journal. It compresses them if that makes them shorter, and adds the attributes.
2. `unpack` returns exactly these bytes. First it opens an SNS envelope, if the subscription adds one. Then it checks
   the attributes, inflates the body, and compares its CRC-32 and its number of lines with the attributes.
3. For anything else `unpack` raises MalformedMessage. It needs at most a small multiple of `MAX_INFLATED_BYTES` of
   memory, whatever the queue holds.
"""

import base64
import re
from collections.abc import Mapping
from typing import Any

import msgspec
from isal import isal_zlib

from tracker.core.log_line import format_lines
from tracker.core.visit import DECODING_FAILURES, Visit, decode_line
from tracker.errors import MalformedMessage

MAX_SENT_BYTES = 250_000
"""The publisher sends no larger message. SNS accepts 262,144 bytes of body and attributes."""
STEP_BYTES = 65_536
"""SNS and SQS charge a message once for each 64 KiB of body and attributes that it begins."""
MAX_SPAN_BYTES = 1 << 20
"""The publisher makes no larger span. This is its size before it is compressed."""
MAX_INFLATED_BYTES = 8 << 20
"""Storage inflates no more bytes than this. A message with more is malformed."""
_PART_BYTES = 1 << 15

_IDENTITY = "identity"
_DEFLATED = "zlib+base64url"
# A message with any of these is ours. `Type` is not among them, because the legacy .NET pixel sends it too.
OUR_ATTRIBUTES = frozenset(("Journal", "Start", "Visits", "Encoding", "Crc32", "Closed"))

JOURNAL_ID = re.compile(r"[0-9a-f]{32}")
# For offsets, ends and counts. A worker that appends 30,000 visits of 276 bytes a second needs 3.8 years for 10^15
# bytes. The sum of two such numbers fits into SQLite's 63 bits, and a double holds each of them exactly.
MAX_DIGITS = 15
_NUMBER = re.compile(rf"[0-9]{{1,{MAX_DIGITS}}}")


class Message(msgspec.Struct, frozen=True):
    """One SNS message. All attributes are of the type String."""

    journal: str
    start: int
    end: int
    visits: int
    body: str
    attributes: dict[str, str]

    @property
    def size(self) -> int:
        """Bytes as SNS counts them: the body, and the name, type and value of each attribute. All of it is ASCII."""
        return len(self.body) + sum(len(name) + len("String") + len(value) for name, value in self.attributes.items())


class StoredSpan(msgspec.Struct, frozen=True):
    """A span as storage received it.

    `data` are the journal's bytes from the offset `start` on, and `crc32` is their CRC-32. `lines` are the lines of the
    visit log for its `visits` lines.
    """

    journal: str
    start: int
    data: bytes
    crc32: int
    lines: bytes
    visits: int

    @property
    def end(self) -> int:
        return self.start + len(self.data)


class EndMarker(msgspec.Struct, frozen=True):
    """Where a journal ended. Nothing was appended to it beyond `end`."""

    journal: str
    end: int


class SingleVisit(msgspec.Struct, frozen=True):
    """A visit that belongs to no journal, as the legacy .NET pixel sends it."""

    visit: Visit


def pack(journal: str, start: int, data: bytes, *, compress: bool) -> Message:
    """The message for whole lines of a journal. It may exceed `MAX_SENT_BYTES`: the caller checks its `size`.

    Raises MalformedMessage for data that is not ASCII. Our lines are always ASCII.
    """
    visits = data.count(b"\n")
    body, encoding = data, _IDENTITY
    if compress and visits > 1:  # a single visit stays readable in the queue
        deflated = base64.urlsafe_b64encode(isal_zlib.compress(data, 1))
        if len(deflated) < len(data):
            body, encoding = deflated, _DEFLATED
    try:
        text = body.decode("ascii")
    except UnicodeDecodeError as error:
        raise MalformedMessage("the lines are not ASCII") from error
    attributes = _attributes(journal, start, visits, encoding, data)
    return Message(journal, start, start + len(data), visits, text, attributes)


def end_marker(journal: str, end: int) -> Message:
    """The message that says where a journal ended. Its body is a newline, because SNS accepts no empty body."""
    return Message(journal, end, end, 0, "\n", _attributes(journal, end, 0, _IDENTITY, b"") | {"Closed": "true"})


def _attributes(journal: str, start: int, visits: int, encoding: str, data: bytes) -> dict[str, str]:
    return {
        "Type": "Visit",
        "Journal": journal,
        "Start": str(start),
        "Visits": str(visits),
        "Encoding": encoding,
        "Crc32": _crc32(data),
    }


def unpack(attributes: Mapping[str, str], body: str) -> StoredSpan | EndMarker | SingleVisit:
    """The content of a delivery. Raises MalformedMessage with the reason; no part of a malformed message is used."""
    if OUR_ATTRIBUTES.isdisjoint(attributes):
        enveloped = _open_envelope(body)
        if enveloped is not None:
            attributes, body = enveloped
    if OUR_ATTRIBUTES.isdisjoint(attributes):
        return SingleVisit(decode_line(body))
    journal = _required(attributes, "Journal")
    if not JOURNAL_ID.fullmatch(journal):
        raise MalformedMessage("attribute Journal is not 32 lower-case hexadecimal digits")
    start, visits = _number(attributes, "Start"), _number(attributes, "Visits")
    encoding, crc32 = _required(attributes, "Encoding"), _required(attributes, "Crc32")
    if "Closed" in attributes:
        content = (attributes["Closed"], visits, encoding, crc32, body)
        if content != ("true", 0, _IDENTITY, _crc32(b""), "\n"):
            raise MalformedMessage("not a valid end marker")
        return EndMarker(journal, start)
    data = _decoded(encoding, body)
    if _crc32(data) != crc32:
        raise MalformedMessage("attribute Crc32 is not the CRC-32 of the body")
    lines, count = format_lines(data)
    if not lines or count != visits:
        raise MalformedMessage("the body has no line, or attribute Visits is not their number")
    return StoredSpan(journal, start, data, int(crc32, 16), lines, visits)


class _EnvelopeAttribute(msgspec.Struct):
    Value: str


class _Envelope(msgspec.Struct):
    # Any type is accepted: a visit of the legacy .NET pixel may have these keys with any value and is still a visit.
    Type: Any = None
    Message: Any = None
    MessageAttributes: Any = None
    Token: Any = None


_CONFIRMATIONS = ("SubscriptionConfirmation", "UnsubscribeConfirmation")
_envelope_decoder = msgspec.json.Decoder(_Envelope)


def _open_envelope(body: str) -> tuple[dict[str, str], str] | None:
    """Attributes and body of a message in an SNS envelope (raw delivery off); None when there is no envelope."""
    try:
        envelope = _envelope_decoder.decode(body)
        if envelope.Type in _CONFIRMATIONS and isinstance(envelope.Token, str):
            raise MalformedMessage(
                f"a {envelope.Type} of SNS, and no visit: see whether the queue's subscription is confirmed"
            )
        if envelope.Type != "Notification" or not isinstance(envelope.Message, str):
            return None
        attributes = msgspec.convert(envelope.MessageAttributes or {}, dict[str, _EnvelopeAttribute])
    except DECODING_FAILURES as error:
        raise MalformedMessage(f"neither a visit nor an SNS envelope: {error}") from error
    return {name: attribute.Value for name, attribute in attributes.items()}, envelope.Message


def _required(attributes: Mapping[str, str], name: str) -> str:
    try:
        return attributes[name]
    except KeyError:
        raise MalformedMessage(f"attribute {name} is missing") from None


def _number(attributes: Mapping[str, str], name: str) -> int:
    text = _required(attributes, name)
    if not _NUMBER.fullmatch(text):
        raise MalformedMessage(f"attribute {name} is not a decimal number of at most {MAX_DIGITS} digits")
    return int(text)


def _decoded(encoding: str, body: str) -> bytes:
    try:
        if encoding == _IDENTITY:
            data = body.encode()
        elif encoding == _DEFLATED:
            data = _inflate(base64.b64decode(body, altchars=b"-_", validate=True))
        else:
            raise MalformedMessage(f"unknown encoding {encoding[:40]!r}")
    except (ValueError, isal_zlib.error) as error:  # type: ignore[misc]  # isal's hints call the class an instance
        raise MalformedMessage(f"the body is not {encoding}: {error}") from error
    if len(data) > MAX_INFLATED_BYTES:
        raise MalformedMessage(f"the body has more than {MAX_INFLATED_BYTES} bytes")
    return data


def _inflate(deflated: bytes) -> bytes:
    """Inflate in parts: isal grows one large buffer by copying it again and again, which needs more time and memory."""
    inflater = isal_zlib.decompressobj()
    parts: list[bytes] = []
    size = 0
    while not inflater.eof and size <= MAX_INFLATED_BYTES and (part := inflater.decompress(deflated, _PART_BYTES)):
        parts.append(part)
        size += len(part)
        deflated = inflater.unconsumed_tail
    if size <= MAX_INFLATED_BYTES and (not inflater.eof or inflater.unused_data):
        raise MalformedMessage("the compressed body is incomplete, or other bytes follow its end")
    return b"".join(parts)


def _crc32(data: bytes) -> str:
    return f"{isal_zlib.crc32(data):08x}"
