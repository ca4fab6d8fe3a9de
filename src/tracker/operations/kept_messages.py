"""Reads messages that were kept elsewhere, in the forms in which they are found, and gives them back as they were.

| in a file | what it becomes |
|---|---|
| a message of SQS (`aws sqs receive-message`, a Lambda event) | the same message: body and attributes |
| a message of SNS in its envelope (Firehose, a queue without raw delivery) | the same message |
| a message of the legacy .NET pixel, without our attributes | a journal of its own, made from its MessageId |
| a line with a visit and nothing else (`refused.ndjson`) | a part of one journal, made from the file's first line |

A made journal is the same each time a file is imported, so the ledger recognises what it has stored of it. What storage
has stored under another name before the first import it cannot recognise: that visit is stored a second time.

Every message is checked as storage checks it. What storage would refuse is reported with its place, and is not given.
"""

import hashlib
import json
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
_DEEPEST = 4  # an SNS envelope in the body of an SQS message in a list in an event


class Kept(NamedTuple):
    """A message to be published, and where it was found. `oldest` is the time of its first visit, as text."""

    message: Message
    place: str
    oldest: str = ""
    has_made_journal: bool = False


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
        try:
            if "IpAddress" in found.value:
                yield from self._add_visit(decode_line(found.data), place)
            else:
                for attributes, body, message_id in _messages(found.value, _DEEPEST):
                    yield from _kept(attributes, body, message_id, place)
        except MalformedMessage as error:
            yield Unusable(place, str(error))

    def flush(self) -> Iterator[Kept]:
        if self._lines is not None:
            yield from self._lines.spans(is_end=True)

    def _add_visit(self, visit: Visit, place: str) -> Iterator[Kept]:
        line = _line(visit)
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


def _kept(attributes: dict[str, str], body: str, message_id: str, place: str) -> Iterator[Kept]:
    """The messages for one that was found. Raises MalformedMessage for what storage would refuse."""
    content = unpack(attributes, body)
    if isinstance(content, SingleVisit):
        line = _line(content.visit)
        journal = _made_journal("message", message_id.encode() or line)
        single = pack(journal, 0, line, compress=False)
        yield Kept(single, place, _time_of(line), has_made_journal=True)
        yield Kept(end_marker(journal, single.end), place, has_made_journal=True)
        return
    if len(attributes) >= RAW_ATTRIBUTES:
        attributes = {name: value for name, value in attributes.items() if name in OUR_ATTRIBUTES}
    attributes = {**attributes, "Type": "Visit"}
    if isinstance(content, EndMarker):
        yield Kept(Message(content.journal, content.end, content.end, 0, body, attributes), place)
    else:
        message = Message(content.journal, content.start, content.end, content.visits, body, attributes)
        yield Kept(message, place, content.lines.partition(b"|")[0].decode("ascii"))


def _messages(value: Any, depth: int) -> Iterator[tuple[dict[str, str], str, str]]:
    """Attributes, body and MessageId of each message in a decoded JSON object."""
    if not depth or not isinstance(value, dict):
        raise MalformedMessage("neither a message nor a visit")
    for name in ("Messages", "Records"):
        if isinstance(value.get(name), list):
            for each in value[name]:
                yield from _messages(each, depth - 1)
            return
    if isinstance(value.get("Sns"), dict):
        yield from _messages(value["Sns"], depth - 1)
        return
    message_id = str(value.get("MessageId") or value.get("messageId") or "")
    attributes = _texts(value.get("MessageAttributes") or value.get("messageAttributes"))
    if isinstance(value.get("Message"), str) and (value.get("Type") == "Notification" or "TopicArn" in value):
        yield attributes, value["Message"], message_id
        return
    body = value.get("Body") or value.get("body")
    if not isinstance(body, str):
        raise MalformedMessage("neither a message nor a visit")
    if OUR_ATTRIBUTES.isdisjoint(attributes) and (envelope := _envelope(body)) is not None:
        yield from _messages(envelope, depth - 1)
    else:
        yield attributes, body, message_id


def _envelope(body: str) -> dict[str, Any] | None:
    """The SNS envelope in the body of a message of SQS; None when there is none."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return None
    is_envelope = isinstance(value, dict) and value.get("Type") == "Notification" and "Message" in value
    return value if is_envelope else None


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
