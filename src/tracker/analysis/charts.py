"""The charts of a report's page: inline SVG with lengths in per cent, so it fits any width and its text keeps its size.

A name that a visitor chose goes through `text.escaped`; everything else is numbers and our own words.
"""

import math
from collections.abc import Sequence

from tracker.analysis.summary import Count
from tracker.analysis.text import WEEKDAYS, escaped, mean, number, share

_LEVELS = 8  # of the heat map
# The names under a chart of no column, one, two, three, four, and five or more columns.
_TICKS: tuple[tuple[str, ...], ...] = (
    (),
    ("only",),
    ("first", "last"),
    ("first", "middle", "last"),
    ("first", "middle", "last"),
    ("first", "quarter", "middle", "quarter", "last"),
)


def columns(bars: Sequence[tuple[str, Sequence[int]]], series: Sequence[str], label: str) -> str:
    """Stacked columns: a name and a value a series for each bar. `series`: CSS classes; `label`: alternative text."""
    top = _round_up(max((sum(values) for _, values in bars), default=0))
    width = 100 / max(1, len(bars))
    drawn = []
    for index, (name, values) in enumerate(bars):
        rects, base = [], 0.0
        for kind, value in zip(series, values, strict=True):
            height = 100 * value / top
            base += height
            if value:
                rects.append(
                    f"<rect class={kind} {_across(index, width, 0.8)} y={100 - base:.2f}% height={height:.2f}% />"
                )
        # An invisible rectangle of full height shows the title wherever the pointer is in the column.
        reach = f"<rect class=reach {_across(index, width, 1)} height=100% />"
        drawn.append(f"<g><title>{name}: {number(sum(values))}</title>{reach}{''.join(rects)}</g>")
    scale = "".join(
        f"<line x2=100% y1={100 - level}% y2={100 - level}% />"
        f"<text x=-8 y={100 - level}% dy=4>{number(top * level // 100)}</text>"
        for level in ((50, 100) if top > 1 else (100,))
    )
    return (
        f'<figure class="columns"><svg class="plot" role="img" aria-label="{escaped(label)}">{"".join(drawn)}'
        f'<g class="scale" aria-hidden="true">{scale}</g></svg>{_ticks([name for name, _ in bars], width)}</figure>'
    )


def heat_map(hours: Sequence[Sequence[float]]) -> str:
    """A table of weekdays by hours. The more visits an hour has, the darker its cell is."""
    most = max(max(row) for row in hours) or 1
    head = "".join(f'<th scope="col"><span>{hour:02d}</span></th>' for hour in range(24))
    rows = []
    for day, row in zip(WEEKDAYS, hours, strict=True):
        cells = "".join(
            f'<td class="h{math.ceil(visits * _LEVELS / most)}" title="{day} {hour:02d}:00, {mean(visits)}">'
            f"<span>{mean(visits)}</span></td>"
            for hour, visits in enumerate(row)
        )
        rows.append(f'<tr><th scope="row">{day}</th>{cells}</tr>')
    return f'<table class="heat"><thead><tr><td></td>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table>'


def ranking(rows: Sequence[Count], title: str, *, missing: str = "other", whole: int, visitors: bool = True) -> str:
    """A table of names and numbers with a bar under each name."""
    if not rows:
        return '<p class="none">None.</p>'
    most = max(row.visits for row in rows)
    body = []
    for row in rows:
        name = escaped(row.name) if row.name else f"<i>{missing}</i>"
        note = f" <small>{escaped(row.note)}</small>" if row.note else ""
        seen = f"<td>{number(row.visitors)}</td>" if visitors else ""
        body.append(
            f'<tr><th scope="row"><span class="name">{name}{note}</span>{_bar(row, most)}</th>'
            f"<td>{number(row.visits)}</td><td>{share(row.visits, whole)}</td>{seen}</tr>"
        )
    seen = '<th scope="col">Visitors</th>' if visitors else ""
    return (
        f'<table class="ranking"><thead><tr><th scope="col">{title}</th><th scope="col">Visits</th>'
        f'<th scope="col">Share</th>{seen}</tr></thead><tbody>{"".join(body)}</tbody></table>'
    )


def _bar(row: Count, most: int) -> str:
    rects, start = [], 0.0
    values = (row.people, row.proxies, row.scanners, row.bots)
    for kind, value in zip(("people", "proxies", "scanners", "bots"), values, strict=True):
        width = 100 * value / most
        if value:
            rects.append(f'<rect class="{kind}" x="{start:.2f}" width="{width:.2f}" height="1"/>')
        start += width
    return f'<svg class="bar" viewBox="0 0 100 1" preserveAspectRatio="none" aria-hidden="true">{"".join(rects)}</svg>'


def _across(index: int, width: float, part: float) -> str:
    return f"x={(index + (1 - part) / 2) * width:.3f}% width={width * part:.3f}%"


def _ticks(names: Sequence[str], width: float) -> str:
    """The names of the first and the last column within the chart, others in the middle of their columns.

    The style sheet hides the quarters, and then the middle, where they would overlap.
    """
    kinds = _TICKS[min(len(names), len(_TICKS) - 1)]
    words = []
    for place, kind in enumerate(kinds):
        index = round(place * (len(names) - 1) / max(1, len(kinds) - 1))
        at = {"first": 0.0, "last": 100.0}.get(kind, (index + 0.5) * width)
        words.append(f"<text class={kind} x={at:.3f}% y=13>{names[index]}</text>")
    return f'<svg class="ticks" aria-hidden="true">{"".join(words)}</svg>'


def _round_up(value: int) -> int:
    """The next round number that can be halved; 1 stays 1."""
    if value <= 10:
        return value + value % 2 if value > 1 else 1
    tens = int(10 ** (len(str(value - 1)) - 2))
    return next(step * tens for step in _ROUND if step * tens >= value)


_ROUND = (10, 12, 14, 16, 18, 20, 24, 30, 40, 50, 60, 80, 100)
