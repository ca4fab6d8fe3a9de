"""The results of a run: rows with their targets, as text and as docs/benchmarks.md."""

import os
import platform
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from tests.launched import ROOT

PAGE = ROOT / "docs/benchmarks.md"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One measured number with two targets, `least` and `aim`. They are upper bounds unless `more_is_better`."""

    what: str
    value: float | None  # None: a program to compare with was missing
    unit: str = ""
    digits: int = 2
    least: float | None = None
    aim: float | None = None
    more_is_better: bool = False
    note: str = ""

    @property
    def verdict(self) -> str:
        if self.value is None:
            return "not measured"
        if self.least is None or self.aim is None:
            return ""
        if self._reaches(self.aim):
            return "aim"
        return "at least" if self._reaches(self.least) else "MISSED"

    def columns(self) -> tuple[str, ...]:
        return self.what, self._text(self.value), self._text(self.least), self._text(self.aim), self.verdict, self.note

    def _reaches(self, wanted: float) -> bool:
        assert self.value is not None
        return self.value >= wanted if self.more_is_better else self.value <= wanted

    def _text(self, number: float | None) -> str:
        if number is None:
            return ""
        return f"{number:,.{self.digits}f} {self.unit}".rstrip()


_HEADINGS = ("what", "measured", "at least", "aim", "reached", "how")


@dataclass(kw_only=True)
class Report:
    """The rows of a run, by the title of their group, and the programs to compare with that were missing."""

    sizes: str
    groups: dict[str, list[Row]] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)

    def add(self, title: str, rows: list[Row]) -> None:
        self.groups[title] = rows

    def as_text(self) -> str:
        """All rows in one table with aligned columns, without the notes, which are in the page only."""
        rows = [row.columns()[:-1] for rows in self.groups.values() for row in rows]
        table = [_HEADINGS[:-1], *rows]
        widths = [max(len(line[column]) for line in table) for column in range(len(table[0]))]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in table
        ]
        return "\n".join([*lines, *self._missing()])

    def as_page(self) -> str:
        """docs/benchmarks.md."""
        parts = [
            "# Benchmarks",
            "Written by `make bench`; do not edit. Ratios depend less on the machine than the numbers do.\n"
            "A table was measured in one run, with servers pinned to one core and clients to another, in turns.\n"
            "Medians are shown. Memory is resident memory. How each row is measured can be read in `benchmarks/`.",
            f"Measured {datetime.now(UTC):%Y-%m-%d %H:%M} UTC on {machine()}. {self.sizes}",
            *self._missing(),
        ]
        for title, rows in self.groups.items():
            parts.append(f"## {title}")
            lines = [f"| {' | '.join(_HEADINGS)} |", "|---" * len(_HEADINGS) + "|"]
            lines += [f"| {' | '.join(row.columns())} |" for row in rows]
            parts.append("\n".join(lines))
        return "\n\n".join(parts) + "\n"

    def _missing(self) -> list[str]:
        return [f"Missing: {', '.join(self.missing)}; their rows were not measured."] if self.missing else []


def machine() -> str:
    """Processor, cores, memory, kernel and Python, in words."""
    cpu = platform.processor() or platform.machine()
    details = Path("/proc/cpuinfo")
    if details.exists():
        names = [line.partition(": ")[2] for line in details.read_text().splitlines() if line.startswith("model name")]
        cpu = names[0] if names else cpu
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30)
    return (
        f"{cpu}, {len(os.sched_getaffinity(0))} cores, {memory:.0f} GiB, "
        f"{platform.system()} {platform.release()}, {platform.python_implementation()} {platform.python_version()}"
    )
