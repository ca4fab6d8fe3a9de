"""A very fast SNS and SQS for benchmarks: one topic and one queue in memory, only the calls that the services make.

It accepts every publish, delivers each message once, and counts calls. It checks no signature, applies no filter, and
makes no message visible again, so that it takes as little CPU time as possible from what is measured.

- `/calls` answers with the counts and sets them to zero.
- `/down?1` answers 503 to every publish until `/down?0`.
- `/backlog?N` puts N packed visits into the queue.
"""

import asyncio
import json
import re
import sys
from collections import Counter, deque
from collections.abc import Callable
from itertools import count
from typing import cast
from urllib.parse import parse_qs

import uvloop

from benchmarks.sample import packed_spans

_PUBLISHED = (
    b'<PublishResponse xmlns="http://sns.amazonaws.com/doc/2010-03-31/"><PublishResult><MessageId>'
    b"00000000-0000-0000-0000-000000000000</MessageId></PublishResult></PublishResponse>"
)
_PUBLISHED_BATCH = (
    b'<PublishBatchResponse xmlns="http://sns.amazonaws.com/doc/2010-03-31/"><PublishBatchResult><Successful>%b'
    b"</Successful><Failed></Failed></PublishBatchResult></PublishBatchResponse>"
)
_ENTRY = re.compile(rb"&(PublishBatchRequestEntries\.member\.[0-9]+\.)Id=([^&]*)")  # the prefix of its fields, its id


class Queue:
    """Messages as the JSON that a receive returns, and the long polls that wait for them."""

    def __init__(self) -> None:
        self.messages: deque[str] = deque()
        self._polls: deque[Callable[[], None]] = deque()
        self._numbers = count()

    def put(self, body: str, attributes: dict[str, str]) -> None:
        number = next(self._numbers)
        message = {
            "MessageId": f"m{number}",
            "ReceiptHandle": f"r{number}",
            "Body": body,
            "Attributes": {"SentTimestamp": "1795417764932", "ApproximateReceiveCount": "1"},
            "MessageAttributes": {
                name: {"DataType": "String", "StringValue": value} for name, value in attributes.items()
            },
        }
        self.messages.append(json.dumps(message))
        while self._polls and self.messages:
            self._polls.popleft()()

    def wait(self, poll: Callable[[], None]) -> None:
        self._polls.append(poll)

    def take(self, most: int) -> bytes:
        taken = [self.messages.popleft() for _ in range(min(most, len(self.messages)))]
        return f'{{"Messages":[{",".join(taken)}]}}'.encode() if taken else b"{}"


class Broker:
    """The state that all connections share."""

    def __init__(self, *, keep: bool) -> None:
        self.keep = keep  # whether published messages go to the queue, or nowhere
        self.down = False
        self.calls: Counter[str] = Counter()
        self.queue = Queue()
        self._offset = 0

    def add_backlog(self, visits: int) -> None:
        for message in packed_spans(visits, self._offset):
            self.queue.put(message.body, message.attributes)
            self._offset = message.end

    def publish(self, form: bytes) -> bytes | None:
        """The reply to Publish or PublishBatch; None while the broker is down."""
        entries = _ENTRY.findall(form) if form.startswith(b"Action=PublishBatch&") else []
        self.calls["PublishBatch" if entries else "Publish"] += 1
        if self.down:
            return None
        if self.keep:
            fields = {name: values[0] for name, values in parse_qs(form.decode(), keep_blank_values=True).items()}
            for prefix in [prefix.decode() for prefix, _ in entries] or [""]:
                self._put({name.removeprefix(prefix): fields[name] for name in fields if name.startswith(prefix)})
        accepted = b"".join(b"<member><Id>%b</Id><MessageId>m</MessageId></member>" % each for _, each in entries)
        return _PUBLISHED_BATCH % accepted if entries else _PUBLISHED

    def _put(self, message: dict[str, str]) -> None:
        attributes = [name.removesuffix("Name") for name in message if name.endswith(".Name")]
        values = {message[f"{each}Name"]: message[f"{each}Value.StringValue"] for each in attributes}
        self.queue.put(message["Message"], values)


class Connection(asyncio.Protocol):
    """HTTP/1.1 as botocore uses it: a head, a body with Content-Length, one request after the other."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._buffer = bytearray()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        head = bytes(self._buffer[:end]).decode("latin-1")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head.split("\r\n")[1:])}
        length = int(headers.get("content-length", 0))
        if len(self._buffer) < end + 4 + length:
            return
        body = bytes(self._buffer[end + 4 : end + 4 + length])
        del self._buffer[: end + 4 + length]
        if head.startswith("GET"):
            self._control(head.split(" ")[1])
        elif target := headers.get("x-amz-target"):
            self._sqs(target.rpartition(".")[2], body)
        else:
            accepted = self._broker.publish(body)
            self._answer(accepted or b"", "text/xml", 200 if accepted else 503)

    def _sqs(self, action: str, body: bytes) -> None:
        self._broker.calls[action] += 1
        request = json.loads(body)
        if action == "ReceiveMessage":
            self._receive(request)
        elif action == "GetQueueUrl":
            self._answer(b'{"QueueUrl":"http://127.0.0.1/000000000000/visits"}')
        elif action == "GetQueueAttributes":
            redrive = json.dumps({"maxReceiveCount": 100, "deadLetterTargetArn": "arn:aws:sqs:us-east-1:0:dlq"})
            self._answer(json.dumps({"Attributes": {"RedrivePolicy": redrive}}).encode())
        else:
            done = [{"Id": entry["Id"]} for entry in request.get("Entries", ())]
            self._answer(json.dumps({"Successful": done, "Failed": []}).encode())

    def _receive(self, request: dict[str, int]) -> None:
        queue, most = self._broker.queue, request.get("MaxNumberOfMessages", 1)
        if queue.messages or not request.get("WaitTimeSeconds"):
            self._answer(queue.take(most))
            return
        answered = False

        def answer() -> None:
            nonlocal answered
            if not answered and self._transport is not None:
                answered = True
                self._answer(queue.take(most))

        queue.wait(answer)
        asyncio.get_running_loop().call_later(request["WaitTimeSeconds"], answer)

    def _control(self, target: str) -> None:
        path, _, value = target.partition("?")
        if path == "/calls":
            calls = json.dumps({**self._broker.calls, "waiting": len(self._broker.queue.messages)})
            self._broker.calls.clear()
            self._answer(calls.encode())
            return
        if path == "/down":
            self._broker.down = value == "1"
        elif path == "/backlog":
            self._broker.add_backlog(int(value))
        self._answer(b"{}")

    def _answer(self, body: bytes, kind: str = "application/x-amz-json-1.0", status: int = 200) -> None:
        if self._transport is not None:
            head = f"HTTP/1.1 {status} x\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
            self._transport.write(head.encode() + body)


async def _serve(port: int, *, keep: bool) -> None:
    broker = Broker(keep=keep)
    server = await asyncio.get_running_loop().create_server(lambda: Connection(broker), "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(_serve(int(sys.argv[1]), keep=sys.argv[2] == "keep"))
