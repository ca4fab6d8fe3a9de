"""What `tracker doctor` finds: each finding says what is, and, unless it is well, why it matters and what mends it."""

import os
import sys
from dataclasses import dataclass
from enum import Enum
from typing import TextIO

from tracker.core.printable import printable


class Level(Enum):
    """How bad it is; a fault makes the doctor's exit status 1."""

    OK = "ok"
    WARNING = "warning"
    FAULT = "FAULT"
    UNKNOWN = "unknown"  # could not be looked at from here


@dataclass(frozen=True)
class Finding:
    level: Level
    subject: str
    what: str
    why: str = ""
    mend: str = ""


def ok(subject: str, what: str) -> Finding:
    return Finding(Level.OK, subject, what)


def warning(subject: str, what: str, *, why: str, mend: str) -> Finding:
    return Finding(Level.WARNING, subject, what, why, mend)


def fault(subject: str, what: str, *, why: str, mend: str) -> Finding:
    return Finding(Level.FAULT, subject, what, why, mend)


def unknown(subject: str, what: str, *, mend: str) -> Finding:
    return Finding(Level.UNKNOWN, subject, what, mend=mend)


_COLOURS = {Level.OK: "32", Level.WARNING: "33", Level.FAULT: "1;31", Level.UNKNOWN: "36"}
_SUBJECT_WIDTH = 14


class Report:
    """Prints findings as they come: coloured and with what is under way on a terminal, plain lines anywhere else."""

    def __init__(self, out: TextIO | None = None) -> None:
        self._out = out or sys.stdout
        self._live = self._out.isatty() and os.environ.get("TERM") != "dumb"
        self._colours = self._live and not os.environ.get("NO_COLOR")
        self.findings: list[Finding] = []

    @property
    def faults(self) -> int:
        return self._count(Level.FAULT)

    def begin(self, what: str) -> None:
        """Say what is being looked at, on a terminal, until the next finding."""
        if self._live:
            self._out.write(f"\r\x1b[K… {printable(what)}")
            self._out.flush()

    def add(self, *findings: Finding) -> None:
        for finding in findings:
            self.findings.append(finding)
            word = f"{finding.level.value:<8}"
            if self._colours:
                word = f"\x1b[{_COLOURS[finding.level]}m{word}\x1b[0m"
            self._line(f"{word} {finding.subject:<{_SUBJECT_WIDTH}} {printable(finding.what)}")
            for label, text in (("why", finding.why), ("mend", finding.mend)):
                if text:
                    self._line(f"{'':8} {'':{_SUBJECT_WIDTH}} {label + ':':<6}{printable(text)}")

    def end(self) -> None:
        words = {Level.OK: "well", Level.WARNING: "warnings", Level.FAULT: "faults", Level.UNKNOWN: "not looked at"}
        self._line(", ".join(f"{self._count(level)} {word}" for level, word in words.items()))

    def _line(self, text: str) -> None:
        self._out.write(f"\r\x1b[K{text}\n" if self._live else f"{text}\n")
        self._out.flush()

    def _count(self, level: Level) -> int:
        return sum(finding.level is level for finding in self.findings)
