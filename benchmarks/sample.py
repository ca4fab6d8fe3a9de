"""Invented visits with realistic fields, and the spans and messages that the pixel would make of them."""

import itertools
import random
from collections.abc import Iterator
from functools import lru_cache

from tracker.core.message import MAX_SPAN_BYTES, Message, pack
from tracker.core.visit import encode_line, split_lines, visited_at_text

USER_AGENT = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/{}.0.0.0 Safari/537.36"
REFERRER = "https://www.example.com/articles/2026/11/{}?utm_source=newsletter"
ADDRESSES = 50_000  # more than any cache of the services holds
SPANS = 16  # different spans
JOURNAL = "0123456789abcdef" * 2
EPOCH_US = 1_795_417_764_932_706
STEP_US = 300


@lru_cache(maxsize=SPANS)
def span(number: int) -> bytes:
    """A span of the greatest length. Pages, browsers and addresses differ; the time grows from line to line."""
    random_address = random.Random(ADDRESSES)
    addresses = [".".join(str(random_address.randrange(1, 255)) for _ in range(4)) for _ in range(ADDRESSES)]
    chance = random.Random(number)
    lines: list[bytes] = []
    size = 0
    while size < MAX_SPAN_BYTES - 1_000:
        lines.append(
            encode_line(
                visited_at_text(EPOCH_US + STEP_US * (5_000 * number + len(lines))),
                REFERRER.format(chance.randrange(5_000)),
                USER_AGENT.format(chance.randrange(100, 140)),
                chance.choice(addresses),
            )
        )
        size += len(lines[-1])
    return b"".join(lines)


@lru_cache(maxsize=SPANS)
def _packed(number: int) -> Message:
    return pack(JOURNAL, 0, span(number), compress=True)


def packed_spans(visits: int, start: int = 0) -> Iterator[Message]:
    """The messages of `visits` visits of one journal from `start` on, in spans of the greatest length, without a gap.

    The lines repeat after `SPANS` spans. They are different visits, because each has another offset in the journal.
    """
    for number in itertools.cycle(range(SPANS)):
        whole = _packed(number)
        if visits < whole.visits:
            break
        attributes = whole.attributes | {"Start": str(start)}
        yield Message(JOURNAL, start, start + whole.end, whole.visits, whole.body, attributes)
        start += whole.end
        visits -= whole.visits
    if visits:
        yield pack(JOURNAL, start, b"".join(split_lines(span(number))[:visits]), compress=True)
