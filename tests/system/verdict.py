"""The verdict of a siege: the lines of the log, and the files of others beside it, which must stay unchanged."""

import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from .stack import FakeStack

STRANGER_IP = "192.0.2.9"
"""The address of a stranger's visits. Of the length of our visitors' own, so that one can stand for the other."""

# The longest line of a visit: two fields of 2,048 characters, at most four bytes of UTF-8 each, every byte escaped.
LONGEST_LINE = 2 * 2_048 * 4 * 4 + 100
_STRANGERS_LINE = re.compile(rb"[^|]+\|[ -{}~]+\|[ -{}~]+\|" + re.escape(STRANGER_IP.encode()))
_LINE = re.compile(
    rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}\+00:00\|(https://site\.example/\d+/\d+)\|load\|127\.0\.0\.1"
)


@dataclass
class Verdict:
    """The faults of a siege, and what happened to its visits."""

    rounds: int = 0
    injected: Counter[str] = field(default_factory=Counter)
    answered: int = 0
    missing: set[str] = field(default_factory=set)
    overwritten: set[str] = field(default_factory=set)  # visits whose line in a journal was damaged, sent or not
    damaged: int = 0  # those of them that are not in the log
    twice: set[str] = field(default_factory=set)
    torn: set[bytes] = field(default_factory=set)
    kept_aside: int = 0  # torn appends that storage found at its start
    strange: list[str] = field(default_factory=list)  # what else is not as it should be
    memory: dict[str, int] = field(default_factory=dict)  # the largest resident size of a process, in KiB

    @property
    def is_clean(self) -> bool:
        return not (self.missing or self.twice or self.torn or self.strange)

    def judge(self, log: bytes) -> Counter[str]:
        """The referrers of our visitors in a log, each as often as it is there.

        A line that is neither theirs nor a proper one of a stranger is torn.
        """
        lines = [(line, _LINE.fullmatch(line)) for line in log.split(b"\n")[:-1] if not _is_strangers(line)]
        self.torn = {line for line, match in lines if match is None}
        referrers = Counter(match[1].decode() for _, match in lines if match is not None)
        self.twice = {referrer for referrer, times in referrers.items() if times > 1}
        return referrers


def _is_strangers(line: bytes) -> bool:
    return len(line) <= LONGEST_LINE and _STRANGERS_LINE.fullmatch(line) is not None


class Foreign:
    """Files of somebody else, beside ours and among them."""

    def __init__(self, stack: FakeStack) -> None:
        self._log = stack.log_path
        self._old = b"what was in the log before\n2023-12-10T22:22:43.793620+00:00|null|null|192.168.1.1\n"
        ledger = self._log.with_name(f"{self._log.name}.d")
        self._files = {
            stack.outbox / "notes.txt": b"of the operator",
            stack.outbox / "lost+found" / "00000000000000000000": b"looks like a segment\n",
            ledger / "notes.txt": b"of the operator, too",
            self._log.with_name("visits.log.1"): b"rotated by somebody\n",
        }
        self._log.write_bytes(self._old)
        for path, content in self._files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        self._before = self._look()

    def rest_of_log(self) -> bytes:
        """The log without what was in it before."""
        with self._log.open("rb") as log:
            log.seek(len(self._old))
            return log.read()

    def touched(self) -> list[str]:
        now = self._look()
        changed = [f"{path} was touched" for path, before in self._before.items() if now[path] != before]
        with self._log.open("rb") as log:
            return changed + ([] if log.read(len(self._old)) == self._old else ["the log was changed where it was old"])

    def _look(self) -> dict[Path, object]:
        return {
            path: (path.read_bytes(), path.stat().st_mtime_ns, path.stat().st_ino) if path.exists() else None
            for path in self._files
        }
