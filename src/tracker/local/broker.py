"""The local SNS and SQS: moto's server on loopback, in a process of its own, provisioned when it says it is ready.

It promises not to lose a message between a publish and a delete, which moto alone does not (see `serialise_queues`).
It keeps everything in memory and forgets it when it ends.
"""

import asyncio
import functools
import logging
import os
import signal
import threading
from collections.abc import Callable
from typing import Any

from tracker.errors import TrackerError
from tracker.local.ports import Wanted, check_free
from tracker.local.provision import provision_at

HOST = "127.0.0.1"
PORT = 4566
ACCOUNT = "000000000000"
REGION = "us-east-1"


class BrokerMissing(TrackerError):
    """moto is a development dependency; a production installation has none."""


def endpoint(port: int) -> str:
    return f"http://{HOST}:{port}"


def serve(port: int, *, until_stdin_closes: bool) -> None:
    """Serves until SIGINT or SIGTERM, or until stdin closes: then whoever started this process is gone."""
    os.environ["MOTO_ACCOUNT_ID"] = ACCOUNT
    try:
        from moto.server import ThreadedMotoServer
    except ImportError as error:
        raise BrokerMissing(
            f"the local broker needs moto, which is not installed ({error}); "
            "run it through `make run` or `make run-aws`, or: pip install 'moto[server]'"
        ) from error
    # moto's server waits for ever when it cannot have its port.
    check_free([Wanted(HOST, port, "the local broker", "--broker-port")])
    serialise_queues()
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # else a line a request

    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    server = ThreadedMotoServer(ip_address=HOST, port=port, verbose=False)
    server.start()
    made = asyncio.run(provision_at(endpoint(port), REGION))
    print(f"topic             {made.topic_arn}")
    print(f"queue             {made.queue_url}")
    print(f"dead-letter queue {made.dead_letter_queue_url}")
    print(f"ready at {endpoint(port)}, account {ACCOUNT}, region {REGION}", flush=True)

    if until_stdin_closes:
        threading.Thread(target=_when_stdin_closes, args=(ended.set,), daemon=True).start()
    ended.wait()
    # Its threads are daemons: a long poll that still waits ends with the process.
    server.stop()


def _when_stdin_closes(then: Callable[[], None]) -> None:
    while os.read(0, 4096):
        pass
    then()


def serialise_queues() -> None:
    """Makes moto's queues safe for the threads its own server uses.

    moto's delete copies the list of messages without the ones to delete and then puts the copy in its place; a message
    added in between is gone. A receive and a change of visibility walk the same list and its set of pending messages.
    Adding alone takes the queue's lock, `_messages_lock`. So the others take it too.

    That lock is a Condition over an RLock, and a long poll sleeps in that Condition's `wait`, which gives the lock up
    however often it is held. Taking it around a whole receive therefore covers each scan and none of the sleep.
    """
    from moto.sqs.models import SQSBackend

    for name in (
        "receive_message",
        "delete_message",
        "change_message_visibility",
        "purge_queue",
        "get_queue_attributes",  # so that visible and in-flight are counts of one instant
    ):
        operation = getattr(SQSBackend, name)
        if not hasattr(operation, "__wrapped__"):
            setattr(SQSBackend, name, _holding_the_queue(operation))


def _holding_the_queue(operation: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(operation)
    def held(backend: Any, queue_name: str, *args: Any, **kwargs: Any) -> Any:
        with backend.get_queue(queue_name)._messages_lock:
            return operation(backend, queue_name, *args, **kwargs)

    return held
