"""The local SNS and SQS, and S3 for the archive: moto's server on loopback, in a process of its own.

1. It checks that its port is free.
2. It starts moto's server and creates the topic, the queues and the subscription in it, and a bucket if one is named.
3. It prints them, and then a line that begins with `ready `. The launcher waits for this line.
4. It ends on SIGINT or SIGTERM. Then everything is lost, because it is in memory.

No message is lost between a publish and a delete. moto alone may lose one: see `serialise_queues`.
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
from tracker.extras import how_to_install
from tracker.local.ports import Needed, check_free
from tracker.start import SIGNALS, imports_done

HOST = "127.0.0.1"
PORT = 4566
ACCOUNT = "000000000000"
REGION = "us-east-1"


class BrokerMissing(TrackerError):
    """moto is not installed. It is a dependency of `make run` and of the tests, not of the services."""


def endpoint(port: int) -> str:
    return f"http://{HOST}:{port}"


def serve(port: int, bucket: str | None = None) -> None:
    """Serve until SIGINT or SIGTERM. `environment.make_local` must have been called."""
    os.environ["MOTO_ACCOUNT_ID"] = ACCOUNT
    # aiohttp reads certificates when it is imported.
    from tracker.local.provision import make_bucket, provision_at

    try:
        from moto.server import ThreadedMotoServer
    except ImportError as error:
        raise BrokerMissing(
            f"the local broker needs moto, flask and flask-cors, which are not all installed ({error}); "
            f"{how_to_install('run')}"
        ) from error
    # moto's server waits for ever when its port is in use.
    check_free([Needed(HOST, port, "the local broker", "--port")])
    serialise_queues()
    imports_done()
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # it would log each request

    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)  # blocked since `start.prepare_service`
    server = ThreadedMotoServer(ip_address=HOST, port=port, verbose=False)
    server.start()
    made = asyncio.run(provision_at(endpoint(port), REGION))
    print(f"topic             {made.topic_arn}")
    print(f"queue             {made.queue_url}")
    print(f"dead-letter queue {made.dead_letter_queue_url}")
    if bucket is not None:
        asyncio.run(make_bucket(endpoint(port), REGION, bucket))
        print(f"bucket            {bucket}")
    print(f"ready at {endpoint(port)}, account {ACCOUNT}, region {REGION}", flush=True)
    ended.wait()
    # A long poll may still be waiting. Its thread is a daemon thread, so it ends with the process.
    server.stop()


def serialise_queues() -> None:
    """Make moto's queues safe for the threads of its own server.

    moto deletes messages by making a new list without them and putting it in the place of the old one. A message that
    another thread adds in between is lost. A receive and a change of visibility read the same list and its set of
    pending messages. Only adding takes the queue's lock, `_messages_lock`. Here the other operations take it too.

    That lock is a Condition over an RLock. A long poll sleeps in the Condition's `wait`, which releases the lock, also
    when it is held twice. So a receive holds the lock during each scan and not while it sleeps.
    """
    from moto.sqs.models import SQSBackend

    for name in (
        "receive_message",
        "delete_message",
        "change_message_visibility",
        "purge_queue",
        "get_queue_attributes",  # so that all its counts are of the same moment
    ):
        operation = getattr(SQSBackend, name)
        if not hasattr(operation, "__wrapped__"):
            setattr(SQSBackend, name, _with_queue_lock(operation))


def _with_queue_lock(operation: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(operation)
    def locked(backend: Any, queue_name: str, *args: Any, **kwargs: Any) -> Any:
        with backend.get_queue(queue_name)._messages_lock:
            return operation(backend, queue_name, *args, **kwargs)

    return locked
