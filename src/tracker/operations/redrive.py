"""`tracker redrive`: moves the messages of the dead-letter queue back into the queue.

1. It receives at most ten messages from the dead-letter queue.
2. It sends copies of them, with the same bodies and attributes, to the queue.
3. It deletes those whose copy SQS has accepted from the dead-letter queue. So no message is lost.
4. It begins again, until the dead-letter queue is empty.

If it is killed between steps 2 and 3, a message is in both queues. Storage stores its visits once, because it
recognises them by journal and offset. If storage still cannot read a message, SQS moves it to the dead-letter queue
again.

SQS's own StartMessageMoveTask moves only messages that SQS itself has put into the dead-letter queue. This command also
moves those that SNS has put there, and it works with every SQS. Of several queues, one that fails does not stop the
others; the exit status is 3.
"""

import argparse
import asyncio
import os
from pathlib import Path
from typing import Any

from tracker import exit_status
from tracker.aws import BATCH_BYTES, ask, open_client
from tracker.config import SqsConfig, load_storage
from tracker.core.delivery import BATCH_ENTRIES
from tracker.errors import AwsRefused, TrackerError, UsageError
from tracker.operations.lookups import named_queue, queue_attributes, queue_url
from tracker.operations.provision import DEAD_LETTER_QUEUE, QUEUE
from tracker.operations.wanted_settings import dead_letter_target, number

HIDDEN_SECONDS = 60  # longer than the two calls for a batch may take
WAIT_SECONDS = 2  # a long poll asks all servers of SQS; a poll without a wait asks only some


async def redrive(sqs: Any, *, source: str, target: str, most: int | None = None) -> int:
    """Move at most `most` messages between two queues, given by their URLs; returns how many were moved."""
    moved = 0
    while most is None or moved < most:
        count = BATCH_ENTRIES if most is None else min(BATCH_ENTRIES, most - moved)
        reply = await ask(
            sqs.receive_message(
                QueueUrl=source,
                MaxNumberOfMessages=count,
                WaitTimeSeconds=WAIT_SECONDS,
                VisibilityTimeout=HIDDEN_SECONDS,
                MessageAttributeNames=["All"],
            )
        )
        messages = reply.get("Messages", [])
        if not messages:
            break
        for group in _groups(messages):
            moved += await _move(sqs, source, target, group)
    return moved


async def _move(sqs: Any, source: str, target: str, messages: list[dict[str, Any]]) -> int:
    copies = [
        {
            "Id": str(index),
            "MessageBody": message["Body"],
            "MessageAttributes": {
                name: {key: value[key] for key in ("DataType", "StringValue", "BinaryValue") if key in value}
                for name, value in message.get("MessageAttributes", {}).items()
            },
        }
        for index, message in enumerate(messages)
    ]
    sent = await ask(sqs.send_message_batch(QueueUrl=target, Entries=copies))
    accepted = {entry["Id"] for entry in sent.get("Successful", ())}
    entries = [
        {"Id": str(index), "ReceiptHandle": message["ReceiptHandle"]}
        for index, message in enumerate(messages)
        if str(index) in accepted
    ]
    if entries:
        await ask(sqs.delete_message_batch(QueueUrl=source, Entries=entries))
    if len(accepted) < len(messages):
        reasons = {str(entry.get("Message") or entry.get("Code")) for entry in sent.get("Failed", ())}
        raise TrackerError(
            f"{len(messages) - len(accepted)} messages stay in the dead-letter queue: {'; '.join(sorted(reasons))}"
        )
    return len(messages)


def _groups(messages: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """The messages in batches of at most 256 KiB, which every SQS accepts in one call."""
    groups: list[list[dict[str, Any]]] = []
    left = 0
    for message in messages:
        size = len(message["Body"].encode()) + len(repr(message.get("MessageAttributes", {})))
        if not groups or size > left:
            groups.append([])
            left = BATCH_BYTES
        groups[-1].append(message)
        left -= size
    return groups


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--region",
        metavar="REGION",
        help="default: that of the ARNs or URLs, or else the region of the AWS tools (AWS_REGION, the profile)",
    )
    parser.add_argument("--endpoint-url", metavar="URL", help="an SQS other than that of AWS")
    parser.add_argument("--queue", metavar="NAME", help=f"name, URL or ARN; default: {QUEUE}")
    parser.add_argument("--dead-letter-queue", metavar="NAME", help=f"name, URL or ARN; default: {DEAD_LETTER_QUEUE}")
    parser.add_argument(
        "--config",
        type=Path,
        nargs="+",
        action="extend",
        default=[],
        metavar="FILE",
        help="storages' configurations, in place of the options above; each queue knows its own dead-letter queue",
    )
    parser.add_argument("--most", type=int, metavar="COUNT", help="move at most this many messages; try 1 first")


def run(options: argparse.Namespace) -> int:
    given = (options.region, options.endpoint_url, options.queue, options.dead_letter_queue)
    if options.config and any(each is not None for each in given):
        raise UsageError("expected --config, or the queues, their region and endpoint, not both")
    return asyncio.run(_run(options))


async def _run(options: argparse.Namespace) -> int:
    queues = [load_storage(file, os.environ).sqs for file in options.config] or [_named(options)]
    dead = None if options.config else options.dead_letter_queue or DEAD_LETTER_QUEUE
    left = options.most
    status = exit_status.OK
    for each in queues:
        try:
            moved = await _redrive_one(each, dead, left)
        except TrackerError as error:
            if len(queues) == 1 or isinstance(error, UsageError):
                raise
            exit_status.print_error(f"tracker: {each.queue}: {error}")
            status = exit_status.COULD_NOT_LOOK
        else:
            left = None if left is None else left - moved
    return status


async def _redrive_one(config: SqsConfig, dead: str | None, most: int | None) -> int:
    """Redrive one queue, from its own dead-letter queue or the one named `dead`. Returns how many were moved."""
    async with open_client("sqs", config.client_region, config.client_endpoint) as sqs:
        name = dead or await _dead_letter_queue(sqs, await _existing(sqs, "--config", config.queue))
        source = await _existing(sqs, "--dead-letter-queue", name)
        target = await _existing(sqs, "--queue", config.queue)
        if source == target:
            raise UsageError("--dead-letter-queue: expected another queue than --queue")
        moved = await redrive(sqs, source=source, target=target, most=most)
        hidden = 0 if moved or most == 0 else await _in_flight(sqs, source)
    print(f"{moved} messages moved from {name} to {config.queue}")
    if hidden:
        print(f"about {hidden} more are in flight, because somebody has received them: repeat the command in a minute")
    return moved


async def _in_flight(sqs: Any, url: str) -> int:
    """How many messages of a queue are hidden from this command; 0 if these credentials may not ask."""
    try:
        return number(await queue_attributes(sqs, url), "ApproximateNumberOfMessagesNotVisible") or 0
    except AwsRefused:
        return 0


def _named(options: argparse.Namespace) -> SqsConfig:
    """The queue that the options name, in the Region of the queues. Raises UsageError if they are in two Regions."""
    queue = options.queue or QUEUE
    given = (("--queue", queue), ("--dead-letter-queue", options.dead_letter_queue or DEAD_LETTER_QUEUE))
    regions = {address.region for address in (named_queue(*each) for each in given) if address.region}
    if len(regions) > 1:
        raise UsageError(f"--dead-letter-queue: expected a queue in the queue's Region, got {' and '.join(regions)}")
    return SqsConfig(queue, options.region or next(iter(regions), None), options.endpoint_url)


async def _existing(sqs: Any, option: str, name: str) -> str:
    if (url := await queue_url(sqs, name)) is None:
        raise TrackerError(f"{option}: the queue {name} does not exist in this account and region")
    return url


async def _dead_letter_queue(sqs: Any, url: str) -> str:
    """The ARN of the dead-letter queue that a queue's own setting names."""
    target = dead_letter_target((await queue_attributes(sqs, url)).get("RedrivePolicy"))
    if target is None:
        raise TrackerError(f"the queue {url} has no dead-letter queue")
    return target
