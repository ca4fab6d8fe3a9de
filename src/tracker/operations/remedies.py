"""What the checks of AWS share: the topic, the queue, and the commands that set them right, as one can paste them."""

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tracker.config import PixelConfig, SqsConfig, StorageConfig
from tracker.operations.lookups import Subscription


@dataclass
class Setup:
    """What the checks know of topic and queue.

    `queue` are the attributes of the queue, and `subscriptions` those of the topic, once they are known.
    """

    topic_arn: str = ""
    format: str = "packed"
    queue: dict[str, str] | None = None
    subscriptions: Sequence[Subscription] = ()
    sqs: SqsConfig | None = None
    provision: str = "tracker provision"
    place: str = ""
    """The options that say where the queue is: its Region and its endpoint."""
    outbox: str = "outbox.dir"
    """The directory of the pixel's outbox, as the configuration names it."""
    expects: Callable[[str], bool] | None = None
    """Whether the visits of a journal, given its id, should reach the queue; None while this is not known."""

    @property
    def keep_outbox(self) -> str:
        """What to do first when SNS has accepted visits that did not reach the queue."""
        return (
            f"first copy {self.outbox} (cp -a): it holds what was lost for an hour at most, and not after a reload or "
            "restart of the pixel; docs/operations.md, A gap, says how it comes back. Then: "
        )

    @property
    def repair(self) -> str:
        """The same, with the command that ends the loss."""
        return self.keep_outbox + self.provision

    def redrive(self, queue: str, dead_letter_queue: str) -> str:
        return f"tracker redrive {shlex.join(['--queue', queue, '--dead-letter-queue', dead_letter_queue])}{self.place}"


def setup_of(pixel: PixelConfig | None, storage: StorageConfig | None) -> Setup:
    """The setup of these two configurations."""
    topic_arn = pixel.sns.topic_arn if pixel else ""
    region = storage.sqs.client_region if storage else None
    endpoint = storage.sqs.client_endpoint if storage else pixel.sns.endpoint_url if pixel else None
    prefix: list[str] = []
    words: list[str] = []
    if pixel is not None:
        topic_region = topic_arn.split(":")[3]
        queue_account = storage.sqs.address.account if storage else None
        is_near = region in (None, topic_region) and queue_account in (None, topic_arn.split(":")[4])
        words += ["--topic", topic_arn.rpartition(":")[2] if is_near else topic_arn]
        region = region or topic_region
        if storage is not None and pixel.sns.endpoint_url != endpoint:
            # One option cannot name both. botocore takes them from variables.
            ends = {"SNS": pixel.sns.endpoint_url, "SQS": endpoint}
            prefix = [f"AWS_ENDPOINT_URL_{name}={shlex.quote(url)}" for name, url in ends.items() if url]
    if storage is not None:
        words += ["--queue", storage.sqs.queue]
    place = [*(["--region", region] if region else []), *(["--endpoint-url", endpoint] if endpoint else [])]
    options = place if not prefix else ["--region", region] if region else []
    return Setup(
        topic_arn=topic_arn,
        format=pixel.sns.format if pixel else "packed",
        sqs=storage.sqs if storage else None,
        provision=" ".join([*prefix, shlex.join(["tracker", "provision", *words, *options])]),
        place=f" {shlex.join(place)}" if place else "",
        outbox=pixel.outbox.dir if pixel else "outbox.dir",
    )
