"""The fake of SNS and SQS of the tests, as a process that takes as little CPU time as possible from what is measured.

It has one topic and one queue, checks no message and makes no faults. `python -m benchmarks.fake_aws PORT keep`
delivers published messages to the queue. With `forget` in place of `keep` it accepts and drops them unread.

- `/calls` answers with the number of calls by action, and sets them to zero.
- `/down?1` answers 503 to every publish until `/down?0`.
- `/backlog?N` puts N packed visits into the queue.
"""

import asyncio
import json
import re
import sys
from collections import Counter
from collections.abc import Coroutine
from typing import Any

import uvloop

from benchmarks.sample import packed_spans
from tests.fake_aws.http import Connection, Reply, Request
from tests.fake_aws.protocol import Call, parse, success
from tests.fake_aws.queues import Sent
from tests.fake_aws.topics import Subscription
from tests.fake_aws.world import World

_ACCEPTED = success(Call("sns", "Publish", {}), {"MessageId": "00000000-0000-0000-0000-000000000000"})
_ENTRY_ID = re.compile(rb"&PublishBatchRequestEntries\.member\.[0-9]+\.Id=([^&]*)")
_DOWN = Reply(503, "text/xml", b"")


class Broker:
    """Answers all connections."""

    def __init__(self, *, keep: bool) -> None:
        redrive = json.dumps({"maxReceiveCount": 100, "deadLetterTargetArn": "arn:aws:sqs:us-east-1:0:dlq"})
        self._world = World(checks=False)
        self._queue = self._world.create_queue("visits", {"RedrivePolicy": redrive})
        self._keep = keep
        if keep:
            subscription = Subscription("arn", self._queue, raw=True, filter_policy={})
            self._world.create_topic("tracking").subscriptions.append(subscription)
        self._down = False
        self._calls: Counter[str] = Counter()
        self._offset = 0  # the end of the backlog in its journal

    def answer(self, request: Request) -> Reply | Coroutine[Any, Any, Reply]:
        if request.method == "GET":
            return Reply(200, "application/json", json.dumps(self._control(request.path)).encode())
        if not request.target and (self._down or not self._keep):
            return self._answer_unread(request.body)
        call = parse(request)
        self._calls[call.action] += 1
        return self._world.perform(call, request.base_url)

    def _answer_unread(self, form: bytes) -> Reply:
        """Accepts or fails a Publish or PublishBatch. It reads the ids of the entries and nothing else."""
        batch = form.startswith(b"Action=PublishBatch&")
        self._calls["PublishBatch" if batch else "Publish"] += 1
        if self._down:
            return _DOWN
        if not batch:
            return _ACCEPTED
        accepted = [{"Id": each.decode(), "MessageId": "0"} for each in _ENTRY_ID.findall(form)]
        return success(Call("sns", "PublishBatch", {}), {"Successful": accepted, "Failed": []})

    def _control(self, target: str) -> dict[str, int]:
        path, _, value = target.partition("?")
        if path == "/calls":
            calls, self._calls = dict(self._calls), Counter()
            return calls
        if path == "/down":
            self._down = value == "1"
        elif path == "/backlog":
            for message in packed_spans(int(value), self._offset):
                self._queue.send(Sent.of(message.body, message.attributes))
                self._offset = message.end
        return {}


async def _serve(port: int, *, keep: bool) -> None:
    broker, connections = Broker(keep=keep), set[Connection]()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(broker.answer, connections), "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(_serve(int(sys.argv[1]), keep=sys.argv[2] == "keep"))
