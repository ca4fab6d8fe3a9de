"""Reads messages that were kept elsewhere, in the forms in which they are found, and gives them back as they were.

| in a file | what it becomes |
|---|---|
| a message of SQS (`aws sqs receive-message`, a Lambda event) | the same message: body and attributes |
| a message of SNS in its envelope (Firehose, a queue without raw delivery) | the same message |
| one of these within other objects, such as an event of EventBridge, or in base64 (Kinesis) | the same message |
| a message of the legacy .NET pixel, without our attributes | a journal of its own, made from its MessageId |
| a line with a visit and nothing else (`refused.ndjson`) | a part of one journal, made from the file's first line |

A made journal is the same each time a file is imported, so the ledger recognises what it has stored of it. What storage
has stored under another name before the first import it cannot recognise: that visit is stored a second time.

Every message is checked as storage checks it. What storage would refuse is reported with its place, and is not given.
So is a body of ours that was kept without its attributes: nothing says which bytes of which journal it has.
"""

import base64
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from tracker.core.message import OUR_ATTRIBUTES, EndMarker, Message, SingleVisit, end_marker, pack, unpack
from tracker.core.visit import Visit, decode_line, encode_line
from tracker.errors import MalformedMessage
from tracker.operations.json_objects import JsonObject
from tracker.pixel.packer import Packer
from tracker.pixel.span import Span

RAW_ATTRIBUTES = 10
"""A subscription with raw delivery discards a message with more attributes. Ours have at most seven."""
SPAN_BYTES = 1 << 18
"""So many bytes of single lines are made into one span."""
_DEEPEST = 12  # levels of objects and lists that are searched for messages
_ENCODED = ("data", "rawData")  # of Kinesis, and of what Firehose could not process: records in base64
_JSON = re.compile(r"\s*[{\[]")
_BASE64 = re.compile(r"[A-Za-z0-9+/]{24,}={0,2}")
# The beginning of zlib's data in base64, and the newline at the end of all bodies of ours that are not compressed. The
# legacy .NET pixel sends neither.
_OUR_BODY = re.compile(r"e[AFJN][\w-]+=*|.*\n", re.DOTALL)


class Kept(NamedTuple):
    """A message to be published, and where it was found.

    `oldest` is the time of its first visit, as text. `topic` is the ARN of the topic that it comes from, if it says so.
    """

    message: Message
    place: str
    oldest: str = ""
    has_made_journal: bool = False
    topic: str = ""


class Unusable(NamedTuple):
    """What is no message, and why. `could_not_read` says that a file or a journal could not be read."""

    place: str
    problem: str
    could_not_read: bool = False


class KeptMessages:
    """The messages of one file. `flush` gives the last ones."""

    def __init__(self, file: str) -> None:
        self._file = file
        self._lines: _Lines | None = None

    def add(self, found: JsonObject) -> Iterator[Kept | Unusable]:
        """The messages that are complete with this object of the file."""
        place = f"{self._file}:{found.line}"
        if "IpAddress" in found.value:
            yield from _or_unusable(self._add_visit(found.data, place), place)
            return
        is_empty = True
        for each in _messages(found.value, _DEEPEST):
            is_empty = False
            yield from _or_unusable(_kept(each, place), place)
        if is_empty:
            yield Unusable(place, f"{_keys(found.value)}: {_EXPECTED}")

    def flush(self) -> Iterator[Kept]:
        if self._lines is not None:
            yield from self._lines.spans(is_end=True)

    def _add_visit(self, data: bytes, place: str) -> Iterator[Kept]:
        line = _line(decode_line(data))
        self._lines = self._lines or _Lines(_made_journal("lines", line))
        self._lines.add(line, place)
        yield from self._lines.spans()


class _Lines:
    """The lines of a file as one journal: each has the offset that it would have if they were appended in order."""

    def __init__(self, journal: str) -> None:
        self._journal = journal
        self._packer = Packer(journal)
        self._start = 0
        self._data = bytearray()
        self._place = ""

    def add(self, line: bytes, place: str) -> None:
        self._place = self._place or place
        self._data += line

    def spans(self, *, is_end: bool = False) -> Iterator[Kept]:
        while self._data and (is_end or len(self._data) >= SPAN_BYTES):
            [message] = self._packer.messages(Span(self._start, bytes(self._data)), "packed")
            yield Kept(message, self._place, _time_of(self._data), has_made_journal=True)
            del self._data[: message.end - self._start]
            self._start = message.end
        self._place = self._place if self._data else ""
        if is_end:
            yield Kept(end_marker(self._journal, self._start), self._place, has_made_journal=True)


class _Found(NamedTuple):
    """A message as it was found: its body, its attributes that are texts, its MessageId, the ARN of its topic."""

    body: str
    attributes: dict[str, str]
    message_id: str
    topic: str


def _or_unusable(messages: Iterator[Kept], place: str) -> Iterator[Kept | Unusable]:
    try:
        yield from messages
    except MalformedMessage as error:
        yield Unusable(place, str(error))


def _kept(found: _Found, place: str) -> Iterator[Kept]:
    """The messages for one that was found. Raises MalformedMessage for what storage would refuse."""
    attributes, body = found.attributes, found.body
    if OUR_ATTRIBUTES.isdisjoint(attributes):
        _refuse_foreign(found)
    content = unpack(attributes, body)
    if isinstance(content, SingleVisit):
        line = _line(content.visit)
        journal = _made_journal("message", found.message_id.encode() or line)
        single = pack(journal, 0, line, compress=False)
        yield Kept(single, place, _time_of(line), has_made_journal=True, topic=found.topic)
        yield Kept(end_marker(journal, single.end), place, has_made_journal=True, topic=found.topic)
        return
    if len(attributes) >= RAW_ATTRIBUTES:
        attributes = {name: value for name, value in attributes.items() if name in OUR_ATTRIBUTES}
    attributes = {**attributes, "Type": "Visit"}
    if isinstance(content, EndMarker):
        yield Kept(Message(content.journal, content.end, content.end, 0, body, attributes), place, topic=found.topic)
    else:
        message = Message(content.journal, content.start, content.end, content.visits, body, attributes)
        yield Kept(message, place, content.lines.partition(b"|")[0].decode("ascii"), topic=found.topic)


def _refuse_foreign(found: _Found) -> None:
    """Raise MalformedMessage for a message without our attributes that is not of the legacy .NET pixel."""
    if found.attributes.get("Type", "Visit") != "Visit":
        raise MalformedMessage(f"a message for others: its attribute Type is {found.attributes['Type'][:40]!r}")
    if _OUR_BODY.fullmatch(found.body):
        raise MalformedMessage(
            "its attributes Journal, Start and others were not kept, so nothing says whether it is stored already. "
            "Copy it with them: aws sqs receive-message --message-attribute-names All; Firehose without raw delivery"
        )


def _messages(value: Any, depth: int) -> Iterator[_Found]:
    """The messages in a decoded JSON value, whatever objects and lists are around them.

    Only those texts are searched in which AWS puts messages. Visits are not: a visitor has chosen their texts.
    """
    if not depth or not isinstance(value, dict | list) or "IpAddress" in value:
        return
    message = _message(value) if isinstance(value, dict) else None
    if message is None:
        for name, each in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _messages(_json_in(each) if name in _ENCODED else each, depth - 1)
        return
    is_around = False
    if OUR_ATTRIBUTES.isdisjoint(message.attributes):  # such as the envelope of SNS, in the body of a message of SQS
        for each in _messages(_json_in(message.body), depth - 1):
            is_around = True
            yield each
    if not is_around:
        yield message


def _message(value: dict[str, Any]) -> _Found | None:
    """The message of SNS or SQS that this object is; None if it is none."""
    attributes = value.get("MessageAttributes") or value.get("messageAttributes")
    body = value.get("Message")
    if not isinstance(body, str) or not (attributes or value.get("Type") == "Notification"):
        body = value.get("Body") or value.get("body")
    if not isinstance(body, str):
        return None
    message_id = str(value.get("MessageId") or value.get("messageId") or "")
    return _Found(body, _texts(attributes), message_id, str(value.get("TopicArn") or ""))


def _json_in(text: Any) -> Any:
    """The object or list that a text holds as JSON, also in base64, or else None. Other values stay as they are."""
    if not isinstance(text, str):
        return text
    try:
        if _BASE64.fullmatch(text):
            text = base64.b64decode(text).decode()
        return json.loads(text) if _JSON.match(text) else None
    except (ValueError, RecursionError):
        return None


_EXPECTED = (
    "expected a message of SQS (Body, MessageAttributes) or of SNS (Message, MessageAttributes), or a visit (IpAddress)"
)


def _keys(value: Mapping[str, Any]) -> str:
    names = ", ".join(name[:40] for name in list(value)[:8])
    return f"an object with the keys {names}" if names else "an empty object"


def _texts(attributes: Any) -> dict[str, str]:
    """The attributes that are texts, as SQS, SNS and Lambda write them: `StringValue`, `Value`, `stringValue`."""
    found: dict[str, str] = {}
    for name, each in attributes.items() if isinstance(attributes, Mapping) else ():
        values = (
            [each.get(key) for key in ("StringValue", "Value", "stringValue")] if isinstance(each, dict) else [each]
        )
        text = next((value for value in values if isinstance(value, str)), None)
        if text:
            found[name] = text
    return found


def _line(visit: Visit) -> bytes:
    return encode_line(visit.time.isoformat(timespec="microseconds"), visit.referrer, visit.user_agent, visit.ip)


def _time_of(lines: bytes | bytearray) -> str:
    """The time of the first line, which `_line` has made."""
    return lines[: lines.index(b"\n")].rpartition(b'"VisitedAt":"')[2][:32].decode()


def _made_journal(kind: str, identity: bytes) -> str:
    return hashlib.sha256(kind.encode() + b"\0" + identity).hexdigest()[:32]
