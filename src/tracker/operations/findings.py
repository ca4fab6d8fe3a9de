"""What `tracker doctor` reports: findings. Each one that is not `ok` says why it matters and how to fix it."""

import os
import sys
from dataclasses import dataclass
from enum import Enum
from typing import TextIO

from tracker import exit_status
from tracker.core.printable import printable


class Level(Enum):
    """How bad a finding is. A fault makes the doctor's exit status 1, something unknown makes it 3."""

    OK = "ok"
    WARNING = "warning"
    FAULT = "FAULT"
    UNKNOWN = "unknown"  # the doctor could not look: no permission, no network, no credentials


@dataclass(frozen=True)
class Finding:
    level: Level
    subject: str
    what: str
    why: str = ""
    fix: str = ""


def ok(subject: str, what: str) -> Finding:
    return Finding(Level.OK, subject, what)


def warning(subject: str, what: str, *, why: str, fix: str) -> Finding:
    return Finding(Level.WARNING, subject, what, why, fix)


def fault(subject: str, what: str, *, why: str, fix: str) -> Finding:
    return Finding(Level.FAULT, subject, what, why, fix)


def unknown(subject: str, what: str, *, why: str = "", fix: str) -> Finding:
    return Finding(Level.UNKNOWN, subject, what, why, fix)


_COLOURS = {Level.OK: "32", Level.WARNING: "33", Level.FAULT: "1;31", Level.UNKNOWN: "36"}
_SUBJECT_WIDTH = 14


class Report:
    """Prints each finding as soon as it is added.

    On a terminal it uses colours and shows what is being checked; anywhere else it prints plain lines.
    """

    def __init__(self, out: TextIO | None = None) -> None:
        self._out = out or sys.stdout
        self._live = self._out.isatty() and os.environ.get("TERM") != "dumb"
        self._colours = self._live and not os.environ.get("NO_COLOR")
        self.findings: list[Finding] = []

    @property
    def exit_status(self) -> int:
        if self._count(Level.FAULT):
            return exit_status.FOUND
        return exit_status.COULD_NOT_LOOK if self._count(Level.UNKNOWN) else exit_status.OK

    def begin(self, what: str) -> None:
        """Show what is being checked, on a terminal, until the next finding."""
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
            for label, text in (("why", finding.why), ("fix", finding.fix)):
                if text:
                    self._line(f"{'':8} {'':{_SUBJECT_WIDTH}} {label + ':':<5}{printable(text)}")

    def end(self) -> None:
        words = {Level.OK: "ok", Level.WARNING: "warnings", Level.FAULT: "faults", Level.UNKNOWN: "unknown"}
        self._line(", ".join(f"{self._count(level)} {word}" for level, word in words.items()))

    def _line(self, text: str) -> None:
        self._out.write(f"\r\x1b[K{text}\n" if self._live else f"{text}\n")
        self._out.flush()

    def _count(self, level: Level) -> int:
        return sum(finding.level is level for finding in self.findings)
