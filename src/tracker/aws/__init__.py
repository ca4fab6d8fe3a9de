"""SNS and SQS as the services see them: `Topic` takes messages, `SqsQueue` gives deliveries. botocore stops here.

`topic` and `queue` make the calls by `calls`; `clients` makes botocore's clients, with `credential_helper` and `http`.
Every failure of AWS is one of the errors of `tracker.errors`. Only one repetition of a call is botocore's; the callers
deal with outages of any length, by trying again with a growing pause.
"""

from tracker.aws.calls import ask, incomplete_reply, open_client
from tracker.aws.queue import SqsQueue, open_queue
from tracker.aws.topic import BATCH_BYTES, Topic, open_topic

__all__ = [
    "BATCH_BYTES",
    "SqsQueue",
    "Topic",
    "ask",
    "incomplete_reply",
    "open_client",
    "open_queue",
    "open_topic",
]
