"""`tracker redrive`: puts what is in the dead-letter queue back into the queue, message by message.

Promise: no message is lost. It is deleted from the dead-letter queue only after the queue has taken its copy, body and
attributes as they were; a redrive that is killed in between leaves a message in both, and storage cuts the repeat by
its journal and offset. It ends when the dead-letter queue is empty; what cannot be read even now comes back to it.

SQS's own StartMessageMoveTask does the same at AWS. This one also takes what SNS itself put there, and works anywhere.
"""

import argparse
import asyncio
from typing import Any

from tracker.aws import BATCH_BYTES, BATCH_ENTRIES, ask, open_client
from tracker.errors import TrackerError, UsageError
from tracker.operations.provision import DEAD_LETTER_QUEUE, QUEUE, queue_url

HIDDEN_SECONDS = 60  # longer than a batch may take: two calls
WAIT_SECONDS = 2  # a long poll asks all of SQS's servers, a short one some


async def redrive(sqs: Any, *, source: str, target: str, most: int | None = None) -> int:
    """Move up to `most` messages between two queues, named by their URLs; how many were moved."""
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
    taken = {entry["Id"] for entry in sent.get("Successful", ())}
    entries = [
        {"Id": str(index), "ReceiptHandle": message["ReceiptHandle"]}
        for index, message in enumerate(messages)
        if str(index) in taken
    ]
    if entries:
        await ask(sqs.delete_message_batch(QueueUrl=source, Entries=entries))
    if len(taken) < len(messages):
        reasons = {str(entry.get("Message") or entry.get("Code")) for entry in sent.get("Failed", ())}
        raise TrackerError(f"{len(messages) - len(taken)} messages stay where they are: {'; '.join(sorted(reasons))}")
    return len(messages)


def _groups(messages: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Batches that stay within the 256 KiB that every SQS takes in one call."""
    groups: list[list[dict[str, Any]]] = []
    room = 0
    for message in messages:
        size = len(message["Body"].encode()) + len(repr(message.get("MessageAttributes", {})))
        if not groups or size > room:
            groups.append([])
            room = BATCH_BYTES
        groups[-1].append(message)
        room -= size
    return groups


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--region", metavar="REGION", help="default: as the AWS tools find it")
    parser.add_argument("--endpoint-url", metavar="URL", help="another SQS than that of AWS")
    parser.add_argument("--queue", default=QUEUE, metavar="NAME", help=f"name or URL; default: {QUEUE}")
    parser.add_argument(
        "--dead-letter-queue",
        default=DEAD_LETTER_QUEUE,
        metavar="NAME",
        help=f"name or URL; default: {DEAD_LETTER_QUEUE}",
    )
    parser.add_argument("--most", type=int, metavar="COUNT", help="stop after so many messages; try 1 first")


def run(options: argparse.Namespace) -> int:
    return asyncio.run(_run(options))


async def _run(options: argparse.Namespace) -> int:
    async with open_client("sqs", options.region, options.endpoint_url) as sqs:
        urls = {}
        for option, name in (("--dead-letter-queue", options.dead_letter_queue), ("--queue", options.queue)):
            if (url := await queue_url(sqs, name)) is None:
                raise TrackerError(f"{option}: the queue {name} does not exist in this account and region")
            urls[option] = url
        if len(set(urls.values())) == 1:
            raise UsageError("--dead-letter-queue: expected another queue than --queue")
        moved = await redrive(sqs, source=urls["--dead-letter-queue"], target=urls["--queue"], most=options.most)
    print(f"{moved} messages moved from {options.dead_letter_queue} to {options.queue}")
    return 0
