"""What a state of the storage model is made of, and the rules of the ledger by the names the model drops them by."""

from typing import NamedTuple

from tests.model.files import File

RULES = {
    "1": "every commit of the ledger is durable when it returns (synchronous=FULL)",
    "1a": "a start makes durable what it finds in the ledger before it goes by it",
    "2a": "a commit merges the append before, never the one it names",
    "2b": "an append is named as pending before it is made",
    "2c": "a message is deleted only after the fdatasync of its append",
    "2d": "a pending append that was rolled back is void",
    "2e": "one append is pending at most",
    "2f": "the cut of a rolled-back append is durable before the next commit",
    "3": "a message that adds nothing is acknowledged after the append that stored its bytes is durable",
    "4a": "recovery writes a whole pending append again before it merges it",
    "4b": "recovery makes that durable before it merges it",
    "4c": "recovery writes it in place, not at the end",
    "4d": "recovery takes an append for whole by its CRC, not by its length alone",
    "4e": "recovery cuts a torn append off",
    "4f": "recovery makes the cut durable before it forgets the append",
    "5": "before an append the log must be the file that has its name",
    "6": "the MessageId of a foreign message is in the commit of its append",
    "8": "a repeat whose bytes differ from what was stored for its range is left in SQS",
}


class Pending(NamedTuple):
    offset: int
    data: str  # of which the real ledger has length and CRC
    visits: str

    @property
    def end(self) -> int:
        return self.offset + len(self.data)


class Ledger(NamedTuple):
    """A value that a commit replaces as a whole."""

    stored: str = ""  # the visits, sorted; in the real one byte ranges of journals, and MessageIds
    size: int = 0  # of the log with all merged appends
    pending: Pending | None = None


class Left(NamedTuple):
    """How often each fault may still happen."""

    kill: int = 0
    power: int = 0
    fsync: int = 0
    full: int = 0
    again: int = 0
    remove: int = 0


class State(NamedTuple):
    # of the process
    phase: str
    batch: tuple[str, ...]  # the messages being stored
    new: str  # the visits of them that the log does not have
    durable: bool  # whether it knows that the pending append is
    acknowledged: frozenset[str]  # messages it will delete
    # of the world
    queue: frozenset[str]  # messages not deleted
    ledger: Ledger
    log: File
    left: Left
    older: tuple[Ledger, ...] = ()  # what a power cut may bring back: commits that are not durable, nor is what follows
    removed: bool = False  # the log's name leads nowhere
    taken_away: str = ""  # the log that somebody removed
    unsynced: str = ""  # without rule 2e: the append before the pending one, not durable either


def down(s: State) -> State:
    """The process is gone, and all it knew."""
    phase = "refused" if s.phase == "refused" else "down"
    return s._replace(phase=phase, batch=(), new="", durable=False, acknowledged=frozenset(), unsynced="")


def lines(visits: str) -> str:
    return "".join(visit + "." for visit in visits)


def place(visit: str) -> str:
    """The range of a visit in its journal. A digit is another visit for the range of a letter: 1 for that of a."""
    return "abc"["123".index(visit)] if visit in "123" else visit


def union(*visits: str) -> str:
    return "".join(sorted(set().union(*visits)))
