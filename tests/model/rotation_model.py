"""Rotation of the visit log: the old one gets another name, a new empty one its name; and a crash at every step.

Lines are durable when the rotation begins (the storage model sees to that); what is at stake are names. A directory
keeps its names like a file its bytes: processes see a change at once, the disk with the next fsync. Until then a power
cut keeps any of the changes; where the file system is `ordered`, as journaling ones are, only a first few of them.

    settle      merge the pending append: it belongs to the log that is rotated
    announce    commit that the log, of this size, is being rotated to a free name
    rename      give the log that name                  | link      give it that name too
    sync-old    fsync the directory                     | sync-old  fsync the directory
    create      create the new log, empty               | replace   create one beside, rename it over the log
    sync-new    fsync the directory
    conclude    commit that the log is empty and no rotation under way

A start that finds a rotation announced goes on with it, from where the directory says it is.

    lost        every line is in a file that has a name
    refused     a start never finds what it cannot explain
    stuck       from everywhere the log can be rotated, and the last line stored
"""

from collections.abc import Iterator
from itertools import combinations
from typing import NamedTuple

RENAME = ("settle", "announce", "rename", "sync-old", "create", "sync-new", "conclude")
LINK = ("settle", "announce", "link", "sync-old", "replace", "sync-new", "conclude")
RULES = {
    "settle": "the ledger is settled before a rotation",
    "announce": "the rotation is in the ledger before the first name changes",
    "free": "the old log gets a name that no file has",
    "sync-old": "that name is durable before the log's own name leads elsewhere",
    "sync-new": "the new log's name is durable before the ledger says that the log is empty",
}

Change = tuple[tuple[str, str], ...]  # names, and the files they lead to from now on; "" is none
Moves = Iterator[tuple[str, "State"]]


class State(NamedTuple):
    phase: str = "down"
    size: int = 2  # of the log, as the ledger knows it
    pending: bool = False  # whether the ledger has not merged the last append, of two bytes and durable
    rotating: str = ""  # to which name
    lines: tuple[tuple[str, str], ...] = (("earlier", "z."), ("old", "a."), ("new", ""))  # of files, named or not
    disk: Change = (("log", "old"), ("log-1", "earlier"))  # somebody set the clock back: log-1 is taken
    changes: tuple[Change, ...] = ()  # of the directory, not synced
    kills: int = 2
    power_cuts: int = 1


class Rotation:
    def __init__(self, procedure: tuple[str, ...], *, ordered: bool = False, without: str = "") -> None:
        self.procedure = procedure
        self.ordered = ordered
        self.without = without

    def start(self) -> State:
        return State()

    def steps(self, s: State) -> Moves:
        if s.phase == "down":
            phase, what = self._recover(s)
            yield f"start: {what}", s._replace(phase=phase)
        elif s.phase == "idle":
            yield from self._idle(s)
        elif s.phase != "refused":
            yield s.phase, self._do(s.phase, s._replace(phase=self._from(self.procedure.index(s.phase) + 1)))

    def _idle(self, s: State) -> Moves:
        names, lines = names_of(s), dict(s.lines)
        if s.pending:
            yield "settle", _settled(s)
        elif next_line := {"a.": "b.", "": "c."}.get(lines[names["log"]]):
            added = tuple((file, text + next_line * (file == names["log"])) for file, text in s.lines)
            yield f"append {next_line}", s._replace(lines=added, pending=True)
        if names["log"] == "old":
            yield "rotate", s._replace(phase=self._from(0))

    def _from(self, at: int) -> str:
        """The step at this place of the procedure; the next one where it is left out."""
        return next((step for step in self.procedure[at:] if step != self.without), "idle")

    def _do(self, step: str, s: State) -> State:
        names, free = names_of(s), "log-1" if self.without == "free" else "log-2"
        old = s.rotating or free
        if step == "settle":
            return _settled(s) if s.pending else s
        if step == "announce":
            return s._replace(rotating=free)
        if step == "conclude":
            return s._replace(rotating="", size=0)
        if step.startswith("sync"):
            return s._replace(disk=tuple(sorted(names.items())), changes=())
        if step == "link" and old in names:
            return s._replace(phase="refused")  # EEXIST
        change = {
            "rename": ((old, names.get("log", "")), ("log", "")),
            "create": (("log", "new"),),
            "link": ((old, names.get("log", "")),),
            "replace": (("log", "new"),),
        }[step]
        return s._replace(changes=(*s.changes, change))

    def _recover(self, s: State) -> tuple[str, str]:
        """The phase to go on with, and what the directory tells."""
        names, lines = names_of(s), dict(s.lines)
        log, old = names.get("log", ""), names.get(s.rotating, "")
        if not s.rotating:
            agrees = log and len(lines[log]) == s.size + 2 * s.pending
            return ("idle", "agreed") if agrees else ("refused", "refused")
        if log and len(lines[log]) == s.size and old in ("", log):
            return self._from(3 if old else 2), "the log is still the old one"
        if old and len(lines[old]) == s.size and (not log or not lines[log]):
            return self._from(5 if log else 3), "the log is the new one" if log else "the log has no name"
        return "refused", "refused"

    def faults(self, s: State) -> Moves:
        if s.kills and s.phase not in ("down", "refused"):
            yield "SIGKILL", s._replace(phase="down", kills=s.kills - 1)
        if s.power_cuts:
            count = len(s.changes)
            some = [s.changes[:n] for n in range(count + 1)]
            if not self.ordered:
                some = [kept for n in range(count + 1) for kept in combinations(s.changes, n)]
            for kept in some:
                names = tuple(sorted(_directory(s.disk, kept).items()))
                dark = s._replace(phase="down", disk=names, changes=(), power_cuts=s.power_cuts - 1)
                yield f"power cut, the directory is {dict(names)}", dark

    def broken(self, s: State) -> str | None:
        if any(text and file not in names_of(s).values() for file, text in s.lines):
            return "lost"
        return "refused" if s.phase == "refused" else None

    def at_rest(self, s: State) -> bool:
        stored = dict(s.lines)["new"] == "c." and not s.pending and s.size == 2
        return stored and s.phase == "idle" and names_of(s)["log"] == "new"


def names_of(s: State) -> dict[str, str]:
    """The directory as processes see it."""
    return _directory(s.disk, s.changes)


def _directory(disk: Change, changes: tuple[Change, ...]) -> dict[str, str]:
    names = dict(disk)
    for change in changes:
        names.update(change)
    return {name: file for name, file in names.items() if file}


def _settled(s: State) -> State:
    return s._replace(pending=False, size=s.size + 2)
