"""Shards: several queues of one topic, each with a storage of its own, among which the journals are divided.

1. The first hexadecimal digit of its id decides to which shard a journal belongs. With four shards, the first has the
   digits 0 to 3, the second 4 to 7, and so on. The ids are random, so the shards receive equal parts.
2. Each subscription has a filter for the digits of its shard. The first shard also receives what has no journal: the
   visits of the legacy .NET pixel.
3. A journal must never change its queue, because only the ledger of one storage knows what is stored of it. So the
   number of shards of a topic does not change. Another number needs another topic, and each outbox is published to one
   topic from its first byte to its last: docs/operations.md, "Changing the number of storages".

`tracker.operations.shard_checks` checks that it is so. Pure functions: nothing is asked here.
"""

import json
from collections.abc import Sequence
from typing import Any

from tracker.core.message import pack
from tracker.operations.filter_policy import delivers
from tracker.operations.lookups import Subscription
from tracker.operations.sent_messages import SAMPLE_LINE, visits

COUNTS = (1, 2, 4, 8, 16)
DIGITS = "0123456789abcdef"


def queue_names(queue: str, count: int) -> list[str]:
    """The queues of `count` shards. A single one has the name `queue` itself."""
    return [queue] if count == 1 else [f"{queue}-{shard}" for shard in range(count)]


def filter_policy(shard: int, count: int) -> dict[str, Any]:
    """The filter for the subscription of one shard."""
    if count == 1:
        return {"Type": ["Visit"]}
    share = len(DIGITS) // count
    rules: list[dict[str, Any]] = [{"prefix": digit} for digit in DIGITS[shard * share : (shard + 1) * share]]
    return {"Type": ["Visit"], "Journal": rules + ([{"exists": False}] if shard == 0 else [])}


def is_shard(subscription: Subscription, others: Sequence[Subscription]) -> bool:
    """Whether the queue of this subscription is one of several that divide the journals.

    It is if `tracker provision --shards` sets this filter, also while the other shards are missing. A filter of another
    form makes a shard if another queue of the topic has a part of the journals, too.
    """
    policy = policy_of(subscription)
    made = any(policy == filter_policy(shard, count) for count in COUNTS[1:] for shard in range(count))
    return (made and subscription.is_confirmed) or (_takes_part(subscription) and any(map(_takes_part, others)))


def possible_queues(journal: str, subscriptions: Sequence[Subscription]) -> set[str]:
    """The ARNs of the queues that may receive the visits of a journal: all but those whose filters drop them."""
    message = pack(journal, 0, SAMPLE_LINE, compress=False)
    return {
        each.queue_arn
        for each in subscriptions
        if each.is_confirmed and delivers(each.settings, message.attributes, message.body) is not False
    }


def expects(queue_arn: str, subscriptions: Sequence[Subscription], journal: str) -> bool:
    """Whether the queue should receive the visits of a journal: it may, or no other queue does."""
    queues = possible_queues(journal, subscriptions)
    return queue_arn in queues or not queues


def _takes_part(subscription: Subscription) -> bool:
    """Whether the filter lets the visits of some journals through, and drops those of others."""
    if not subscription.is_confirmed or "Journal" not in subscription.settings.get("FilterPolicy", ""):
        return False
    verdicts = [delivers(subscription.settings, each.attributes, each.body) for each in visits("single")]
    return True in verdicts and False in verdicts


def policy_of(subscription: Subscription) -> Any:
    """The filter of a subscription; empty if it cannot be read, which `delivers` says."""
    try:
        return json.loads(subscription.settings.get("FilterPolicy") or "{}")
    except ValueError:
        return {}


def shards_of(subscriptions: Sequence[Subscription]) -> list[Subscription]:
    """Those of the subscriptions of a topic whose queues are shards."""
    return [
        each for at, each in enumerate(subscriptions) if is_shard(each, [*subscriptions[:at], *subscriptions[at + 1 :]])
    ]
