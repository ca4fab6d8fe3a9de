"""Queues in memory, as SQS documents them: visibility, receipts, redrive, and what a queue refuses.

No socket and no clock of its own. Sources: the API reference of SQS, and "Amazon SQS message metadata".
"""

import asyncio
import contextlib
import heapq
import json
import random
import re
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Self
from uuid import uuid4

from tests.fake_aws.faults import EARLY_SECONDS, Faults

SQS_BYTES = 1 << 20
RAW_ATTRIBUTES = 10
ACCOUNT = "000000000000"
REGION = "us-east-1"

_INVALID = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


class AwsError(Exception):
    """What a service says no with; the sender's fault unless the status is 500."""

    def __init__(self, code: str, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.status = status


class Attribute(NamedTuple):
    data_type: str
    value: str


Attributes = Mapping[str, Attribute]


class Sent(NamedTuple):
    """A message on its way in."""

    body: str
    attributes: Attributes

    @classmethod
    def of(cls, body: str, attributes: Mapping[str, str]) -> Self:
        """With attributes of the type String."""
        return cls(body, {name: Attribute("String", value) for name, value in attributes.items()})

    @property
    def values(self) -> dict[str, str]:
        """The values of the attributes."""
        return {name: attribute.value for name, attribute in self.attributes.items()}

    @property
    def size(self) -> int:
        """Bytes as AWS counts them: the body, and of each attribute its name, type and value."""
        texts = [self.body, *(text for name, of in self.attributes.items() for text in (name, *of))]
        return sum(len(text.encode("utf-8", "surrogatepass")) for text in texts)


@dataclass
class Message:
    """A message in a queue. Only its newest receipt, `id#receives`, does anything."""

    id: str
    sent: Sent
    sent_at: float
    receives: int = 0
    hidden_until: float = 0.0
    received_at: float = 0.0

    @property
    def receipt(self) -> str:
        return f"{self.id}#{self.receives}"

    @property
    def sent_ms(self) -> int:
        return int(self.sent_at * 1000)


class Received(NamedTuple):
    message: Message
    receipt: str
    receives: int


@dataclass
class Queue:
    """`seconds` is the clock: since 1970, as SQS's own. Without `checks` it accepts any message."""

    name: str
    attributes: dict[str, str]
    seconds: Callable[[], float]
    faults: Faults
    dead_letters: "Callable[[str], Queue]"
    checks: bool = True
    refused_by_raw_delivery: int = 0
    most_receives: int = 0  # of any message there ever was
    _messages: dict[str, Message] = field(default_factory=dict)
    _ready: deque[str] = field(default_factory=deque)
    _hidden: list[tuple[float, str]] = field(default_factory=list)
    _known: set[str] = field(default_factory=set)  # ids of all messages there ever were
    _arrived: asyncio.Event = field(default_factory=asyncio.Event)  # set and replaced when a message becomes visible

    @property
    def arn(self) -> str:
        return f"arn:aws:sqs:{REGION}:{ACCOUNT}:{self.name}"

    def send(self, sent: Sent) -> str:
        if self.checks:
            _check(sent)
        return self.put(Message(str(uuid4()), sent, self.seconds()))

    def receive(self, count: int, visibility: float) -> list[Received]:
        """What is visible, at most `count`; hides it. What was received too often goes to the dead letters."""
        self._wake()
        if len(self._ready) > 1 and self.faults.strikes("reorder", "ReceiveMessage"):
            random.Random(len(self._known)).shuffle(self._ready)
        received: list[Received] = []
        stay: list[str] = []
        while self._ready and len(received) < count:
            message = self._messages.get(self._ready.popleft())
            if message is None or message.hidden_until > self.seconds() or self._give_up(message):
                continue
            received.append(self._hand_out(message, visibility, stay))
        self._ready.extend(stay)
        return received

    async def poll(self, count: int, visibility: float, wait: float) -> list[Received]:
        """`receive` as a long poll: waits up to `wait` seconds for a message."""
        loop = asyncio.get_running_loop()
        until = loop.time() + wait
        while not (received := self.receive(count, visibility)) and (left := until - loop.time()) > 0:
            if self._hidden:
                left = min(left, max(0.0, self._hidden[0][0] - self.seconds()) + 0.001)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._arrived.wait()
        return received

    def all_attributes(self) -> dict[str, str]:
        """The attributes that were set, and those that SQS adds."""
        visible, hidden = self.counts()
        counts = {"ApproximateNumberOfMessages": str(visible), "ApproximateNumberOfMessagesNotVisible": str(hidden)}
        return {**self.attributes, **counts, "QueueArn": self.arn}

    def delete(self, receipt: str) -> None:
        """A stale receipt, or one of a message that is gone, deletes nothing and says nothing."""
        message = self._find(receipt)
        if message is None or message.receipt != receipt:
            return
        if self.faults.strikes("undeleted", "DeleteMessageBatch"):
            return
        del self._messages[message.id]

    def change_visibility(self, receipt: str, seconds: float) -> None:
        message = self._find(receipt)
        now = self.seconds()
        if message is None or message.receipt != receipt or message.hidden_until <= now:
            raise AwsError("MessageNotInflight", "The specified message isn't in flight.")
        if now + seconds - message.received_at > 43_200:
            raise AwsError("InvalidParameterValue", "Total VisibilityTimeout for the message is beyond the limit.")
        self._hide(message, seconds)

    def clear(self) -> None:
        self._messages.clear()

    def expire(self) -> None:
        """Whatever is in flight becomes visible now, as if its visibility timeout had passed."""
        for message in self._messages.values():
            if message.hidden_until > self.seconds():
                self._hide(message, 0.0)
        self._announce()

    def remove(self, wanted: Callable[[Sent], bool]) -> None:
        """Takes such messages out, in flight or not."""
        self._messages = {name: each for name, each in self._messages.items() if not wanted(each.sent)}

    def redrive_to(self, source: "Queue") -> int:
        """Moves all messages back to their source, as the console's redrive does: new ids, no receives."""
        moved = [self._messages.pop(message_id) for message_id in list(self._messages)]
        for message in moved:
            source.send(message.sent)
        return len(moved)

    def counts(self) -> tuple[int, int]:
        """Visible and in flight."""
        self._wake()
        visible = len(self.visible())
        return visible, len(self._messages) - visible

    def hidden_for(self) -> list[float]:
        """Of each message in flight, the seconds from its receipt to its return as things are."""
        now = self.seconds()
        return [each.hidden_until - each.received_at for each in self._messages.values() if each.hidden_until > now]

    def ids(self) -> set[str]:
        """The ids of all messages, in flight or not."""
        return set(self._messages)

    def visible(self) -> set[str]:
        """The ids of the messages that are not in flight."""
        return {message.id for message in self._messages.values() if message.hidden_until <= self.seconds()}

    def bodies(self) -> list[str]:
        return [sent.body for sent in self.sent()]

    def sent(self) -> list[Sent]:
        """The messages in the queue, in flight or not, as they were sent."""
        return [message.sent for message in self._messages.values()]

    def put(self, message: Message) -> str:
        self._messages[message.id] = message
        self._known.add(message.id)
        self._ready.append(message.id)
        self._announce()
        return message.id

    def _announce(self) -> None:
        self._arrived.set()
        self._arrived = asyncio.Event()

    def _hand_out(self, message: Message, visibility: float, stay: list[str]) -> Received:
        message.receives += 1
        self.most_receives = max(self.most_receives, message.receives)
        message.received_at = self.seconds()
        received = Received(message, message.receipt, message.receives)
        if self.faults.strikes("duplicate", "ReceiveMessage"):
            stay.append(message.id)
            return received
        if self.faults.strikes("stale", "ReceiveMessage"):
            message.receives += 1  # as if somebody else had received it since
        early = self.faults.strikes("early", "ReceiveMessage")
        self._hide(message, min(EARLY_SECONDS, visibility) if early else visibility)
        return received

    def _give_up(self, message: Message) -> bool:
        if not message.receives or not (policy := json.loads(self.attributes.get("RedrivePolicy") or "{}")):
            return False
        if message.receives < int(policy["maxReceiveCount"]):
            return False
        del self._messages[message.id]
        moved = Message(message.id, message.sent, message.sent_at)
        self.dead_letters(policy["deadLetterTargetArn"]).put(moved)
        return True

    def _hide(self, message: Message, seconds: float) -> None:
        message.hidden_until = self.seconds() + seconds
        heapq.heappush(self._hidden, (message.hidden_until, message.id))

    def _wake(self) -> None:
        while self._hidden and self._hidden[0][0] <= self.seconds():
            until, message_id = heapq.heappop(self._hidden)
            message = self._messages.get(message_id)
            if message is not None and message.hidden_until == until:
                self._ready.append(message_id)

    def _find(self, receipt: str) -> Message | None:
        message_id, mark, _ = receipt.partition("#")
        if not mark or message_id not in self._known:
            raise AwsError("ReceiptHandleIsInvalid", "The input receipt handle is invalid.")
        return self._messages.get(message_id)


def _check(sent: Sent) -> None:
    check_body(sent.body, "InvalidMessageContents")
    if sent.size > SQS_BYTES:
        raise AwsError("InvalidParameterValue", f"One or more parameters are invalid: longer than {SQS_BYTES}")
    if len(sent.attributes) > RAW_ATTRIBUTES:
        raise AwsError("InvalidParameterValue", "Number of message attributes exceeds the allowed maximum [10].")


def check_body(body: str, code: str) -> None:
    if _INVALID.search(body):
        raise AwsError(code, "Invalid characters found: the allowed are #x9 | #xA | #xD | #x20 to #xD7FF and so on")
