"""The fake of SNS and SQS of the tests, as a process that takes as little CPU time as possible from what is measured.

It has one topic and one queue, checks no message and makes no faults. `python -m benchmarks.fake_aws PORT keep`
delivers published messages to the queue. With `forget` in place of `keep` it accepts and drops them unread.

- `/calls` answers with the number of calls by action, and sets them to zero.
- `/down?1` answers 503 to every publish until `/down?0`.
- `/backlog?N` puts N packed visits into the queue.
"""

import asyncio
import json
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
        if not request.target:
            self._calls["Publish"] += 1
            if self._down or not self._keep:
                return _DOWN if self._down else _ACCEPTED
            return self._world.perform(parse(request), request.base_url)
        call = parse(request)
        self._calls[call.action] += 1
        return self._world.perform(call, request.base_url)

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
