"""A span on the wire: what the publisher hands to SNS, and what the writer makes of a delivery from SQS.

Promise: `unpack` gives back exactly the bytes that `pack` was given, or says MalformedMessage; nothing that anyone puts
into the queue makes it do anything else, or take more memory than `MAX_INFLATED_BYTES`.
"""

import base64
import re
import zlib
from collections.abc import Mapping
from typing import Any

import msgspec

from tracker.core.log_line import format_lines
from tracker.core.visit import DECODING_FAILURES, Visit, decode_line
from tracker.errors import MalformedMessage

MAX_SENT_BYTES = 250_000
"""A message as sent; SNS takes 262,144 bytes of body and attributes."""
MAX_SPAN_BYTES = 1 << 20
MAX_INFLATED_BYTES = 8 << 20

_IDENTITY = "identity"
_DEFLATED = "zlib+base64url"
# Any of these makes a message ours. `Type` does not: the seed's pixel sends it too.
_OURS = frozenset(("Journal", "Start", "Visits", "Encoding", "Crc32", "Closed"))

JOURNAL_ID = re.compile(r"[0-9a-f]{32}")
# Offsets, ends and counts. A worker that appends 30,000 visits of 276 bytes a second for 3.8 years has appended 10^15
# bytes. Every sum of two such numbers fits SQLite's 63 bits, and a double holds each of them exactly.
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
        """Bytes as SNS counts them: the body, and of each attribute its name, type and value. All of it is ASCII."""
        return len(self.body) + sum(len(name) + len("String") + len(value) for name, value in self.attributes.items())


class StoredSpan(msgspec.Struct, frozen=True):
    """A part of a journal, as a delivery brings it.

    `data` has the journal's bytes from the offset `start` on, `crc32` is their CRC-32. `lines` has one line of the
    visit log for each line of `data`.
    """

    journal: str
    start: int
    data: bytes
    crc32: int
    lines: list[str]

    @property
    def end(self) -> int:
        return self.start + len(self.data)


class Closing(msgspec.Struct, frozen=True):
    """A journal says where it ended."""

    journal: str
    end: int


class SingleVisit(msgspec.Struct, frozen=True):
    """A visit without a place in a journal, as the seed's pixel sends it."""

    visit: Visit


def pack(journal: str, start: int, data: bytes, *, compress: bool) -> Message:
    """The message of whole lines of a journal. May exceed `MAX_SENT_BYTES`: look at its `size`.

    Raises MalformedMessage for data that is not ASCII, which no line of ours is.
    """
    visits = data.count(b"\n")
    body, encoding = data, _IDENTITY
    if compress and visits > 1:  # one visit stays readable in the queue
        deflated = base64.urlsafe_b64encode(_of_whole_triples(zlib.compress(data, 1)))
        if len(deflated) < len(data):
            body, encoding = deflated, _DEFLATED
    try:
        text = body.decode("ascii")
    except UnicodeDecodeError as error:
        raise MalformedMessage("the lines are not ASCII") from error
    attributes = _attributes(journal, start, visits, encoding, data)
    return Message(journal, start, start + len(data), visits, text, attributes)


def _of_whole_triples(deflated: bytes) -> bytes:
    """The same zlib stream, a multiple of three bytes long, so that base64 has no padding.

    SNS is spoken to in forms, where `=` is escaped; for a text with nothing to escape botocore's way there is a glance,
    for one with a single `=` it is a look at every character, twice. What fills up are empty stored blocks (RFC 1951,
    3.2.4) of five bytes behind the header of two (RFC 1950).
    """
    blocks = 2 * (-len(deflated) % 3) % 3
    return deflated[:2] + b"\x00\x00\x00\xff\xff" * blocks + deflated[2:]


def closing(journal: str, end: int) -> Message:
    """The message that says a journal is finished. Its body is a newline, for SNS takes no empty one."""
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


def unpack(attributes: Mapping[str, str], body: str) -> StoredSpan | Closing | SingleVisit:
    """What a delivery says. Raises MalformedMessage with the reason; a message is taken whole or not at all."""
    if _OURS.isdisjoint(attributes):
        enveloped = _open_envelope(body)
        if enveloped is not None:
            attributes, body = enveloped
    if _OURS.isdisjoint(attributes):
        return SingleVisit(decode_line(body))
    journal = _required(attributes, "Journal")
    if not JOURNAL_ID.fullmatch(journal):
        raise MalformedMessage("Journal is not 32 lower-case hexadecimal digits")
    start, visits = _number(attributes, "Start"), _number(attributes, "Visits")
    encoding, crc32 = _required(attributes, "Encoding"), _required(attributes, "Crc32")
    if "Closed" in attributes:
        said = (attributes["Closed"], visits, encoding, crc32, body)
        if said != ("true", 0, _IDENTITY, _crc32(b""), "\n"):
            raise MalformedMessage("not a proper closing message")
        return Closing(journal, start)
    data = _decoded(encoding, body)
    if _crc32(data) != crc32:
        raise MalformedMessage("Crc32 differs from that of the body")
    if not data.endswith(b"\n") or data.count(b"\n") != visits:
        raise MalformedMessage("the body is not as many whole lines as Visits says")
    return StoredSpan(journal, start, data, int(crc32, 16), format_lines(data))


class _EnvelopeAttribute(msgspec.Struct):
    Value: str


class _Envelope(msgspec.Struct):
    # Loosely typed, for a visit of the seed may hold these keys with any value, and is a visit all the same.
    Type: Any = None
    Message: Any = None
    MessageAttributes: Any = None


_envelope_decoder = msgspec.json.Decoder(_Envelope)


def _open_envelope(body: str) -> tuple[dict[str, str], str] | None:
    """Attributes and body of a message that SNS wrapped in JSON (raw delivery off); None when it did not."""
    try:
        envelope = _envelope_decoder.decode(body)
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
    except (ValueError, zlib.error) as error:
        raise MalformedMessage(f"the body is not {encoding}: {error}") from error
    if len(data) > MAX_INFLATED_BYTES:
        raise MalformedMessage(f"more than {MAX_INFLATED_BYTES} bytes")
    return data


def _inflate(deflated: bytes) -> bytes:
    inflater = zlib.decompressobj()
    data = inflater.decompress(deflated, MAX_INFLATED_BYTES + 1)
    if len(data) <= MAX_INFLATED_BYTES and (not inflater.eof or inflater.unused_data):
        raise MalformedMessage("the compressed body is cut off or has something after its end")
    return data


def _crc32(data: bytes) -> str:
    return f"{zlib.crc32(data):08x}"
