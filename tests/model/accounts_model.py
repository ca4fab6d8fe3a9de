"""The accounts of journals over months: what the ledger may forget, and when (rule 7).

A journal has the lines a and b, each published as a span of its own, and at last its end marker. Messages of another
journal come in between; the time at which SQS got them is the only clock of the ledger. Messages come in any order; SQS
keeps none of them for half a year. What may befall: a message comes again, a span is published again because the reply
was lost, SQS gives a message up, the clock of storage's host runs half a year ahead.

After its end marker a journal is published again only within SQS's retention: its directory goes at once then.

    twice     no visit is twice in the log
    unnamed   a visit that was published and lost shows as a gap, or in a journal that has not ended
    stuck     the ledger can always forget a journal that is closed and complete
"""

from collections.abc import Iterator
from typing import NamedTuple

RULES = {
    "7a": "an open journal stays in the ledger",
    "7b": "a journal with gaps stays in the ledger",
    "7c": "a journal's time runs by SQS's clock",
    "7d": "and from its last delivery on",
}

Message = tuple[str, int]  # what it brings, in which half-year it was sent
Moves = Iterator[tuple[str, "State"]]


class Account(NamedTuple):
    stored: str = ""
    closed: bool = False
    first_message: int = 0
    latest_message: int = 0


class State(NamedTuple):
    half_year: int = 0
    published: str = ""  # a, b and, for the end marker, "!"
    queue: frozenset[Message] = frozenset()
    gone: frozenset[Message] = frozenset()  # deleted, but may come again
    account: Account | None = None
    clock: int = 0  # the latest time at which SQS got what we have read
    log: str = ""
    again: int = 1
    published_again: int = 1
    given_up: int = 1
    host_ahead: int = 0
    clocks_wrong: int = 1


class Accounts:
    def __init__(self, without: str = "") -> None:
        self.without = without

    def start(self) -> State:
        return State()

    def steps(self, s: State) -> Moves:
        following = {"": "a", "a": "b", "ab": "!"}.get(s.published)
        if following:
            yield f"publish {following}", _send(s, following)._replace(published=s.published + following)
        yield "a message of the other journal comes", self._record_sent(s, ("", s.half_year))
        for message in sorted(s.queue):
            taken = s._replace(queue=s.queue - {message}, gone=s.gone | {message})
            yield f"store {message[0]}", self._record_sent(taken, message)
        if not s.queue and (s.half_year == 0 or (s.half_year == 1 and s.published == "ab!")):
            yield "half a year passes", s._replace(half_year=s.half_year + 1, gone=frozenset())

    def faults(self, s: State) -> Moves:
        for message in sorted(s.gone) if s.again else ():
            yield f"{message[0]} comes again", self._record_sent(s._replace(again=0), message)
        for visit in s.published if s.published_again else "":
            if "!" not in s.published or (visit, s.half_year) in s.queue | s.gone:
                yield f"{visit} is published again", _send(s._replace(published_again=0), visit)
        for message in sorted(s.queue) if s.given_up else ():
            yield f"SQS gives {message[0]} up", s._replace(queue=s.queue - {message}, given_up=0)
        if s.clocks_wrong:
            yield "the host's clock runs ahead", s._replace(host_ahead=1, clocks_wrong=0)

    def _record_sent(self, s: State, message: Message) -> State:
        """Store what is new, note it in the account, and forget accounts whose time has come."""
        what, sent = message
        account = s.account
        if what:
            account = account or Account(first_message=sent, latest_message=sent)
            account = account._replace(
                latest_message=max(account.latest_message, sent), closed=account.closed or what == "!"
            )
            if what != "!" and what not in account.stored:
                account = account._replace(stored=account.stored + what)
                s = s._replace(log=s.log + what)
        s = s._replace(account=account, clock=max(s.clock, sent))
        return s._replace(account=None) if account and self._is_removable(s, account) else s

    def _is_removable(self, s: State, account: Account) -> bool:
        now = s.half_year + s.host_ahead if self.without == "7c" else s.clock
        since = account.first_message if self.without == "7d" else account.latest_message
        closed = account.closed or self.without == "7a"
        complete = len(account.stored) == 2 or self.without in ("7a", "7b")
        return closed and complete and since < now

    def broken(self, s: State) -> str | None:
        if any(s.log.count(visit) > 1 for visit in "ab"):
            return "twice"
        coming = {what for what, _ in s.queue}
        lost = [visit for visit in s.published if visit != "!" and visit not in s.log and visit not in coming]
        if lost and s.account is None and "!" in s.published and not coming:
            return "unnamed"
        return None

    def at_rest(self, s: State) -> bool:
        if s.given_up == 0:
            return True  # what has a gap stays, until the operator says that it may go
        return set(s.log) == {"a", "b"} and s.published == "ab!" and s.account is None and not s.queue


def _send(s: State, what: str) -> State:
    message = (what, s.half_year)
    return s._replace(queue=s.queue | {message})
