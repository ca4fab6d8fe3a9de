"""What the storage process does, one system call or commit a step, as the rules of the ledger say.

    phase       what comes next
    down        start: look at the pending append
    rewrite, resync, merge      it is whole: write it again in place, fdatasync, merge
    cut, sync-cut, drop         it is torn: cut it off, fsync, forget it
    idle        take one or two messages; checkpoint; stop
    taken       commit: merge the append before, name this one as pending
    committed   append
    written     fdatasync
    synced      acknowledge; deleting comes at any time after
    short       there was no room for all of it: cut back
    sync-short  make the cut durable
    full        try again, or give the batch back
    refused     the log is not what the ledger knows: end, and delete nothing

What `without` names is left out; each place says what the process does instead.
"""

from collections.abc import Iterable, Iterator
from itertools import chain, combinations

from tests.model.storage_state import Ledger, Pending, State, down, lines, place, union

RECOVERING = {"rewrite", "resync", "merge", "cut", "sync-cut", "drop"}
RUNNING = {"idle", "taken", "committed", "written", "synced", "short", "sync-short", "full", "remember"}

Moves = Iterator[tuple[str, State]]


class Process:
    """`messages` are the visits that each brings; those in capitals are foreign, known by their MessageId."""

    def __init__(self, messages: dict[str, str], without: Iterable[str] = ()) -> None:
        self.messages = messages
        self.without = frozenset(without)

    def steps(self, s: State) -> Moves:
        if s.phase != "refused":
            yield from getattr(self, "_" + s.phase.replace("-", "_"))(s)
        if s.phase in RUNNING:
            for message in sorted(s.acknowledged):
                acknowledged, queue = s.acknowledged - {message}, s.queue - {message}
                yield f"delete {message}", s._replace(acknowledged=acknowledged, queue=queue)

    # -- the start

    def _down(self, s: State) -> Moves:
        size, pending = len(s.log.cache), s.ledger.pending
        if s.removed and (s.ledger.size or pending):
            phase = "refused"
        elif pending is None:
            phase = "idle" if size == s.ledger.size else "refused"
        elif not pending.offset <= size <= pending.end:
            phase = "refused"
        else:
            phase = self._judge(s.log.cache[pending.offset :], pending)
        older = s.older if "1a" in self.without else ()
        yield f"start: {phase}", s._replace(phase=phase, older=older, removed=s.removed and phase == "refused")

    def _judge(self, found: str, pending: Pending) -> str:
        if found == pending.data or ("4d" in self.without and len(found) == len(pending.data)):
            return "resync" if "4a" in self.without else "rewrite"
        return "drop" if "4e" in self.without else "cut"

    def _rewrite(self, s: State) -> Moves:
        assert s.ledger.pending is not None
        at = len(s.log.cache) if "4c" in self.without else s.ledger.pending.offset
        data = s.log.cache[at:] if "4d" in self.without else s.ledger.pending.data  # as it was read, and judged
        yield "write again", s._replace(phase="merge" if "4b" in self.without else "resync", log=s.log.write(at, data))

    def _resync(self, s: State) -> Moves:
        yield "fdatasync", s._replace(phase="merge", log=s.log.synced())

    def _merge(self, s: State) -> Moves:
        assert s.ledger.pending is not None
        stored = union(s.ledger.stored, s.ledger.pending.visits)
        yield "merge", self._commit(s, "idle", Ledger(stored, len(s.log.cache)))

    def _cut(self, s: State) -> Moves:
        yield from _cuts(s._replace(phase="drop" if "4f" in self.without else "sync-cut"), s.ledger.size)

    def _sync_cut(self, s: State) -> Moves:
        yield "fsync", s._replace(phase="drop", log=s.log.synced())

    def _drop(self, s: State) -> Moves:
        yield "drop", self._commit(s, "idle", Ledger(s.ledger.stored, len(s.log.cache)))

    # -- the writer

    def _idle(self, s: State) -> Moves:
        yield from self._take(s)
        if s.ledger.pending is not None:
            yield "checkpoint", self._begin(s, "idle")
        else:
            yield "stop", down(s)

    def _take(self, s: State) -> Moves:
        for batch in chain.from_iterable(combinations(self.messages, count) for count in (1, 2)):
            again = sum(message not in s.queue - s.acknowledged for message in batch)
            if again <= s.left.again:  # in flight, or deleted, and there once more
                known = s.ledger.stored + (s.ledger.pending.visits if s.ledger.pending and s.durable else "")
                taken, new = self._cut_and_compare(batch, known)
                left = s.left._replace(again=s.left.again - again)
                what = f"take {' '.join(batch)}"
                if taken:
                    yield what, s._replace(phase="taken", batch=taken, new=new, left=left)
                else:
                    yield what, s._replace(left=left)

    def _cut_and_compare(self, batch: Iterable[str], known: str) -> tuple[tuple[str, ...], str]:
        """Which messages are taken and which visits they bring, beside those whose bytes the ledger knows."""
        at = {place(visit): visit for visit in known}
        taken: list[str] = []
        for message in batch:
            visits = self.messages[message]
            if "8" in self.without or not conflicts(visits, at.values()):
                taken.append(message)
                for visit in visits:
                    at.setdefault(place(visit), visit)
        return tuple(taken), "".join(visit for visit in at.values() if visit not in known)

    def _taken(self, s: State) -> Moves:
        following = "committed" if s.new else "synced"
        if "2b" in self.without:  # the commit comes after the append
            yield "go on", s._replace(phase=following)
        else:
            yield "commit", self._begin(s, following)

    def _committed(self, s: State) -> Moves:
        if not s.removed:
            yield "append", s._replace(phase="written", log=s.log.write(len(s.log.cache), lines(s.new)))
        elif "5" in self.without:
            yield "append to a file without a name", s._replace(phase="written")
        else:
            yield "the log is gone", down(s._replace(phase="refused"))

    def _written(self, s: State) -> Moves:
        if "2c" in self.without and s.batch:
            yield "acknowledge", s._replace(acknowledged=s.acknowledged.union(s.batch), batch=())
            return
        if "2e" in self.without and not s.unsynced:  # the next append begins before this one is durable
            for what, taken in self._take(s):
                yield what, taken._replace(batch=s.batch + taken.batch, unsynced=s.new)
        phase = "remember" if "6" in self.without and _foreign(s.new) else "synced"
        yield "fdatasync", s._replace(phase=phase, durable=True, log=s.log if s.removed else s.log.synced())

    def _remember(self, s: State) -> Moves:
        ledger = s.ledger._replace(stored=union(s.ledger.stored, _foreign(s.new)))
        yield "note the MessageId", self._commit(s, "synced", ledger)._replace(durable=True)

    def _synced(self, s: State) -> Moves:
        if "2b" in self.without and s.new:
            s = self._commit(s, s.phase, Ledger(union(s.ledger.stored, s.new), len(s.log.cache)))
        acknowledged = s.acknowledged.union(s.batch)
        yield "acknowledge", s._replace(phase="idle", acknowledged=acknowledged, batch=(), new="", unsynced="")

    def _short(self, s: State) -> Moves:
        yield from _cuts(s._replace(phase="full" if "2f" in self.without else "sync-short"), self._end(s))

    def _sync_short(self, s: State) -> Moves:
        yield "fdatasync of the cut", s._replace(phase="full", log=s.log.synced())

    def _full(self, s: State) -> Moves:
        yield "try again", s._replace(phase="taken")
        yield "give back", s._replace(phase="idle", batch=(), new="")

    # -- the ledger

    def _end(self, s: State) -> int:
        """Where the log ends as the ledger knows it."""
        pending = s.ledger.pending
        return pending.end if pending and (s.durable or s.unsynced) else s.ledger.size

    def _begin(self, s: State, phase: str) -> State:
        """The one commit: merge the append before, if it is durable, and name the next, if there is one."""
        stored, pending, size = s.ledger.stored, s.ledger.pending, self._end(s)
        if pending is not None and (s.durable or "2d" in self.without):
            stored = union(stored, pending.visits)
        if phase != "committed":
            return self._commit(s, phase, Ledger(stored, size))
        visits = s.new.replace(_foreign(s.new), "") if "6" in self.without else s.new
        if "2a" in self.without:
            stored = union(stored, visits)
        return self._commit(s, phase, Ledger(union(stored, s.unsynced), size, Pending(size, lines(s.new), visits)))

    def _commit(self, s: State, phase: str, ledger: Ledger) -> State:
        older = (*s.older, s.ledger) if s.older or "1" in self.without else ()
        return s._replace(phase=phase, ledger=ledger, durable=False, older=older)


def _cuts(s: State, size: int) -> Moves:
    yield "cut", s._replace(log=s.log.cut(size))
    if s.log.cache != s.log.disk:
        yield "cut what the kernel has written already", s._replace(log=s.log.synced().cut(size))


def conflicts(visits: str, known: Iterable[str]) -> bool:
    """Whether a visit of these has other bytes than a known one of its range."""
    at = {place(visit): visit for visit in known}
    return any(at.get(place(visit), visit) != visit for visit in visits)


def _foreign(visits: str) -> str:
    return "".join(filter(str.isupper, visits))
