"""`tracker provision`: its command line, and what it prints. `tracker.operations.provision` does the work.

Exit status: with `--dry-run` 1 if anything would change. In both cases 1 if something is left that keeps visits away
and that is not provision's to change.

With `--shards N` there are N queues, each with a dead-letter queue and a subscription: `tracker.operations.shards`.
"""

import argparse
import asyncio
import re
from collections.abc import Sequence
from typing import Any

from tracker import exit_status
from tracker.aws import open_client
from tracker.core.queue_address import parse_queue
from tracker.errors import UsageError
from tracker.operations.lookups import find_topic, named_queue, subscriptions
from tracker.operations.provision import QUEUE, TOPIC, Change, Names, differences, provision
from tracker.operations.shard_checks import refuse_moves
from tracker.operations.shards import COUNTS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--region",
        metavar="REGION",
        help="default: that of the ARN or URL, or else the region of the AWS tools (AWS_REGION, the profile)",
    )
    parser.add_argument("--endpoint-url", metavar="URL", help="an SNS and SQS other than those of AWS")
    parser.add_argument("--topic", default=TOPIC, metavar="NAME", help=f"name or ARN; default: {TOPIC}")
    parser.add_argument("--queue", default=QUEUE, metavar="NAME", help=f"name, URL or ARN; default: {QUEUE}")
    parser.add_argument(
        "--dead-letter-queue",
        metavar="NAME",
        help="default: the one that the queue has, or else the queue's name with -dlq",
    )
    parser.add_argument(
        "--shards",
        type=int,
        choices=COUNTS,
        default=1,
        help="divide the journals among so many queues, NAME-0, NAME-1, ..., for as many storages; default: 1, "
        "which makes the queue NAME itself",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="only show what would change; the exit status is 1 if anything would"
    )


def run(options: argparse.Namespace) -> int:
    if options.shards > 1 and options.dead_letter_queue is not None:
        raise UsageError("--dead-letter-queue: each shard has its own, NAME-0-dlq; leave it out with --shards")
    names = Names(topic=options.topic, queue=options.queue, dead_letter_queue=options.dead_letter_queue)
    shards = names.shards(options.shards)
    queue = named_queue("--queue", options.queue)
    for each in shards if len(shards) > 1 else ():
        named_queue("--queue", f"{each.queue}-dlq")
    for option, name, longest in (
        ("--topic", options.topic.rpartition(":")[2] if options.topic.startswith("arn:") else options.topic, 256),
        ("--dead-letter-queue", options.dead_letter_queue, 80),
    ):
        if name is not None and not re.fullmatch(rf"[A-Za-z0-9_-]{{1,{longest}}}", name):
            raise UsageError(f"{option}: expected up to {longest} letters, digits, - and _, got {name!r}")
    if queue.name == options.dead_letter_queue:
        raise UsageError("--dead-letter-queue: expected another name than the queue's")
    return asyncio.run(_run(options, shards))


async def _run(options: argparse.Namespace, names: list[Names]) -> int:
    queue_region = options.region or named_queue("--queue", options.queue).region
    topic_region = options.topic.split(":")[3] if options.topic.startswith("arn:") else queue_region
    async with (
        open_client("sns", topic_region, options.endpoint_url) as sns,
        open_client("sqs", queue_region, options.endpoint_url) as sqs,
    ):
        await _refuse_other_shards(sns, names)
        if options.dry_run:
            found = [await differences(sns, sqs, each) for each in names]
            _show([change for changes, _ in found for change in changes], [text for _, left in found for text in left])
            return exit_status.FOUND if any(changes or left for changes, left in found) else exit_status.OK
        made = [await provision(sns, sqs, each) for each in names]
        region = sqs.meta.region_name
    left = [text for each in made for text in each.left]
    _show([change for each in made for change in each.changes], left)
    endpoint = f"\n  endpoint_url: {options.endpoint_url}" if options.endpoint_url else ""
    print(f"\n# pixel.yaml\nsns:\n  topic_arn: {made[0].topic_arn}{endpoint}")
    for each in names:
        print(f"# storage.yaml\nsqs:\n  queue: {each.queue}\n  region: {region}{endpoint}")
    return exit_status.FOUND if left else exit_status.OK


async def _refuse_other_shards(sns: Any, names: Sequence[Names]) -> None:
    """Raise TrackerError if the topic exists and gives visits of the queues with these names to other queues."""
    name = names[0].topic
    topic = name if name.startswith("arn:") else await find_topic(sns, name)
    if topic is not None:
        refuse_moves(await subscriptions(sns, topic), [parse_queue(each.queue).name for each in names])


def _show(changes: Sequence[Change], left: Sequence[str]) -> None:
    """Print each change once: in a dry run every shard needs the topic."""
    print("\n".join(dict.fromkeys(map(str, changes))) or "nothing to change")
    for text in dict.fromkeys(left):
        print(f"left to you: {text}")
