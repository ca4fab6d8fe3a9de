"""Shards: several queues of one topic, each with a storage of its own, among which the journals are divided.

1. The first hexadecimal digit of its id decides to which shard a journal belongs. With four shards, the first has the
   digits 0 to 3, the second 4 to 7, and so on. The ids are random, so the shards receive equal parts.
2. Each subscription has a filter for the digits of its shard. The first shard also receives what has no journal: the
   visits of the legacy .NET pixel.
3. A journal must never change its queue, because only the ledger of one storage knows what is stored of it. So the
   number of shards of a topic does not change. Another number needs another topic, and each outbox is published to one
   topic from its first byte to its last: docs/operations.md, "Changing the number of storages".

`refuse_moves` keeps `tracker provision` from giving a journal to another queue. `check_coverage` finds visits that
reach none or several of the queues. Both evaluate the filters as SNS does, so they also understand filters that
somebody else has written. Pure functions: nothing is asked here.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from tracker.core.message import JOURNAL_ID, end_marker, pack
from tracker.core.visit import encode_line
from tracker.errors import TrackerError
from tracker.operations.filter_policy import delivers
from tracker.operations.findings import Finding, fault, ok, unknown, warning
from tracker.operations.lookups import Subscription
from tracker.operations.verdicts import Unknown

COUNTS = (1, 2, 4, 8, 16)
DIGITS = "0123456789abcdef"
SECTION = 'docs/operations.md, "Changing the number of storages"'

_ID_LENGTH = 32
_LINE = encode_line("2026-11-24T10:00:00.000000+00:00", "https://example.com/", "Mozilla/5.0", "192.0.2.1")
_NO_JOURNAL = "visits without a journal"


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


def refuse_moves(subscriptions: Sequence[Subscription], wanted: Sequence[str]) -> None:
    """Raise TrackerError if journals that other queues receive now would be given to the shards with these names.

    A queue that receives all visits may get another one beside it: that is a second reader, and no shard. A single
    queue that is a shard already keeps its part.
    """
    kinds = {digit: _Kind(digit, subscriptions) for digit in DIGITS}
    moved: dict[str, str] = {}
    for position, (digit, kind) in enumerate(kinds.items()):
        shard = wanted[position * len(wanted) // len(DIGITS)]
        now = {_name(queue) for queue in kind.queues}
        if now and shard not in now:
            moved[digit] = ", ".join(sorted(now))
    all_share = len(wanted) > 1 or any(kind.queues != kinds["0"].queues for kind in kinds.values())
    if is_shard(subscriptions, wanted):
        return
    if moved and all_share:
        digits, queues = ", ".join(moved), ", ".join(sorted(set(moved.values())))
        raise TrackerError(
            f"the topic delivers the visits of journals that begin with {digits} to {queues}. Given to other queues, "
            "these journals would be known in part to two ledgers, and visits could be stored twice. To complete the "
            "shards of this topic, name them as they were made, with --queue and --shards. For another number of "
            f"shards, use a new topic: {SECTION}"
        )


def is_shard(subscriptions: Sequence[Subscription], wanted: Sequence[str]) -> bool:
    """Whether `wanted` is a single queue with a filter by journals."""
    return len(wanted) == 1 and any(
        each.is_confirmed
        and _name(each.queue_arn) == wanted[0]
        and '"Journal"' in each.settings.get("FilterPolicy", "")
        for each in subscriptions
    )


def check_coverage(subscriptions: Sequence[Subscription], provision: str = "tracker provision") -> Iterator[Finding]:
    """Whether each visit of a topic reaches exactly one of the queues that share its visits.

    `provision` is the command for the topic and one of its queues; in a remedy it names all shards.

    A queue that receives all visits is a reader of its own and shares them with nobody. Nothing is found where no
    queue receives a part of the visits only.
    """
    messages = [_Kind(prefix, subscriptions) for prefix in _prefixes(subscriptions)]
    for reason in sorted({each.undecided for each in messages if each.undecided}):
        yield unknown(
            "shards",
            f"it cannot be told which visits each queue receives: {reason}",
            fix=f"give the subscriptions the filters that `tracker provision --shards` sets: {SECTION}",
        )
    if any(each.undecided for each in messages):
        return
    queues = {queue for each in messages for queue in each.queues}
    everything = {queue for queue in queues if all(queue in each.queues for each in messages)}
    sharing = queues - everything
    if not sharing:
        return
    lost = [each.prefix for each in messages if not each.queues & sharing]
    twice = {
        (each.prefix, tuple(sorted(map(_name, each.queues & sharing))))
        for each in messages
        if len(each.queues & sharing) > 1
    }
    remedy = _remedy(provision, messages, sharing)
    if lost and not everything:
        yield fault(
            "shards",
            f"no queue receives {_journals(lost)}",
            why="SNS accepts these visits and delivers them to nobody: they are lost",
            fix=remedy or f"run tracker provision as when the shards were made; for another number see {SECTION}",
        )
    elif lost:
        yield warning(
            "shards",
            f"{_journals(lost)} reach {_names(everything)} and no other queue",
            why=f"{_names(everything)} receives all visits, {_names(sharing)} a part of them",
            fix=f"if several storages are to share the visits, see {SECTION}",
        )
    for queues_of_it in sorted({names for _, names in twice}):
        prefixes = [prefix for prefix, names in twice if names == queues_of_it]
        yield fault(
            "shards",
            f"each of {', '.join(queues_of_it)} receives {_journals(prefixes)}",
            why="their storages do not know each other's ledgers: these visits are in two logs",
            fix=remedy or "unsubscribe the queue that should not receive them from the topic",
        )
    if everything and not lost:
        yield warning(
            "shards",
            f"{_names(everything)} receives all visits, beside {_names(sharing)}, which share them",
            why="if a storage reads each of these queues, every visit is in two logs",
            fix=f"if it is left from before the topic was shared, see {SECTION}; otherwise count its visits apart",
        )
    if not lost and not twice and not everything:
        yield ok("shards", f"{len(sharing)} queues receive each visit once: {_names(sharing)}")


def _remedy(provision: str, messages: Sequence["_Kind"], sharing: set[str]) -> str | None:
    """The command that makes the shards again, if the names and the parts of the queues tell how they were made."""
    named = [re.fullmatch(r"(.+)-([0-9]+)", _name(queue)) for queue in sharing]
    bases = {each[1] if each else None for each in named}
    digits = Counter(queue for each in messages if len(each.prefix) == 1 for queue in each.queues & sharing)
    for count in COUNTS[1:]:
        share = len(DIGITS) // count
        if len(bases) == 1 and share in digits.values() and all(each and int(each[2]) < count for each in named):
            options = f"--queue {bases.pop()} --shards {count}"
            return re.sub(r" --queue \S+", "", provision).replace("provision", f"provision {options}", 1)
    return None


class _Kind:
    """The messages of all journals whose ids begin with `prefix`, or those without a journal ("" stands for them)."""

    def __init__(self, prefix: str, subscriptions: Sequence[Subscription]) -> None:
        self.prefix = prefix
        self.queues: set[str] = set()
        self.undecided = ""
        samples = list(_samples(prefix))
        for each in subscriptions:
            if not each.is_confirmed:
                continue
            if not each.settings:
                self.undecided = f"the filter of {_name(each.queue_arn)} cannot be read"
                return
            verdicts = [delivers(each.settings, attributes, body) for attributes, body in samples]
            for verdict in verdicts:
                if isinstance(verdict, Unknown):
                    self.undecided = f"{_name(each.queue_arn)}: {verdict.reason}"
                    return
            if any(verdicts) and not all(verdicts):
                self.undecided = f"{_name(each.queue_arn)} receives some messages of a journal and not the others"
                return
            if all(verdicts):
                self.queues.add(each.queue_arn)


def _samples(prefix: str) -> Iterator[tuple[dict[str, str], str]]:
    """Attributes and bodies of the messages that a journal has. The end of its id tells filters by suffix apart."""
    if not prefix:
        yield {"Type": "Visit"}, _LINE.decode()
        return
    for digit in DIGITS:
        journal = prefix.ljust(_ID_LENGTH, digit)
        for message in (
            pack(journal, 0, _LINE, compress=False),
            pack(journal, 0, _LINE * 100, compress=True),
            end_marker(journal, len(_LINE)),
        ):
            yield message.attributes, message.body


def _prefixes(subscriptions: Sequence[Subscription]) -> list[str]:
    """Prefixes that divide all journals into parts which no filter divides further, and "" for no journal.

    Every text in a filter that may be a part of an id counts as the beginning of one.
    """
    found = {""}
    for each in subscriptions:
        for text in _texts(each.settings.get("FilterPolicy", "")):
            if JOURNAL_ID.fullmatch(text.ljust(_ID_LENGTH, "0")):
                found |= {text[:length] for length in range(len(text))}
    return ["", *sorted(prefix + digit for prefix in found for digit in DIGITS if prefix + digit not in found)]


def _texts(policy: str) -> Iterator[str]:
    try:
        waiting: list[Any] = [json.loads(policy or "{}")]
    except ValueError:
        return  # `delivers` says so
    while waiting:
        value = waiting.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, dict | list):
            waiting += value.values() if isinstance(value, dict) else value


def _journals(prefixes: Sequence[str]) -> str:
    digits = sorted(filter(None, prefixes))
    said = [f"visits of journals that begin with {', '.join(digits)}"] if digits else []
    return " and ".join(said + [_NO_JOURNAL] * ("" in prefixes))


def _names(queue_arns: set[str]) -> str:
    return ", ".join(sorted(map(_name, queue_arns)))


def _name(queue_arn: str) -> str:
    return queue_arn.rpartition(":")[2]
