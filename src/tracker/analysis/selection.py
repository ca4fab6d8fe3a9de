"""The filters of reports and exports: their options on the command line, and the query that applies them."""

import argparse
import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from tracker.core.log_line import escape
from tracker.errors import UsageError


@dataclass(frozen=True, slots=True)
class Selection:
    since: datetime | None = None
    """With a time zone. Earlier visits are left out."""
    until: datetime | None = None
    """With a time zone. Visits at this time or later are left out."""
    page: str | None = None
    """``*`` matches anything. If this has no ``?``, pages are compared without their query."""
    exclude_bots: bool = False

    def visits_in(self, source: str) -> tuple[str, list[object]]:
        """A query for the visits of `source` (the SQL of a scan) that are chosen, and its parameters.

        It does not leave out bots.
        """
        terms, values = ["true"], list[object]()
        for operator, limit in ((">=", self.since), ("<", self.until)):
            if limit is not None:
                terms.append(f"t {operator} ?")
                values.append(limit.astimezone(UTC).replace(tzinfo=None))
        query = f"SELECT * FROM {source} WHERE {' AND '.join(terms)}"
        if self.page is not None:
            # The pattern is escaped as in the log, so that no line has to be unescaped.
            parts = [re.sub(r"([%_~])", r"~\1", escape(part)) for part in self.page.split("*")]
            # Without OFFSET, DuckDB would put what `r` is computed by into the condition, several times. A report of
            # one page from Parquet would take twice the CPU time.
            column = "r" if "?" in self.page else "page_of(r)"
            query = f"SELECT * FROM ({query} OFFSET 0) WHERE {column} LIKE ? ESCAPE '~'"
            values.append("%".join(parts))
        return query, values

    def __str__(self) -> str:
        said = [f"since {self.since}" if self.since else "", f"before {self.until}" if self.until else ""]
        said += [f"page {self.page}" if self.page else "", "without bots" if self.exclude_bots else ""]
        return ", ".join(filter(None, said))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "logs",
        nargs="+",
        metavar="LOG",
        help="log files, rotated and compressed ones too; Parquet files of the archive and folders of them; - is stdin",
    )
    parser.add_argument(
        "--since",
        type=_moment,
        metavar="TIME",
        help="visits of this day or time and later: 2026-11-24, 2026-11-24T13:00",
    )
    parser.add_argument(
        "--until", type=_moment, metavar="TIME", help="visits before this time, or up to the end of this day"
    )
    parser.add_argument("--page", help="visits of this page only; * stands for anything")
    parser.add_argument(
        "--tz",
        type=time_zone,
        default=UTC,
        metavar="ZONE",
        help="the time zone of days and times, as Europe/Berlin; default: UTC",
    )


def selection_of(options: argparse.Namespace) -> Selection:
    zone, since, until = options.tz, options.since, options.until
    if until is not None and not isinstance(until, datetime):
        until += timedelta(days=1)  # the end of that day
    begin = _instant(since, zone) if since is not None else None
    end = _instant(until, zone) if until is not None else None
    if begin is not None and end is not None and begin >= end:
        raise UsageError(f"--since {begin} is not before --until {end}; expected a time before it")
    return Selection(
        since=begin,
        until=end,
        page=options.page,
        exclude_bots=getattr(options, "exclude_bots", False),
    )


def time_zone(name: str) -> tzinfo:
    try:
        return UTC if name.upper() in ("UTC", "Z") else ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise argparse.ArgumentTypeError(f"expected a time zone, as Europe/Berlin, got {name!r}") from None


def _moment(text: str) -> date:
    """A day, or a time with or without offset."""
    try:
        return date.fromisoformat(text) if re.fullmatch(r"\d{4}-\d\d-\d\d", text) else datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"expected a day (2026-11-24) or a time (2026-11-24T13:00), got {text!r}"
        ) from None


def _instant(moment: date, zone: tzinfo) -> datetime:
    if not isinstance(moment, datetime):
        return datetime.combine(moment, time(), zone)
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=zone)
