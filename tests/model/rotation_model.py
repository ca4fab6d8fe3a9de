"""Rotation of the visit log: the old one gets another name, a new empty one its name; and a crash at every step.

Lines are durable when the rotation begins (the storage model sees to that); what is at stake are names. A directory
keeps its names like a file its bytes: processes see a change at once, the disk with the next fsync. Until then a power
cut keeps any of the changes; where the file system is `ordered`, as journaling ones are, only a first few of them.

    checkpoint  merge the pending append: it belongs to the log that is put aside
    reserve     create an empty file of a name that nothing has
    announce    commit that the log, of this size, is being renamed to it
    rename      rename the log over it
    sync-old    fsync the directory
    create      create the new log, empty
    sync-new    fsync the directory
    conclude    commit that the log is empty and no rotation in progress

A start that finds a rotation announced takes it back when the log still has its name, else it goes on with it.

    lost        every line is in a file that has a name
    refused     a start never finds what it cannot explain
    stuck       from everywhere the log can be rotated, and the last line stored
"""

from collections.abc import Iterator
from itertools import combinations
from typing import NamedTuple

PROCEDURE = ("checkpoint", "reserve", "announce", "rename", "sync-old", "create", "sync-new", "conclude")
RULES = {
    "checkpoint": "the ledger makes a checkpoint before a rotation",
    "reserve": "the old log gets a name that no file has",
    "announce": "the rotation is in the ledger before the log is renamed",
    "sync-old": "the old log's new name is durable before the log's name leads elsewhere",
    "sync-new": "the new log's name is durable before the ledger says that the log is empty",
}

Change = tuple[tuple[str, str], ...]  # names, and the files they lead to from now on; "" is none
Moves = Iterator[tuple[str, "State"]]


class State(NamedTuple):
    phase: str = "down"
    size: int = 2  # of the log, as the ledger knows it
    pending: bool = False  # whether the ledger has not merged the last append, of two bytes and durable
    rotating: str = ""  # to which name
    lines: tuple[tuple[str, str], ...] = (("earlier", "z."), ("new", ""), ("old", "a."), ("reserved", ""))
    disk: Change = (("log", "old"), ("log-1", "earlier"))  # somebody set the clock back: log-1 is taken
    changes: tuple[Change, ...] = ()  # of the directory, not synced
    kills: int = 2
    power_cuts: int = 1


class Rotation:
    """`without` leaves a rule out; without `reserve`, the name is the one that is taken."""

    def __init__(self, *, ordered: bool = False, without: str = "") -> None:
        self.ordered = ordered
        self.without = without
        self.name = "log-1" if without == "reserve" else "log-2"

    def start(self) -> State:
        return State()

    def steps(self, s: State) -> Moves:
        if s.phase == "down":
            yield self._recover(s)
        elif s.phase == "idle":
            yield from self._idle(s)
        elif s.phase != "refused":
            yield s.phase, self._do(s.phase, s)._replace(phase=self._next(s.phase))

    def _idle(self, s: State) -> Moves:
        log = names_of(s)["log"]
        if s.pending:
            yield "checkpoint", _checkpointed(s)
        elif line := {"a.": "b.", "": "c."}.get(dict(s.lines)[log]):
            lines = tuple((file, text + line * (file == log)) for file, text in s.lines)
            yield f"append {line}", s._replace(lines=lines, pending=True)
        if log == "old":
            yield "rotate", s._replace(phase=self._next(""))

    def _next(self, step: str) -> str:
        rest = PROCEDURE[PROCEDURE.index(step) + 1 :] if step else PROCEDURE
        return next((each for each in rest if each != self.without), "idle")

    def _do(self, step: str, s: State) -> State:
        names = names_of(s)
        if step == "checkpoint":
            return _checkpointed(s) if s.pending else s
        if step == "announce":
            return s._replace(rotating=self.name)
        if step == "conclude":
            return s._replace(rotating="", size=0)
        if step.startswith("sync"):
            return s._replace(disk=tuple(sorted(names.items())), changes=())
        changes = {
            "reserve": ((self.name, "reserved"),),
            "rename": (("log", ""), (self.name, names.get("log", ""))),
            "create": (("log", "new"),),
        }
        return s._replace(changes=(*s.changes, changes[step]))

    def _recover(self, s: State) -> tuple[str, State]:
        names, lines = names_of(s), dict(s.lines)
        log, moved = (lines[names[name]] if name in names else None for name in ("log", s.rotating))
        if not s.rotating:
            agrees = log is not None and len(log) == s.size + 2 * s.pending
            return _starts(_tidied(s), "idle") if agrees else _starts(s, "refused")
        if log and len(log) == s.size and not moved:
            return _starts(_tidied(s._replace(rotating="")), "idle")
        if not log and moved and len(moved) == s.size:
            return _starts(s, self._next("rename" if log is None else "create"))
        return _starts(s, "refused")

    def faults(self, s: State) -> Moves:
        if s.kills and s.phase not in ("down", "refused"):
            yield "SIGKILL", s._replace(phase="down", kills=s.kills - 1)
        if s.power_cuts:
            count = len(s.changes)
            first = [s.changes[:n] for n in range(count + 1)]
            some = first if self.ordered else [kept for n in range(count + 1) for kept in combinations(s.changes, n)]
            for kept in some:
                names = _directory(s.disk, kept)
                dark = s._replace(phase="down", changes=(), power_cuts=s.power_cuts - 1)
                yield f"power cut, the directory is {names}", dark._replace(disk=tuple(sorted(names.items())))

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


def _checkpointed(s: State) -> State:
    return s._replace(pending=False, size=s.size + 2)


def _starts(s: State, phase: str) -> tuple[str, State]:
    return f"start: {phase}", s._replace(phase=phase)


def _tidied(s: State) -> State:
    """Without a name that was reserved and not used."""
    reserved = tuple((name, "") for name, file in names_of(s).items() if file == "reserved")
    return s._replace(changes=(*s.changes, reserved)) if reserved else s
