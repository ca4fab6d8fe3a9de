"""The numbers of a report, by queries on the table of visits.

Every number is exact. A visitor is a pair of an address and a user agent, among people only; docs/analysis.md explains
what that means. The visits that `tracker doctor` sends are counted separately, and are in no other number.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, tzinfo
from typing import Any

import duckdb

from tracker.analysis.database import REPORT_THREADS, open_database
from tracker.analysis.log_files import LogFiles
from tracker.analysis.selection import Selection
from tracker.analysis.text import counted
from tracker.analysis.visits import QUARTER, classify_visits, read_visits
from tracker.core.visit import CANARY_AGENT

_HOURS_A_WEEK = 168

# The columns of a Count behind its name.
_KINDS = ", ".join(f"count(*) FILTER (kind = '{kind}')" for kind in ("person", "proxy", "scanner", "bot"))


@dataclass(frozen=True, slots=True)
class Count:
    """The visits of one page, site, browser, period, ..."""

    name: str
    people: int
    proxies: int = 0
    scanners: int = 0
    bots: int = 0
    visitors: int = 0
    note: str = ""

    @property
    def visits(self) -> int:
        return self.people + self.proxies + self.scanners + self.bots


@dataclass(frozen=True, slots=True)
class Day:
    day: date
    visitors: int
    new: int
    """Of these visitors, those that were seen on no earlier day of the logs."""


@dataclass(frozen=True, slots=True)
class Summary:
    zone: tzinfo
    selection: Selection
    files: list[str]
    notes: list[str]
    """What was left out, and why, as sentences for people."""
    lines: int
    """Read, the malformed ones included."""
    malformed: int
    doctor: int
    """Visits of `tracker doctor`, which are in no number below."""
    total: Count
    pages_seen: int
    sites_seen: int
    first: datetime | None
    last: datetime | None
    quarters: list[tuple[datetime, Count]]
    """The quarters of an hour with visits, each by the local time at which it begins, in order. When summer time ends,
    two of them begin at the same local time."""
    days: list[Day]
    """The days with visitors, in order."""
    pages: list[Count]
    sites: list[Count]
    browsers: list[Count]
    systems: list[Count]
    devices: list[Count]
    bots: list[Count]
    scanners: list[Count]
    proxies: list[Count]

    @property
    def hours(self) -> list[list[float]]:
        """Visits of people by weekday, Monday first, and hour: their mean over all weeks.

        From the first visit to the last one, some hours of the week come once more than others. So a sum would show
        the weekday with which the report begins as a busy one.
        """
        sums = [0] * _HOURS_A_WEEK
        for moment, count in self.quarters:
            sums[_hour_of_week(moment)] += count.people
        if self.first is None or self.last is None:
            return [[0.0] * 24 for _ in range(7)]
        begin, end = (
            moment.replace(minute=0, second=0, microsecond=0, tzinfo=None) for moment in (self.first, self.last)
        )
        weeks, further = divmod((end - begin) // timedelta(hours=1) + 1, _HOURS_A_WEEK)
        start = _hour_of_week(begin)
        means = [total / max(1, weeks + ((hour - start) % _HOURS_A_WEEK < further)) for hour, total in enumerate(sums)]
        return [means[day * 24 : day * 24 + 24] for day in range(7)]


def summarise(
    logs: LogFiles,
    selection: Selection,
    zone: tzinfo = UTC,
    *,
    top: int = 25,
    with_query: bool = False,
    on_step: Callable[[str], None] = lambda _step: None,
) -> Summary:
    """Read the logs. Lists have at most `top` rows; `with_query` keeps queries of pages. Raises TrackerError."""
    with open_database(REPORT_THREADS) as database:
        on_step("reading")
        read_visits(database, logs, selection, with_query=with_query)
        on_step("recognising bots")
        classify_visits(database, selection)
        on_step("counting")
        return _Queries(database, zone, top).answer(logs, selection)


class _Queries:
    """Queries on the view `classified`. It has all visits but the doctor's, with the kinds of their user agents."""

    def __init__(self, database: duckdb.DuckDBPyConnection, zone: tzinfo, top: int) -> None:
        self._database = database
        self._zone = zone
        self._top = top

    def answer(self, logs: LogFiles, selection: Selection) -> Summary:
        quarters = self._quarters()
        days = self._days(quarters)
        [(doctor,)] = self._rows(f"SELECT count(*) FROM visits WHERE starts_with(agent, '{CANARY_AGENT}')")
        people, proxies, scanners, bots, first, last, pages, sites = self._rows(
            f"SELECT {_KINDS}, min(t), max(t), count(DISTINCT page), count(DISTINCT site) FROM classified"
        )[0]
        self._rows(
            "CREATE TABLE by_agent AS SELECT agent, count(*) AS visits, count(DISTINCT visitor) AS visitors "
            "FROM classified GROUP BY agent"
        )
        notes = list(logs.notes)
        if doctor:
            notes.append(f"{counted(doctor, 'visit')} of tracker doctor left out")
        if not people and (proxies or scanners or bots):
            notes.append("no user agent is a browser's, so no visitors are counted: see the lists of bots and proxies")
        return Summary(
            zone=self._zone,
            selection=selection,
            files=logs.parquet.paths + [file.name for file in logs.files],
            notes=notes,
            lines=logs.lines,
            malformed=logs.malformed,
            doctor=doctor,
            total=Count("", people, proxies, scanners, bots, sum(day.new for day in days)),
            pages_seen=pages,
            sites_seen=sites,
            first=self._local(first) if first is not None else None,
            last=self._local(last) if last is not None else None,
            quarters=[(self._local(_begin(quarter)), count) for quarter, count in quarters.items()],
            days=days,
            pages=self._most("page"),
            sites=self._most("site"),
            browsers=self._agents("name"),
            systems=self._agents("system"),
            devices=self._agents("device"),
            bots=self._others("bot"),
            scanners=self._others("scanner"),
            proxies=self._others("proxy"),
        )

    def _quarters(self) -> dict[int, Count]:
        rows = self._rows(f"SELECT quarter, {_KINDS} FROM classified GROUP BY quarter ORDER BY quarter")
        return {quarter: Count("", *kinds) for quarter, *kinds in rows}

    def _days(self, quarters: dict[int, Count]) -> list[Day]:
        """The visitors of each day. Days depend on the time zone, so first a table gets the day of each quarter."""
        local = [self._local(_begin(quarter)).toordinal() for quarter in quarters]
        self._database.execute(
            "CREATE TABLE days AS SELECT unnest(?::INT[]) AS quarter, unnest(?::INT[]) AS day", [list(quarters), local]
        )
        self._rows(
            "CREATE TABLE seen AS SELECT DISTINCT day, visitor FROM classified JOIN days USING (quarter) "
            "WHERE kind = 'person'"
        )
        new = dict(
            self._rows(
                "SELECT first, count(*) FROM (SELECT min(day) AS first FROM seen GROUP BY visitor) GROUP BY first"
            )
        )
        visitors = self._rows("SELECT day, count(*) FROM seen GROUP BY day ORDER BY day")
        return [Day(date.fromordinal(day), count, new.get(day, 0)) for day, count in visitors]

    def _most(self, column: str) -> list[Count]:
        """The pages or sites with the most visits. Visitors are counted for these only, because that takes memory."""
        return self._counts(
            f"WITH most AS MATERIALIZED (SELECT {column}, count(*) AS visits FROM classified GROUP BY {column} "
            f"ORDER BY visits DESC, {column} LIMIT {self._top}) "
            f"SELECT unescape(coalesce(any_value(classified.{column}), '')), {_KINDS}, "
            "count(DISTINCT visitor) FILTER (kind = 'person') "
            f"FROM classified JOIN most ON classified.{column} IS NOT DISTINCT FROM most.{column} "
            f"GROUP BY classified.{column} ORDER BY count(*) DESC, classified.{column}"
        )

    def _agents(self, column: str) -> list[Count]:
        """Counts of people. A visitor has one user agent, so the sums count no visitor twice."""
        return self._counts(
            f"SELECT {column}, sum(visits)::BIGINT AS n, 0, 0, 0, sum(visitors)::BIGINT FROM by_agent "
            f"JOIN agents USING (agent) WHERE kind = 'person' GROUP BY {column} "
            f"ORDER BY n DESC, {column} LIMIT {self._top}"
        )

    def _others(self, kind: str) -> list[Count]:
        columns = ", ".join("sum(visits)::BIGINT" if kind == other else "0" for other in ("proxy", "scanner", "bot"))
        return self._counts(
            f"SELECT name, 0, {columns}, 0, device FROM by_agent JOIN agents USING (agent) WHERE kind = '{kind}' "
            f"GROUP BY name, device ORDER BY sum(visits) DESC, name LIMIT {self._top}"
        )

    def _counts(self, query: str) -> list[Count]:
        return [Count(*row) for row in self._rows(query)]

    def _rows(self, query: str) -> list[tuple[Any, ...]]:
        return self._database.execute(query).fetchall()

    def _local(self, moment: datetime) -> datetime:
        """`moment` in the time zone. At the two ends of the calendar, where that is impossible, it stays in UTC."""
        try:
            return moment.replace(tzinfo=UTC).astimezone(self._zone)
        except OverflowError:
            return moment.replace(tzinfo=UTC)


def _hour_of_week(moment: datetime) -> int:
    return moment.weekday() * 24 + moment.hour


def _begin(quarter: int) -> datetime:
    return datetime.min + timedelta(seconds=quarter * QUARTER)
