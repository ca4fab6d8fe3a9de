"""Visits over time, in bars for hours, days, weeks, months or years, so that there are at most 120."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from tracker.analysis.summary import Count

_MOST_BARS = 120


@dataclass(frozen=True, slots=True)
class Timeline:
    step: str
    """hour, day, week, month or year: the width of a bar."""
    bars: list[Count]
    """Named by their beginnings, without a gap between them."""


def timeline(quarters: Sequence[tuple[datetime, Count]], most: int = _MOST_BARS) -> Timeline:
    """The shortest step with at most `most` bars; otherwise years, however many."""
    if not quarters:
        return Timeline("day", [])
    # Without the offset from UTC: when summer time ends, the hour that comes twice is one bar.
    # Without seconds: before time zones, a local time could be 53 minutes and 28 seconds ahead.
    moments = [(moment.replace(second=0, tzinfo=None), count) for moment, count in quarters]
    first, last = min(moment for moment, _ in moments), max(moment for moment, _ in moments)
    for step, (begin, following, _) in _STEPS.items():
        bars = _bars(begin(first), begin(last), following, most=9999 if step == "year" else most)
        if bars:
            break
    begin, _, name = _STEPS[step]
    sums = {bar: [0, 0, 0, 0] for bar in bars}
    for moment, count in moments:
        bar = sums[begin(moment)]
        bar[0] += count.people
        bar[1] += count.proxies
        bar[2] += count.scanners
        bar[3] += count.bots
    return Timeline(step, [Count(name(bar), kinds[0], kinds[1], kinds[2], kinds[3]) for bar, kinds in sums.items()])


def _bars(at: datetime, last: datetime, following: Callable[[datetime], datetime], most: int) -> list[datetime]:
    """The beginnings of all bars; an empty list when there are more than `most`."""
    bars = [at]
    while bars[-1] < last:
        if len(bars) == most:
            return []
        bars.append(following(bars[-1]))
    return bars


def _week(moment: datetime) -> datetime:
    day = moment.replace(hour=0, minute=0)
    return day - timedelta(days=min(day.weekday(), day.toordinal() - 1))


def _next_month(month: datetime) -> datetime:
    return (month + timedelta(days=31)).replace(day=1)


# For each step: the beginning of the bar of a moment, the beginning of the next bar, and the name of a bar.
_STEPS: dict[str, tuple[Callable[[datetime], datetime], Callable[[datetime], datetime], Callable[[datetime], str]]] = {
    "hour": (lambda at: at.replace(minute=0), lambda at: at + timedelta(hours=1), lambda at: f"{at:%d %b %H:%M}"),
    "day": (lambda at: at.replace(hour=0, minute=0), lambda at: at + timedelta(days=1), lambda at: f"{at:%a %d %b %Y}"),
    "week": (_week, lambda at: at + timedelta(days=7), lambda at: f"week of {at:%d %b %Y}"),
    "month": (lambda at: at.replace(day=1, hour=0, minute=0), _next_month, lambda at: f"{at:%b %Y}"),
    "year": (
        lambda at: at.replace(month=1, day=1, hour=0, minute=0),
        lambda at: at.replace(year=at.year + 1),
        lambda at: f"{at.year}",
    ),
}
