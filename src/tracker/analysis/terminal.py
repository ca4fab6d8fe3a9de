"""The report on a terminal: the main numbers."""

import math
from collections.abc import Sequence
from datetime import datetime

from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from tracker.analysis.summary import Count, Summary
from tracker.analysis.text import WEEKDAYS, number, share, shown
from tracker.analysis.timeline import timeline
from tracker.core.printable import printable

_LEVELS = " ▁▂▃▄▅▆▇█"
_SHADES = " ░▒▓█"
_BAR = 12  # columns


def show(summary: Summary, console: Console, rows: int = 8) -> None:
    """Print the report, with so many rows of each list.

    Names are `Text`, so brackets in them are no markup; `shown` escapes control characters.
    """
    console.print(_headline(summary))
    if summary.total.visits:
        console.print(_over_time(summary, console.width))
        console.print(_when(summary))
        visits, people = summary.total.visits, summary.total.people
        console.print(_ranking("Pages", summary.pages, visits, rows))
        console.print(_ranking("Sites and groups", summary.sites, visits, rows))
        console.print(_ranking("Browsers", summary.browsers, people, rows))
        console.print(_ranking("Systems", summary.systems, people, rows))
        console.print(_ranking("Devices", summary.devices, people, rows))
        console.print(_ranking("Bots", summary.bots, visits, rows, visitors=False))
        console.print(_ranking("Mail scanners", summary.scanners, visits, rows, visitors=False))
        console.print(_ranking("Mail and image proxies", summary.proxies, visits, rows, visitors=False))
    for note in summary.notes:
        console.print(Text(printable(note), style="yellow"))


def _headline(summary: Summary) -> RenderableType:
    total = summary.total
    lines = [
        Text.assemble(
            (number(total.visits), "bold"), " visits   ", (number(total.visitors), "bold"), " visitors   ",
            (number(summary.pages_seen), "bold"), " pages in ",
            (number(summary.sites_seen), "bold"), " sites and groups",
        ),
        Text.assemble(
            (f"people {share(total.people, total.visits)}", "red"), "   ",
            (f"mail and image proxies {share(total.proxies, total.visits)}", "yellow"), "   ",
            (f"mail scanners {share(total.scanners, total.visits)}", "magenta"), "   ",
            (f"bots {share(total.bots, total.visits)}", "bright_black"),
        ),
    ]  # fmt: skip
    if summary.first is not None and summary.last is not None:
        lines.append(Text(f"{_time(summary.first)} to {_time(summary.last)}, {summary.zone}"))
    if str(summary.selection):
        lines.append(Text(shown(str(summary.selection))))
    return Panel(Group(*lines), title="Visits", title_align="left", expand=False)


def _over_time(summary: Summary, width: int) -> RenderableType:
    line = timeline(summary.quarters, max(1, min(120, width - 2)))
    bars = line.bars[-max(1, width - 2) :]
    most = max(bar.visits for bar in bars) or 1
    drawn = "".join(_level(_LEVELS, bar.visits, most) for bar in bars)
    busiest = max(bars, key=lambda bar: bar.visits)
    said = f"{bars[0].name} to {bars[-1].name}; most on {busiest.name}: {number(busiest.visits)}"
    return Group(Text(f"\nVisits by {line.step}", style="bold"), Text(drawn, style="red"), Text(said, style="dim"))


def _when(summary: Summary) -> RenderableType:
    most = max(max(row) for row in summary.hours) or 1
    rows = [Text("    00    06    12    18    ", style="dim")]
    for day, hours in zip(WEEKDAYS, summary.hours, strict=True):
        cells = "".join(_level(_SHADES, count, most) for count in hours)
        rows.append(Text.assemble((f"{day} ", "dim"), (cells, "red")))
    by_hour = [sum(column) for column in zip(*summary.hours, strict=True)]
    busiest = sorted(range(24), key=lambda hour: (-by_hour[hour], hour))[:3]
    said = ", ".join(f"{hour:02d}:00" for hour in busiest if by_hour[hour])
    return Group(
        Text("\nWhen people visit", style="bold"), *rows, Text(f"busiest hours: {said or 'none'}", style="dim")
    )


def _ranking(title: str, rows: Sequence[Count], whole: int, most_rows: int, *, visitors: bool = True) -> RenderableType:
    if not rows:
        return Text(f"\n{title}: none", style="dim")
    table = Table(title=f"\n{title}", title_justify="left", title_style="bold", box=None, pad_edge=False, expand=True)
    table.add_column("", ratio=1, no_wrap=True, overflow="ellipsis")
    for head in ("visits", "", "", *(["visitors"] if visitors else [])):
        table.add_column(head, justify="left" if not head else "right", no_wrap=True)
    most = max(row.visits for row in rows)
    for row in rows[:most_rows]:
        name = Text(shown(row.name or "(not sent)"))
        if row.note:
            name.append(f"  {row.note}", style="dim")
        bar = Text("━" * max(1, _BAR * row.visits // most), style="red")
        seen = [number(row.visitors)] if visitors else []
        table.add_row(name, number(row.visits), Text(share(row.visits, whole), style="dim"), bar, *seen)
    if len(rows) > most_rows:
        table.add_row(Text("...", style="dim"))
    return table


def _level(levels: str, count: float, most: float) -> str:
    """The character that shows `count`. Only zero is a blank."""
    return levels[math.ceil(count * (len(levels) - 1) / most)]


def _time(moment: datetime) -> str:
    return moment.replace(tzinfo=None).isoformat(" ", "seconds")
