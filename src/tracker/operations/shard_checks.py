"""Checks that the shards of a topic divide its journals, and that no journal is given to another queue.

`refuse_moves` keeps `tracker provision` from giving a journal to another queue. `check_coverage` finds visits that
reach none or several of the queues. Both evaluate the filters as SNS does, so they also understand filters that
somebody else has written. `other_queues` says where the visits of one journal go. Pure functions: nothing is asked.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from tracker.core.message import JOURNAL_ID, end_marker, pack
from tracker.errors import TrackerError
from tracker.operations.filter_policy import delivers
from tracker.operations.findings import Finding, fault, ok, unknown, warning
from tracker.operations.lookups import Subscription
from tracker.operations.sent_messages import SAMPLE_LINE
from tracker.operations.shards import COUNTS, DIGITS, policy_of, possible_queues, shards_of
from tracker.operations.verdicts import Unknown

SECTION = 'docs/operations.md, "Changing the number of storages"'

SHOWN = 16  # beginnings of ids
_ID_LENGTH = 32
_NO_JOURNAL = "visits without a journal"


def refuse_moves(subscriptions: Sequence[Subscription], wanted: Sequence[str]) -> None:
    """Raise TrackerError if journals that other queues receive now would be given to the shards with these names.

    A queue that receives all visits may get another one beside it: that is a second reader, and no shard. A single
    queue that is a shard already keeps its part.
    """
    if len(wanted) == 1 and wanted[0] in [_name(each.queue_arn) for each in shards_of(subscriptions)]:
        return
    kinds = {digit: _Kind(digit, subscriptions) for digit in DIGITS}
    moved: dict[str, str] = {}
    for position, (digit, kind) in enumerate(kinds.items()):
        shard = wanted[position * len(wanted) // len(DIGITS)]
        now = {_name(queue) for queue in kind.queues}
        if now and shard not in now:
            moved[digit] = ", ".join(sorted(now))
    all_share = len(wanted) > 1 or any(kind.queues != kinds["0"].queues for kind in kinds.values())
    if moved and all_share:
        digits, queues = ", ".join(moved), ", ".join(sorted(set(moved.values())))
        raise TrackerError(
            f"the topic delivers the visits of journals that begin with {digits} to {queues}. Given to other queues, "
            "these journals would be known in part to two ledgers, and visits could be stored twice. To complete the "
            "shards of this topic, name them as they were made, with --queue and --shards. For another number of "
            f"shards, use a new topic: {SECTION}"
        )


def check_coverage(subscriptions: Sequence[Subscription], provision: str, *, first: str = "") -> Iterator[Finding]:
    """Whether each visit of a topic reaches exactly one of the queues that share its visits.

    `provision` is the command for the topic and one of its queues; in a remedy it names all shards.
    `first` is what to do before a loss is ended.

    A queue that receives all visits is a reader of its own and shares them with nobody. Nothing is found where no
    queue is a shard.
    """
    if not shards_of(subscriptions):
        return
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
    only_legacy = lost == [""]
    if only_legacy:
        lost = []
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
            fix=first
            + (remedy or f"run tracker provision as when the shards were made; for another number see {SECTION}"),
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
        but = ", but none of a legacy .NET pixel" if only_legacy else ""
        yield ok("shards", f"{len(sharing)} queues receive each visit once{but}: {_names(sharing)}")


def other_queues(journal: str, queue_arn: str, subscriptions: Sequence[Subscription]) -> str:
    """The names of the queues to which the visits of a journal go; empty if they may go to the queue `queue_arn`."""
    queues = possible_queues(journal, subscriptions)
    return "" if queue_arn in queues else _names(queues)


def _remedy(provision: str, messages: Sequence["_Kind"], sharing: set[str]) -> str | None:
    """The command that makes the shards again, if the names and the parts of the queues tell how they were made."""
    named = [re.fullmatch(r"(.+)-([0-9]+)", _name(queue)) for queue in sharing]
    bases = {each[1] if each else None for each in named}
    digits = Counter(queue for each in messages if len(each.prefix) == 1 for queue in each.queues & sharing)
    for count in COUNTS[1:]:
        share = len(DIGITS) // count
        if len(bases) == 1 and share in digits.values() and all(each and int(each[2]) < count for each in named):
            return re.sub(r"( --queue \S*?)[\w-]+(?= |$)", rf"\1{bases.pop()} --shards {count}", provision)
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
        yield {"Type": "Visit"}, SAMPLE_LINE.decode()
        return
    for digit in DIGITS:
        journal = prefix.ljust(_ID_LENGTH, digit)
        for message in (
            pack(journal, 0, SAMPLE_LINE, compress=False),
            pack(journal, 0, SAMPLE_LINE * 100, compress=True),
            end_marker(journal, len(SAMPLE_LINE)),
        ):
            yield message.attributes, message.body


def _prefixes(subscriptions: Sequence[Subscription]) -> list[str]:
    """Prefixes that divide all journals into parts which no filter divides further, and "" for no journal.

    Every text in a filter that may be a part of an id counts as the beginning of one.
    """
    found = {""}
    for each in subscriptions:
        for text in _texts(policy_of(each)):
            if JOURNAL_ID.fullmatch(text.ljust(_ID_LENGTH, "0")):
                found |= {text[:length] for length in range(len(text))}
    return ["", *sorted(prefix + digit for prefix in found for digit in DIGITS if prefix + digit not in found)]


def _texts(policy: Any) -> Iterator[str]:
    waiting = [policy]
    while waiting:
        value = waiting.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, dict | list):
            waiting += value.values() if isinstance(value, dict) else value


def _journals(prefixes: Sequence[str]) -> str:
    digits = sorted(filter(None, prefixes))
    more = f" and {len(digits) - SHOWN} other beginnings" if len(digits) > SHOWN else ""
    said = [f"visits of journals that begin with {', '.join(digits[:SHOWN])}{more}"] if digits else []
    return " and ".join(said + [_NO_JOURNAL] * ("" in prefixes))


def _names(queue_arns: set[str]) -> str:
    return ", ".join(sorted(map(_name, queue_arns)))


def _name(queue_arn: str) -> str:
    return queue_arn.rpartition(":")[2]
