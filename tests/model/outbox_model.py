"""One journal of the outbox, its maker and the publisher, killed at every step.

The maker, a worker, appends the visits a, b, c and answers each once its line is written; a segment holds two lines.
The publisher, in main, looks for whole lines behind the committed offset, publishes them, notes the offset, and
removes segments; when the maker is gone it takes the lock, sends the end marker and removes the journal. SNS and
storage are one: what is accepted is cut by its offsets against what is stored. What SNS refuses is tried again, and is
set aside in a file once SNS has accepted something else since, in a call that began after the refusal. What may befall:
SIGKILL of the worker, also amid a write, and of main; a publish whose reply is lost; a short write; a cut of it that
fails; a topic that refuses everything for a while; a visit, b, that SNS refuses for good.

Not here: a power cut, for what it may take is bounded by time, not by order; and rule 1's look at the path after
taking a lock, which guards against a second publisher, while here is one.

    lost        an answered visit is stored, in a segment, or set aside
    given up    nothing is set aside that SNS would accept from a topic that is well
    twice       no visit is stored twice
    malformed   nothing is published but whole lines
    unended     a removed journal has said where it ended, and that is where its lines ended
    stuck       from everywhere all answered visits can be stored and the journal removed
"""

from collections.abc import Iterator
from typing import NamedTuple

RULES = {
    "1": "a journal is adopted only when its lock is free",
    "1a": "a journal is finished only when nothing waited in a look that came after its adoption",
    "2": "nobody appends to a journal but its maker",
    "2a": "offsets come from the segments' names, not from summed sizes",
    "3": "a short write is cut back to the last whole line",
    "3a": "a journal whose cut failed is sealed",
    "3b": "the publisher reads to the last newline only",
    "4": "the committed offset moves only once SNS has accepted what is before it",
    "4a": "a segment goes only once all of it is published",
    "4b": "the end marker is accepted before the last segment goes",
    "7": "a span is set aside only when SNS has accepted something else since it refused the span",
    "7a": "what is set aside is durable before the journal moves on",
}
VISITS = "abc"
SEGMENT = 4  # bytes: two lines

Moves = Iterator[tuple[str, "State"]]


class State(NamedTuple):
    # the maker, and the files
    maker: str = "appends"  # or "torn", with a short write to cut back; "sealed"; "dead"
    asked: str = ""  # visits so far
    answered: str = ""
    segments: tuple[tuple[int, str], ...] = ((0, ""),)  # the offset that is their name, and their lines
    noted: int = 0  # the committed offset, in its file
    removed: bool = False
    # the publisher
    # "holds" a span; "refused", that span; "aside", that span is in the file; "moved" on, though it is not;
    # "empty", nothing waited; "closed", the end marker is out; "dead"
    main: str = "looks"
    adopted: bool = False
    orphan: bool = False  # whether it was adopted before the last look
    published: int = 0
    span: tuple[int, str] = (0, "")
    evidence: bool = False  # whether SNS has accepted something else since it refused the span
    aside: str = ""  # visits in the file
    given_up: bool = False  # whether a span without b was set aside
    # SNS, SQS, storage
    stored: tuple[tuple[int, str], ...] = ()  # offsets and visits
    ended: int = -1
    malformed: bool = False
    refuses_all: bool = False
    refuses_b: bool = False
    # faults left
    kills: int = 1
    main_kills: int = 1
    lost_replies: int = 1
    short: int = 1
    cut_failures: int = 1
    topic_faults: int = 1


class Outbox:
    def __init__(self, without: str = "") -> None:
        self.without = without

    def start(self) -> State:
        return State()

    def steps(self, s: State) -> Moves:
        yield from self._make(s)
        if s.refuses_all:
            yield "the topic's permissions are corrected", s._replace(refuses_all=False)
        if s.main == "dead":
            yield "main starts", s._replace(main="looks", published=s.noted)
        elif not s.removed:
            yield from self._publish(s)

    def _make(self, s: State) -> Moves:
        if s.maker == "appends":
            if len(s.asked) < len(VISITS):
                visit = VISITS[len(s.asked)]
                yield f"append {visit}", _asked(s, visit + ".")._replace(answered=s.answered + visit)
            yield "the worker ends", s._replace(maker="dead")
        elif s.maker == "torn":
            if self.without == "3":
                yield "leave the short write", s._replace(maker="appends")
            else:
                start, text = s.segments[-1]
                yield "cut", s._replace(maker="appends", segments=(*s.segments[:-1], (start, text[:-1])))
        elif s.maker == "sealed":
            yield "the worker ends", s._replace(maker="dead")
        elif s.maker == "dead" and self.without == "2" and len(s.asked) < len(VISITS):
            yield "another worker goes on with the journal", s._replace(maker="appends")

    def _publish(self, s: State) -> Moves:
        if not s.adopted and (s.maker == "dead" or self.without == "1"):
            yield "record_log", s._replace(adopted=True)
        if s.main in ("looks", "empty"):
            start, text = span = self._look(s)
            main = "holds" if text else "empty"
            yield f"look: {text or 'nothing'}", s._replace(main=main, span=span, orphan=s.adopted)
        if s.main == "holds":
            start, text = s.span
            if self.without == "4" and s.published <= start:
                yield "note the offset first", _advanced(s, start + len(text))
            if _is_refused(s):
                yield f"publish {text}: refused", s._replace(main="refused", evidence=False)
            else:
                yield f"publish {text}", self._advance(_accepted(s), start + len(text))._replace(main="looks")
        if s.main in ("refused", "aside", "moved"):
            yield from self._set_aside(s)
        if s.main == "empty" and (s.orphan or (self.without == "1a" and s.adopted)):
            if self.without == "4b":
                yield "remove the journal", s._replace(removed=True, segments=())
            else:
                yield "send the end marker", s._replace(main="closed", ended=s.published)
        if s.main == "closed":
            yield "remove the journal", s._replace(removed=True, segments=())

    def _set_aside(self, s: State) -> Moves:
        start, text = s.span
        kept = s._replace(aside=_union(s.aside, text), given_up=s.given_up or "b" not in text)
        if s.main == "aside":
            yield "move on", self._advance(s, start + len(text))._replace(main="looks")
        elif s.main == "moved":
            yield f"set {text} aside", kept._replace(main="looks")
        elif not _is_refused(s):
            yield "try again", s._replace(main="holds")
        else:
            if not s.refuses_all:
                yield "SNS accepts something else", s._replace(evidence=True)
            if (s.evidence or self.without == "7") and self.without == "7a":
                yield "move on first", self._advance(s, start + len(text))._replace(main="moved")
            elif s.evidence or self.without == "7":
                yield f"set {text} aside", kept._replace(main="aside")

    def _look(self, s: State) -> tuple[int, str]:
        position = 0
        for name, text in s.segments:
            start = position if self.without == "2a" else name
            position = start + len(text)
            if position > s.published:
                begin = max(start, s.published)
                rest = text[begin - start :]
                whole = rest if self.without == "3b" else rest[: rest.rfind(".") + 1]
                if whole:
                    return begin, whole
        return s.published, ""

    def _advance(self, s: State, offset: int) -> State:
        s = _advanced(s, offset)
        done = [n for n in range(len(s.segments) - 1) if s.segments[n + 1][0] <= offset or self.without == "4a"]
        return s._replace(segments=s.segments[len(done) :])

    def faults(self, s: State) -> Moves:
        if s.kills and s.maker != "dead":
            dead = s._replace(maker="dead", kills=0)
            yield "SIGKILL of the worker", dead
            if s.maker == "appends" and len(s.asked) < len(VISITS):
                yield "SIGKILL of the worker amid a write", _asked(dead, VISITS[len(s.asked)])
        if s.main_kills and s.main != "dead":
            forgotten = s._replace(main_kills=0, main="dead", adopted=False, orphan=False, span=(0, ""), evidence=False)
            yield "SIGKILL of main", forgotten
        if not s.asked and not s.refuses_b:
            yield "a visit comes that SNS will refuse", s._replace(refuses_b=True)
        if s.topic_faults and s.main != "dead":
            yield "the topic refuses everything", s._replace(topic_faults=0, refuses_all=True)
        if s.lost_replies and s.main == "holds" and not _is_refused(s):
            yield "publish, but the reply is lost", _accepted(s)._replace(main="looks", lost_replies=0)
        if s.short and s.maker == "appends" and len(s.asked) < len(VISITS):
            yield "short write", _asked(s, VISITS[len(s.asked)])._replace(maker="torn", short=0)
        if s.cut_failures and s.maker == "torn":
            maker = "appends" if self.without == "3a" else "sealed"
            yield "the cut fails", s._replace(maker=maker, cut_failures=0)

    def broken(self, s: State) -> str | None:
        stored = "".join(visit for _, visit in s.stored)
        if s.malformed:
            return "malformed"
        if any(stored.count(visit) > 1 for visit in VISITS):
            return "twice"
        kept = "".join(text for _, text in s.segments)
        if any(visit not in stored + s.aside and visit + "." not in kept for visit in s.answered):
            return "lost"
        if s.given_up:
            return "given up"
        return "unended" if s.removed and s.ended != 2 * len(s.answered) else None

    def at_rest(self, s: State) -> bool:
        return s.removed and s.maker == "dead"


def _asked(s: State, written: str) -> State:
    """A visit comes; what is written of its line."""
    segments, (start, text) = s.segments, s.segments[-1] if s.segments else (0, "")
    if not segments:  # the file has no name any more
        return s._replace(asked=s.asked + written[0])
    if len(text) >= SEGMENT:
        segments, start, text = (*segments, (start + len(text), "")), start + len(text), ""
    return s._replace(asked=s.asked + written[0], segments=(*segments[:-1], (start, text + written)))


def _accepted(s: State) -> State:
    start, text = s.span
    if any(line not in [visit + "." for visit in VISITS] for line in (text[n : n + 2] for n in range(0, len(text), 2))):
        return s._replace(malformed=True)
    known = dict(s.stored)
    known.update({start + n: text[n] for n in range(0, len(text), 2) if start + n not in known})
    return s._replace(stored=tuple(sorted(known.items())))


def _advanced(s: State, offset: int) -> State:
    return s._replace(published=offset, noted=offset)


def _is_refused(s: State) -> bool:
    return s.refuses_all or (s.refuses_b and "b" in s.span[1])


def _union(visits: str, text: str) -> str:
    return "".join(sorted({*visits, *text} - {"."}))
