"""A span of a journal, and the check that each of its lines is a visit.

Every line is checked before it is published. A power cut, a failing disk or bad memory may have changed it, and storage
rejects the whole message if one line is not a visit. If the changed line is still a valid visit, with another letter in
its page for example, the change is not detected.
"""

import socket
from typing import NamedTuple

from tracker.core.visit import addresses_of, decode_line, parts, split_lines
from tracker.cpus import let_others_run
from tracker.errors import MalformedMessage

PARTS_AT_A_TIME = 4  # of a check: they take half a millisecond, then others may run


class Span(NamedTuple):
    """Whole lines `[start, end)` of a journal, each of them a visit."""

    start: int
    data: bytes
    skipped: int = 0
    """How many damaged lines before `start` were left out. If there were any, `data` may be empty."""
    more: bool = False
    """Whether other lines probably follow."""

    @property
    def end(self) -> int:
        return self.start + len(self.data)


def first_span(start: int, lines: bytes, *, more: bool) -> Span:
    """The first run of visits in whole lines that begin at the offset `start`. Damaged lines before it are skipped."""
    if are_visits(lines):
        return Span(start, lines, more=more)
    skipped = begin = end = 0
    for line in split_lines(lines):
        if _is_visit(line):
            end += len(line)
        elif end > begin:
            break
        else:
            skipped += 1
            begin = end = end + len(line)
    return Span(start + begin, lines[begin:end], skipped, more or end < len(lines))


def are_visits(lines: bytes) -> bool:
    """Whether all lines are visits. They are checked in parts, each as a whole, which is fast.

    False may be wrong for unusual lines. The caller then checks each line alone.

    The check of a long span pauses now and then (`let_others_run`): call it from a thread.
    """
    try:
        for number, part in enumerate(parts(lines)):
            if number and number % PARTS_AT_A_TIME == 0:
                let_others_run()
            for address in addresses_of(part):
                socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)
    except (MalformedMessage, OSError, ValueError):
        return False
    return True


def _is_visit(line: bytes) -> bool:
    if not line.isascii():
        return False
    try:
        decode_line(line)
    except MalformedMessage:
        return False
    return True
