"""The fake on ports of the loopback: a thread with an event loop, a port for SNS, one for SQS and one for the tests.

Each port refuses, cuts, hangs and holds by itself. A client that goes away takes its long poll with it.
"""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, Self, TypeVar

from tests.fake_aws.faults import AFTER, BEFORE, SLOW_SECONDS, Faults
from tests.fake_aws.http import Connection, Reply, Request
from tests.fake_aws.protocol import Call, parse, refusal
from tests.fake_aws.queues import AwsError, Queue
from tests.fake_aws.topics import Topic
from tests.fake_aws.world import World
from tests.ports import free_port

HOST = "127.0.0.1"
T = TypeVar("T")


class Endpoint:
    """One port of the fake. Public methods run in the tests' threads, the others in the thread of the event loop.

    While it is down, nothing listens on the port, and all connections are closed. A held call is not performed and gets
    no answer. When it is released, its connection is closed.
    """

    def __init__(self, fake: "FakeAws", faults: Faults) -> None:
        self.port = free_port()
        self.faults = faults
        self.calls: list[str] = []  # the actions that were performed
        self.held: list[str] = []
        self._fake = fake
        self._connections: set[Connection] = set()
        self._server: asyncio.Server | None = None
        self._hold: frozenset[str] | None = frozenset()  # None: all
        self._released = asyncio.Event()

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    def up(self) -> None:
        """Listens (again), and holds nothing."""
        self._fake.run(self._up)

    def down(self) -> None:
        """Refuses connections and cuts those that are open."""
        self._fake.run(self.close)

    def hold(self, *actions: str) -> None:
        """Holds these calls from now on; without names, all of them."""
        self._fake.run(lambda: self._hold_calls(actions))

    def release(self) -> None:
        """Closes the connections of the held and the hanging calls without an answer, and performs the next calls."""
        self._fake.run(self._release)

    def repair(self) -> None:
        """Remove all faults and listen again."""
        self.faults.clear()
        self.up()

    async def _up(self) -> None:
        await self._release()
        if self._server is None:
            loop = asyncio.get_running_loop()
            self._server = await loop.create_server(
                lambda: Connection(self._answer, self._connections), HOST, self.port, backlog=128
            )

    async def close(self) -> None:
        if self._server is not None:
            for listener in self._server.sockets:
                asyncio.get_running_loop().remove_reader(listener.fileno())
            for _ in range(4):  # asyncio loses a connection that was just accepted when its server is closed before
                await asyncio.sleep(0)
            self._server.close()
            self._server = None
        await self._release()
        for connection in list(self._connections):
            connection.cut()

    async def _hold_calls(self, actions: tuple[str, ...]) -> None:
        self._hold = frozenset(actions) if actions else None

    async def _release(self) -> None:
        self._hold = frozenset()
        self._released.set()
        self._released = asyncio.Event()

    async def _answer(self, request: Request) -> Reply | None:
        """None cuts the connection."""
        call = parse(request)
        if self._hold is None or call.action in self._hold:
            self.held.append(call.action)
            await self._released.wait()
            return None
        if self.faults.strikes("hang", call.action):
            await self._released.wait()
            return None
        if fault := self.faults.first(BEFORE, call.action):
            return _failure(call, fault)
        if self.faults.strikes("slow", call.action):
            await asyncio.sleep(SLOW_SECONDS)
        self.calls.append(call.action)
        reply = self._fake.world.perform(call, request.base_url)
        if not isinstance(reply, Reply):
            reply = await reply
        if fault := self.faults.first(AFTER, call.action):
            return _failure(call, fault)
        return reply


class FakeAws:
    """Both services, with one set of topics and queues. `seed` decides about faults of a chance below one."""

    def __init__(self, seed: int = 0) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fake-aws", daemon=True)
        self._thread.start()
        self.sns = Endpoint(self, Faults(seed))
        self.sqs = Endpoint(self, Faults(seed))
        self.door = Endpoint(self, Faults())  # for both services: the tests' own, where nothing ever goes wrong
        self.world = World(sns_faults=self.sns.faults, sqs_faults=self.sqs.faults)
        for endpoint in (self.sns, self.sqs, self.door):
            endpoint.up()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self.run(self._end)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def queue(self, name: str, do: Callable[[Queue], T]) -> T:
        """Does something with a queue, on the loop."""

        async def apply() -> T:
            return do(self.world.queues[name])

        return self.run(apply)

    def topic(self, arn: str, do: Callable[[Topic], T]) -> T:
        """Does something with a topic, on the loop."""

        async def apply() -> T:
            return do(self.world.topics[arn])

        return self.run(apply)

    def run(self, what: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Runs it on the loop."""
        return asyncio.run_coroutine_threadsafe(what(), self._loop).result(30)

    async def _end(self) -> None:
        for endpoint in (self.sns, self.sqs, self.door):
            await endpoint.close()
        for _ in range(2):  # what was cut learns of it in the next pass
            await asyncio.sleep(0)
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)


def _failure(call: Call, fault: str) -> Reply | None:
    if fault in ("cut", "lost_reply"):
        return None
    if fault == "throttle":
        return refusal(call, AwsError("Throttling" if call.service == "sns" else "RequestThrottled", "Rate exceeded"))
    return refusal(call, AwsError("InternalFailure", "The request processing has failed.", 500))
