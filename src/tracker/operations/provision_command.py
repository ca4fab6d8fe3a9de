"""`tracker provision`: its command line, and what it prints. `tracker.operations.provision` does the work.

Exit status: with `--dry-run` 1 if anything would change. In both cases 1 if something is left that keeps visits away
and that is not provision's to change.
"""

import argparse
import asyncio
import re

from tracker import exit_status
from tracker.aws import open_client
from tracker.errors import UsageError
from tracker.operations.lookups import named_queue
from tracker.operations.provision import QUEUE, TOPIC, Names, differences, provision


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
        "--dry-run", action="store_true", help="only show what would change; the exit status is 1 if anything would"
    )


def run(options: argparse.Namespace) -> int:
    queue = named_queue("--queue", options.queue)
    for option, name, longest in (
        ("--topic", options.topic.rpartition(":")[2] if options.topic.startswith("arn:") else options.topic, 256),
        ("--dead-letter-queue", options.dead_letter_queue, 80),
    ):
        if name is not None and not re.fullmatch(rf"[A-Za-z0-9_-]{{1,{longest}}}", name):
            raise UsageError(f"{option}: expected up to {longest} letters, digits, - and _, got {name!r}")
    if queue.name == options.dead_letter_queue:
        raise UsageError("--dead-letter-queue: expected another name than the queue's")
    return asyncio.run(_run(options))


async def _run(options: argparse.Namespace) -> int:
    names = Names(topic=options.topic, queue=options.queue, dead_letter_queue=options.dead_letter_queue)
    queue_region = options.region or named_queue("--queue", options.queue).region
    topic_region = options.topic.split(":")[3] if options.topic.startswith("arn:") else queue_region
    async with (
        open_client("sns", topic_region, options.endpoint_url) as sns,
        open_client("sqs", queue_region, options.endpoint_url) as sqs,
    ):
        if options.dry_run:
            changes, left = await differences(sns, sqs, names)
            _show([*map(str, changes)], left)
            return exit_status.FOUND if changes or left else exit_status.OK
        made = await provision(sns, sqs, names)
        region = sqs.meta.region_name
    _show([*map(str, made.changes)], made.left)
    endpoint = f"\n  endpoint_url: {options.endpoint_url}" if options.endpoint_url else ""
    print(f"\n# pixel.yaml\nsns:\n  topic_arn: {made.topic_arn}{endpoint}")
    print(f"# storage.yaml\nsqs:\n  queue: {options.queue}\n  region: {region}{endpoint}")
    return exit_status.FOUND if made.left else exit_status.OK


def _show(changes: list[str], left: list[str]) -> None:
    print("\n".join(changes) or "nothing to change")
    for text in left:
        print(f"left to you: {text}")
