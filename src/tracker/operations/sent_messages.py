"""What the pixel sends, as samples: which of it does a filter let through, and which size must a queue accept?"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from tracker.core.message import MAX_SENT_BYTES, Message, end_marker, pack
from tracker.core.visit import MAX_HEADER_CHARS, encode_line
from tracker.operations.filter_policy import delivers
from tracker.operations.lookups import Subscription
from tracker.operations.verdicts import Unknown, Verdict, any_of

FORMATS = ("packed", "plain", "single")
ENVELOPE_BYTES = 4096  # raw delivery off: keys, attributes, signature and addresses around a body

_TIME = "2026-11-24T10:00:00.000000+00:00"
SAMPLE_LINE = encode_line(_TIME, "https://example.com/", "Mozilla/5.0", "192.0.2.1")
# The longest form has a character outside the first 65,536: \uXXXX twice. An address has at most 45 characters.
_LONGEST_LINE = encode_line(_TIME, "\U0001f600" * MAX_HEADER_CHARS, "\U0001f600" * MAX_HEADER_CHARS, "f" * 45)
_JOURNALS = [f"{start:02x}" * 16 for start in range(256)]


@dataclass(frozen=True)
class Sample:
    what: str
    attributes: Mapping[str, str]
    body: str


def visits(format: str) -> list[Sample]:
    """Messages with visits, of many journals: a filter may look at the first characters of a journal's id."""
    samples = [_sample("a single visit", pack(_JOURNALS[0], 0, SAMPLE_LINE, compress=False))]
    if format != "single":
        samples.append(
            _sample("a span of several visits", pack(_JOURNALS[0], 0, SAMPLE_LINE * 100, compress=format == "packed"))
        )
    return [_of_journal(sample, journal) for sample in samples for journal in _JOURNALS]


def end_markers(format: str) -> list[Sample]:
    if format == "single":
        return []
    marker = _sample("an end marker", end_marker(_JOURNALS[0], len(SAMPLE_LINE)))
    return [_of_journal(marker, journal) for journal in _JOURNALS]


LEGACY = Sample("a visit of the legacy .NET pixel", {"Type": "Visit"}, SAMPLE_LINE.decode())


def largest(format: str, *, raw: bool = True) -> int:
    """Bytes of the largest message that SQS is given. In an envelope, each character of the body may need two."""
    single = pack(_JOURNALS[0], 10**14, _LONGEST_LINE, compress=False).size
    size = single if format == "single" else MAX_SENT_BYTES
    if raw:
        return size
    return ENVELOPE_BYTES + (max(size, 2 * single) if format == "packed" else 2 * size)


def _sample(what: str, message: Message) -> Sample:
    return Sample(what, message.attributes, message.body)


def _of_journal(sample: Sample, journal: str) -> Sample:
    return Sample(sample.what, {**sample.attributes, "Journal": journal}, sample.body)


@dataclass(frozen=True)
class Reach:
    """Which samples the filter of one subscription lets through, and which no subscription of the topic does."""

    passed: list[Sample]
    dropped: list[Sample]
    lost: list[Sample]
    unknown: list[Unknown]


def reach(subscription: Subscription, others: Iterable[Subscription], samples: Sequence[Sample]) -> Reach:
    rest = [other for other in others if other.is_confirmed]
    result = Reach([], [], [], [])
    for sample in samples:
        verdict = _delivers(subscription, sample)
        if isinstance(verdict, Unknown):
            result.unknown.append(verdict)
        elif verdict:
            result.passed.append(sample)
        else:
            result.dropped.append(sample)
            elsewhere = any_of(_delivers(other, sample) for other in rest)
            if isinstance(elsewhere, Unknown):
                result.unknown.append(elsewhere)
            elif not elsewhere:
                result.lost.append(sample)
    return result


def keeps_visits(subscription: Subscription, others: Sequence[Subscription]) -> bool:
    """Whether a filter may stay as it is: nothing that a pixel sends is lost by it, as far as that can be told."""
    for format in FORMATS:
        found = reach(subscription, others, visits(format) + end_markers(format))
        if found.lost or not (found.passed or found.unknown):
            return False
    return True


def _delivers(subscription: Subscription, sample: Sample) -> Verdict:
    if not subscription.settings:
        return Unknown(f"the filter of {subscription.queue_arn}")
    return delivers(subscription.settings, sample.attributes, sample.body)
