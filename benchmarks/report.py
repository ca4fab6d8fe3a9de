"""The results of a run: the rows with their targets, as text and as docs/benchmarks.md."""

import os
import platform
import re
import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.bench import Bench, Values
from benchmarks.quiet import MOST_OTHERS, MOST_STOLEN, Noise
from tests.launched import ROOT

PAGE = ROOT / "docs/benchmarks.md"
README = ROOT / "README.md"
FEWEST_ROUNDS = 3


@dataclass(frozen=True, kw_only=True)
class Row:
    """One number that is measured, with two targets, `least` and `aim`. They are upper bounds unless `more_is_better`.

    `value` names the number among the values of its group. With `over` it is divided by that other value.
    """

    what: str
    value: str
    over: str = ""
    unit: str = ""
    digits: int = 2
    least: float | None = None
    aim: float | None = None
    more_is_better: bool = False

    def of(self, values: Values) -> float | None:
        """The number; None if a program to compare with was missing."""
        if self.value not in values or (self.over and self.over not in values):
            return None
        # The clock of /proc has ticks of 10 ms, so little work may count as zero.
        return values[self.value] / max(values[self.over], 1e-9) if self.over else values[self.value]

    def columns(self, rounds: list[Values]) -> tuple[str, ...]:
        """The cells of the row: median and range of the rounds, the targets, and what was reached."""
        found = [number for values in rounds if (number := self.of(values)) is not None]
        targets = self._text(self.least), self._text(self.aim)
        if not found:
            return self.what, "not measured", "", *targets, ""
        median = round(statistics.median(found), self.digits)  # as it is shown, so that the verdict fits what one reads
        lowest, highest = (f"{number:,.{self.digits}f}" for number in (min(found), max(found)))
        return self.what, self._text(median), f"{lowest} to {highest}", *targets, self.verdict(median)

    def verdict(self, median: float) -> str:
        if self.least is None or self.aim is None:
            return ""
        if self._reaches(median, self.aim):
            return "aim"
        return "at least" if self._reaches(median, self.least) else "**missed**"

    def _reaches(self, median: float, wanted: float) -> bool:
        return median >= wanted if self.more_is_better else median <= wanted

    def _text(self, number: float | None) -> str:
        return "" if number is None else f"{number:,.{self.digits}f} {self.unit}".rstrip()


@dataclass(frozen=True)
class Group:
    """Rows that are measured together. `text` explains them: what is measured, and how."""

    title: str
    measure: Callable[[Bench], Values]
    text: str
    rows: list[Row]


HEADINGS = ("what", "median", "range", "at least", "aim", "reached")
NOISE_HEADINGS = ("measurement", "CPU time of others", "steal", "load average before", "")
INTRODUCTION = f"""Written by `make bench`; do not edit.

- **A round** measures every row once. The page shows the median and the range of the rounds. A figure whose range is
  wide is not one to rely on.
- **Within a round** the servers that are compared take turns, and the median of the turns counts.
- **Cores.** All of the pixel (worker, main and publishing) has one core, as each server that it is compared with. The
  load generator (wrk, or a client of our own that sends at a constant rate) and the SNS and SQS have another one. SNS
  and SQS are replaced by a program that takes almost no time.
- **CPU time** is that of all processes of a server, until all its work is done: of the pixel also the publishing.
- **Ratios** depend less on the machine than the other numbers do. Memory is resident memory.
- **"at least" and "aim"** are the targets; "reached" says which of them the median reaches.
- **The machine is quiet** if programs that do not belong to the measurement take at most {MOST_OTHERS:.0%} of the CPU
  time of all cores, and the host of a virtual machine gives at most {MOST_STOLEN:.0%} of it to others (steal). The last
  table has both for each measurement."""


@dataclass(kw_only=True)
class Report:
    """The values and the noise of the rounds, by group, what was missing and what failed."""

    sizes: str
    groups: dict[str, Group]
    values: dict[str, list[Values]] = field(default_factory=dict)
    noise: dict[str, list[Noise]] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    def add(self, name: str, values: Values, noise: Noise) -> None:
        self.values.setdefault(name, []).append(values)
        self.noise.setdefault(name, []).append(noise)

    def as_text(self) -> str:
        """All rows in one table with aligned columns, and the remarks."""
        table: list[tuple[str, ...]] = [HEADINGS]
        for name, rounds in self.values.items():
            table += [row.columns(rounds) for row in self.groups[name].rows]
        widths = [max(len(line[column]) for line in table) for column in range(len(HEADINGS))]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in table
        ]
        return "\n".join([*lines, *self._remarks()])

    def as_page(self) -> str:
        """docs/benchmarks.md."""
        parts = [
            "# Benchmarks",
            INTRODUCTION,
            f"Measured {datetime.now(UTC):%Y-%m-%d %H:%M} UTC on {machine()}. {self.sizes}",
            *self._remarks(),
        ]
        for name, rounds in self.values.items():
            group = self.groups[name]
            parts += [f"## {group.title}", group.text, _table(HEADINGS, [row.columns(rounds) for row in group.rows])]
        return "\n\n".join([*parts, "## How quiet the machine was", self._noise_table()]) + "\n"

    def refreshed(self, document: str) -> str:
        """A document with tables of rows and their medians, `| what | median |`: with the medians of this run."""
        for name, rounds in self.values.items():
            for row in self.groups[name].rows:
                what, median, *_ = row.columns(rounds)
                document = re.sub(rf"^\| {re.escape(what)} \| .* \|$", f"| {what} | {median} |", document, flags=re.M)
        return document

    def _remarks(self) -> list[str]:
        remarks = []
        if max(map(len, self.values.values()), default=0) < FEWEST_ROUNDS:
            remarks.append(
                f"**Fewer than {FEWEST_ROUNDS} rounds:** whether the next run repeats these figures is not known."
            )
        if self.missing:
            remarks.append(f"Not installed here, and so not measured: {', '.join(self.missing)}.")
        if self.failed:
            remarks.append(f"**Failed measurements:** {'; '.join(self.failed)}.")
        noisy = [
            self.groups[name].title for name, noise in self.noise.items() if not all(one.is_quiet for one in noise)
        ]
        during = f"**The machine was not quiet** during these measurements: {'; '.join(noisy)}."
        return [*remarks, during if noisy else "The machine was quiet during all measurements."]

    def _noise_table(self) -> str:
        rows: list[tuple[str, ...]] = []
        for name, noise in self.noise.items():
            others, stolen = (
                f"{min(shares):.1%} to {max(shares):.1%}"
                for shares in ([one.others for one in noise], [one.stolen for one in noise])
            )
            loads = ", ".join(f"{one.load:.2f}" for one in noise)
            quiet = "" if all(one.is_quiet for one in noise) else "not quiet"
            rows.append((self.groups[name].title, others, stolen, loads, quiet))
        return _table(NOISE_HEADINGS, rows)


def _table(headings: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [f"| {' | '.join(headings)} |", "|---" * len(headings) + "|"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


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
