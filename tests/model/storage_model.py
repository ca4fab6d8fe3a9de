"""The storage service and all that may befall it, small enough that every state there is can be looked at.

The process (storage_process.py) takes messages from SQS into the log, by the rules of the ledger. Here is what may
happen to it, each rationed by `Left`: SIGKILL between any two steps and amid a write; a power cut, which leaves any mix
of what was not synced; a failed fdatasync, of the log or of the ledger; a full disk; a message that comes again while
it is in flight, or after it was deleted; somebody who removes the log. And here is what must hold in every state:

    lost      a visit is durable in the log, or in a message that is still in SQS
    twice     no visit is twice in the log
    torn      when the process runs and no append is in progress, the log consists of whole lines
    refused   recovery never refuses what crashes alone have done
    stuck     from everywhere all visits can still be stored, the queue emptied and the ledger without a pending append

A deleted message's visits are thereby in the log exactly once, and stay there through every later power cut.
"""

from collections.abc import Iterable

from tests.model.files import File
from tests.model.storage_process import RECOVERING, RUNNING, Moves, Process, conflicts
from tests.model.storage_state import Ledger, Left, State, down, lines


class Storage(Process):
    def __init__(self, messages: dict[str, str], left: Left, without: Iterable[str] = ()) -> None:
        super().__init__(messages, without)
        self.visits = sorted(set("".join(messages.values())))
        self.left = left

    def start(self) -> State:
        return State("down", (), "", False, frozenset(), frozenset(self.messages), Ledger(), File(), self.left)

    def faults(self, s: State) -> Moves:
        if s.left.kill and s.phase in RECOVERING | RUNNING:
            yield from self._kill(s)
        if s.left.power:
            yield from self._cut_power(s)
        if s.left.fsync:
            yield from self._fail_fsync(s)
        if s.left.full and s.phase == "committed" and not s.removed:
            for part, log in _partly_written(s, 0):
                yield f"no room, {part} written", _spend(s, "full")._replace(phase="short", log=log)
        if s.left.remove and s.phase in RUNNING:
            gone = _spend(s, "remove")
            yield "somebody removes the log", gone._replace(log=File(), removed=True, taken_away=s.log.cache)
        if (evicted := s.log.evicted()) != s.log:
            yield "clean pages are evicted", s._replace(log=evicted)
        if "3" in self.without and s.left.again and s.phase in RUNNING:
            for message in sorted(s.queue - s.acknowledged):
                if set(self.messages[message]) <= set(s.ledger.stored + s.new):
                    after = _spend(s, "again")._replace(acknowledged=s.acknowledged | {message})
                    yield f"{message} comes again, adds nothing, is acknowledged at once", after

    def _kill(self, s: State) -> Moves:
        killed = _spend(down(s), "kill")
        yield "SIGKILL", killed
        if s.phase == "committed" and not s.removed:
            for part, log in _partly_written(s, 1):
                yield f"SIGKILL amid the append, {part} written", killed._replace(log=log)

    def _cut_power(self, s: State) -> Moves:
        dark = _spend(down(s), "power")._replace(older=())
        for ledger in dict.fromkeys((s.ledger, *s.older)):
            for log in s.log.after_power_cut():
                rolled_back = "" if ledger == s.ledger else ", rolls commits back"
                yield f"power cut leaves {log.cache!r}{rolled_back}", dark._replace(ledger=ledger, log=log)

    def _fail_fsync(self, s: State) -> Moves:
        """The process ends: nothing it would have said or done after it happens."""
        if s.phase in ("written", "resync") and not s.removed:
            yield "fdatasync fails", _spend(down(s), "fsync")._replace(log=s.log.sync_failed())
        if s.phase in ("sync-cut", "sync-short"):
            call = "fsync" if s.phase == "sync-cut" else "fdatasync of the cut"
            yield f"{call} fails", _spend(down(s), "fsync")
        for what, following in self.steps(s):
            if following.ledger != s.ledger:  # the next process may read the commit from the page cache all the same
                older = (*s.older, s.ledger)
                yield f"{what}, but its fsync fails", _spend(down(following), "fsync")._replace(older=older)

    def broken(self, s: State) -> str | None:
        if s.phase == "refused" and not s.removed:
            return "refused"
        if any(s.log.cache.count(visit + ".") > 1 for visit in self.visits):
            return "twice"
        if s.phase == "idle" and s.log.cache != lines(s.log.cache[::2].replace("0", "")):
            return "torn"
        safe = s.log.durable + s.taken_away + "".join(self.messages[message] for message in s.queue)
        return None if all(visit in safe for visit in self.visits) else "lost"

    def at_rest(self, s: State) -> bool:
        if s.taken_away or s.removed:
            return True  # now it is up to the operator
        left = {message for message in s.queue if conflicts(self.messages[message], s.ledger.stored)}
        stored = set(self.visits) <= set(s.log.durable).union(*(self.messages[message] for message in left))
        return stored and s.queue == left and s.phase == "idle" and s.ledger.pending is None


def _partly_written(s: State, least: int) -> Iterable[tuple[int, File]]:
    whole = lines(s.new)
    return ((part, s.log.write(len(s.log.cache), whole[:part])) for part in range(least, len(whole)))


def _spend(s: State, fault: str) -> State:
    return s._replace(left=s.left._replace(**{fault: getattr(s.left, fault) - 1}))
