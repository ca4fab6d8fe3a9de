"""Checks of the queue's dead-letter queue: whether it exists, how soon messages go there, and how long they stay."""

from collections.abc import AsyncIterator
from typing import Any

from tracker.core.queue_address import parse_queue
from tracker.operations.findings import Finding, fault, ok, warning
from tracker.operations.lookups import find_queue
from tracker.operations.remedies import Setup
from tracker.operations.sent_messages import largest
from tracker.operations.wanted_settings import MAX_RECEIVE_COUNT, dead_letter_target, max_receive_count, number
from tracker.storage.dead_letters import FEWEST_RECEIVES


async def check_dead_letters(sqs: Any, attributes: dict[str, str], setup: Setup) -> AsyncIterator[Finding]:
    target = dead_letter_target(attributes.get("RedrivePolicy"))
    if target is None:
        yield warning(
            "dead letters",
            "the queue has no dead-letter queue",
            why="a message that cannot be read is delivered again and again, and is lost when the retention ends",
            fix=setup.provision,
        )
        return
    yield _receive_count(max_receive_count(attributes.get("RedrivePolicy")) or 0, setup)
    name = target.rpartition(":")[2]
    found = await find_queue(sqs, target)
    if found is None:
        yield fault(
            "dead letters",
            f"the dead-letter queue {name} does not exist",
            why="SQS cannot move messages that storage cannot read",
            fix=setup.provision,
        )
        return
    dead = found[1]
    queue = setup.sqs.queue if setup.sqs else attributes["QueueArn"]
    if waiting := number(dead, "ApproximateNumberOfMessages"):
        yield warning(
            "dead letters",
            f"about {waiting} messages are in {name}",
            why="they may be visits that are not in the log; they are lost when the retention ends",
            fix="look for message_malformed in storage's log, fix the cause, then: "
            + setup.redrive(queue, target if parse_queue(queue).account else name),
        )
    kept, kept_by_queue = number(dead, "MessageRetentionPeriod"), number(attributes, "MessageRetentionPeriod")
    if kept is not None and kept_by_queue is not None and kept < kept_by_queue:
        yield warning(
            "dead letters",
            f"{name} keeps messages for a shorter time than the queue",
            why="a message keeps its age when it is moved, so it may be deleted at once",
            fix=setup.provision,
        )
    limit = number(dead, "MaximumMessageSize")
    if limit is not None and limit < largest(setup.format):
        yield warning(
            "dead letters",
            f"{name} takes messages of {limit} bytes at most",
            why=f"the pixel sends up to {largest(setup.format)}: SNS cannot put larger ones there, and they are lost",
            fix=setup.provision,
        )


def _receive_count(count: int, setup: Setup) -> Finding:
    if count < FEWEST_RECEIVES:
        return warning(
            "dead letters",
            f"the queue moves messages to the dead-letter queue after {count} receives",
            why="each crash or stop of storage counts as one receive, so good visits are moved too",
            fix=f"set maxReceiveCount to {MAX_RECEIVE_COUNT}: {setup.provision}",
        )
    return ok("dead letters", f"messages are moved to the dead-letter queue after {count} receives")
