"""Every number of a report, on a log whose numbers are known by hand."""

import io
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from rich.console import Console

from tests.analysis.golden import LINES, write_golden
from tracker.analysis import visits as table
from tracker.analysis.log_files import open_logs
from tracker.analysis.page import render
from tracker.analysis.selection import Selection
from tracker.analysis.summary import Count, Day, Summary, summarise
from tracker.analysis.terminal import show
from tracker.analysis.timeline import timeline
from tracker.core.log_line import format_line
from tracker.core.visit import Visit

EVE = 'https://evil.example/"><script>alert(1)</script>\u202e|\x1b[31m'


def summary_of(*logs: Path, zone: str = "UTC", **selection: object) -> Summary:
    with open_logs([str(log) for log in logs]) as opened:
        return summarise(opened, Selection(**selection), ZoneInfo(zone))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def golden(tmp_path_factory: pytest.TempPathFactory) -> Summary:
    return summary_of(write_golden(tmp_path_factory.mktemp("golden")))


def test_visits_are_of_people_of_proxies_and_of_bots(golden: Summary) -> None:
    assert golden.total == Count("", people=7, proxies=2, bots=3, visitors=5)
    assert golden.total.visits == 12


def test_what_is_no_visit_is_counted_and_doctor_is_left_out(golden: Summary) -> None:
    assert golden.doctor == 1
    assert golden.notes == [
        "16 lines read, 3 of them malformed",
        "1 file without a newline at the end: read up to the last whole line",
        "1 visit of tracker doctor left out",
    ]


def test_a_report_without_people_says_why_it_has_no_visitors(tmp_path: Path) -> None:
    log = tmp_path / "visits.log"
    log.write_bytes(
        format_line(Visit(datetime(2026, 11, 23, tzinfo=UTC), None, "Mozilla/5.0 (visitor 7)", "192.0.2.1"))
    )
    found = summary_of(log)
    assert found.total.people == 0
    [note] = found.notes[1:]
    assert note == "no user agent is a browser's, so no visitors are counted: see the lists of bots and proxies"


def test_first_and_last_visit(golden: Summary) -> None:
    assert golden.first == datetime(2026, 11, 23, 9, tzinfo=UTC)
    assert golden.last == datetime(2026, 11, 24, 13, tzinfo=UTC)


def test_pages_have_no_query_and_sites_are_theirs(golden: Summary) -> None:
    assert golden.pages == [
        Count("https://example.com/a", people=4, bots=1, visitors=3),
        Count("", people=0, proxies=2, bots=2),
        Count("https://Other.example/", people=1, visitors=1),
        Count(EVE, people=1, visitors=1),
        Count("https://example.com/b", people=1, visitors=1),
    ]
    assert golden.sites == [
        Count("example.com", people=5, bots=1, visitors=4),
        Count("", people=0, proxies=2, bots=2),
        Count("evil.example", people=1, visitors=1),
        Count("other.example", people=1, visitors=1),
    ]
    assert (golden.pages_seen, golden.sites_seen) == (4, 3)


def test_browsers_systems_and_devices_are_of_people(golden: Summary) -> None:
    assert golden.browsers == [
        Count("Chrome", people=4, visitors=2),
        Count("Firefox", people=1, visitors=1),
        Count("Mobile Safari", people=1, visitors=1),
        Count("other", people=1, visitors=1),
    ]
    assert [(row.name, row.people, row.visitors) for row in golden.systems] == [
        ("Windows", 4, 2),
        ("Linux", 1, 1),
        ("iOS", 1, 1),
        ("other", 1, 1),
    ]
    assert [(row.name, row.people) for row in golden.devices] == [("desktop", 5), ("other", 1), ("phone", 1)]


def test_bots_and_proxies_have_names(golden: Summary) -> None:
    assert golden.bots == [
        Count("no user agent", people=0, bots=2, note="other"),
        Count("Googlebot", people=0, bots=1, note="search engine"),
    ]
    assert golden.proxies == [
        Count("Apple Mail (Privacy Protection)", people=0, proxies=1),
        Count("Gmail (Google image proxy)", people=0, proxies=1),
    ]


def test_a_visitor_is_new_on_the_first_day_that_was_read(golden: Summary) -> None:
    assert golden.days == [Day(date(2026, 11, 23), visitors=2, new=2), Day(date(2026, 11, 24), visitors=4, new=3)]


def test_hours_and_days_are_those_of_the_clock_that_was_asked_for(golden: Summary, tmp_path: Path) -> None:
    busy = {(day, hour): n for day, row in enumerate(golden.hours) for hour, n in enumerate(row) if n}
    assert busy == {(0, 9): 2, (0, 23): 1, (1, 9): 1, (1, 10): 2, (1, 13): 1}

    log = write_golden(tmp_path)
    berlin = summary_of(log, zone="Europe/Berlin")
    busy = {(day, hour): n for day, row in enumerate(berlin.hours) for hour, n in enumerate(row) if n}
    assert busy == {(0, 10): 2, (1, 0): 1, (1, 10): 1, (1, 11): 2, (1, 14): 1}
    assert berlin.days == [Day(date(2026, 11, 23), visitors=1, new=1), Day(date(2026, 11, 24), visitors=5, new=4)]
    assert berlin.total == golden.total

    # Five and three quarter hours ahead, and none of the visits in the same hour as in UTC.
    assert summary_of(log, zone="Asia/Kathmandu").hours[0][14] == 2


def test_the_logs_of_several_storages_are_one_report(golden: Summary, tmp_path: Path) -> None:
    logs = [tmp_path / f"visits-{shard}.log" for shard in range(3)]
    lines = write_golden(tmp_path).read_bytes().splitlines(keepends=True)
    for shard, log in enumerate(logs):
        log.write_bytes(b"".join(lines[shard::3]))
    together = summary_of(*reversed(logs))
    for name in ("total", "pages", "days", "first", "last", "doctor"):
        assert getattr(together, name) == getattr(golden, name), name


def test_an_hour_of_a_weekday_is_the_mean_of_all_weeks(tmp_path: Path) -> None:
    log = tmp_path / "visits.log"
    # Ten days from a Monday at 12:00 to a Thursday at 11:59, a visit every quarter of an hour: each hour of the week
    # comes once, and those from Monday 12:00 to Thursday 11:00 twice.
    begin = datetime(2026, 11, 23, 12, 1, tzinfo=UTC)
    times = [begin + timedelta(minutes=15 * number) for number in range(10 * 24 * 4 - 1)]
    log.write_bytes(b"".join(format_line(Visit(time, "x", "Windows", "::1")) for time in times))
    summary = summary_of(log)
    assert {visits for day in summary.hours for visits in day} == {4.0, 3.5}  # the last quarter of an hour is missing
    assert summary.hours[3][11] == 3.5


def test_no_visit_of_the_hour_that_comes_twice_is_left_out(tmp_path: Path) -> None:
    log = tmp_path / "visits.log"
    times = [datetime(2026, 10, 25, hour, 30, tzinfo=UTC) for hour in (0, 1)]  # both are 02:30 in Berlin
    log.write_bytes(b"".join(format_line(Visit(time, "x", "Windows", "::1")) for time in times))
    summary = summary_of(log, zone="Europe/Berlin")
    assert [moment.isoformat() for moment, _ in summary.quarters] == [
        "2026-10-25T02:30:00+02:00", "2026-10-25T02:30:00+01:00"
    ]  # fmt: skip
    assert [(bar.name, bar.people) for bar in timeline(summary.quarters).bars] == [("25 Oct 02:00", 2)]


def test_filters_by_time_page_and_kind(tmp_path: Path) -> None:
    log = write_golden(tmp_path)
    tuesday = datetime(2026, 11, 24, tzinfo=UTC)
    assert summary_of(log, since=tuesday).total == Count("", people=4, proxies=2, bots=3, visitors=4)
    assert summary_of(log, until=tuesday).total == Count("", people=3, visitors=2)
    assert summary_of(log, until=datetime(2026, 11, 24, 9, tzinfo=UTC)).total.visits == 3
    assert summary_of(log, since=datetime(2026, 11, 24, 9, tzinfo=UTC)).total.visits == 9
    assert summary_of(log, page="https://example.com/a").total == Count("", people=4, bots=1, visitors=3)
    assert summary_of(log, page="https://example.com/*").total.visits == 6
    assert summary_of(log, page="*?from=*").total.visits == 1
    assert summary_of(log, page=EVE).total.visits == 1
    assert summary_of(log, page="*\u202e|*").total.visits == 1
    assert summary_of(log, page="https://example_com/_").total.visits == 0
    without = summary_of(log, exclude_bots=True)
    assert without.total == Count("", people=7, proxies=2, bots=0, visitors=5)
    assert without.bots == []
    assert without.pages[0] == Count("https://example.com/a", people=4, visitors=3)


def test_pages_can_keep_their_query_and_lists_their_length(tmp_path: Path) -> None:
    with open_logs([str(write_golden(tmp_path))]) as logs:
        summary = summarise(logs, Selection(), top=2, with_query=True)
    assert [page.name for page in summary.pages] == ["https://example.com/a", ""]
    assert (summary.pages[0].people, summary.pages_seen, len(summary.browsers)) == (3, 5, 2)


def test_no_visit_is_a_report_too(tmp_path: Path) -> None:
    log = tmp_path / "visits.log"
    log.touch()
    empty = summary_of(log)
    assert empty.total == Count("", people=0)
    assert (empty.first, empty.days, empty.pages, empty.quarters) == (None, [], [], [])


def test_the_ends_of_the_calendar_are_reported(tmp_path: Path) -> None:
    log = tmp_path / "visits.log"
    log.write_bytes(
        b"0001-01-01T00:00:00Z|null|Windows|192.0.2.1\n9999-12-31T23:59:59.9999999Z|null|Windows|192.0.2.1\n" + LINES[0]
    )
    for zone in ("America/Los_Angeles", "Pacific/Kiritimati"):
        summary = summary_of(log, zone=zone)
        assert summary.total.visits == 3
        assert len(summary.days) == 3


def test_as_many_user_agents_as_there_are_visits_are_all_classified(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table, "AGENTS_BATCH", 1000)
    log = tmp_path / "visits.log"
    line = "2026-11-23T09:00:00.000000+00:00|https://example.com/{0}|Mozilla/5.0 (Windows) Unheard/{0}|192.0.2.1\n"
    log.write_text("".join(line.format(number) for number in range(4321)))
    summary = summary_of(log)
    assert summary.total == Count("", people=4321, visitors=4321)
    assert (summary.pages_seen, len(summary.pages)) == (4321, 25)


def test_named_pages_are_grouped_by_what_stands_before_their_first_slash(tmp_path: Path) -> None:
    names = [
        "newsletter/2026-11/top",
        "newsletter/2026-12/top?ignored=/x",
        "newsletter",
        "Feed/a",
        "https://Example.com?q=/",
        "https://example.com/newsletter/1",
        "C:/x",
        "Feed/x://y",
        "Feed?from=https://example.com/",
        "://nowhere",
        "//cdn/x",
        "null",
        '<b>"\x1b[31m\u202e|\n/x',
    ]
    log = tmp_path / "visits.log"
    time = datetime(2026, 11, 24, tzinfo=UTC)
    log.write_bytes(b"".join(format_line(Visit(time, name, "Windows", "::1")) for name in names))
    summary = summary_of(log)
    assert {row.name: row.visits for row in summary.sites} == {
        "newsletter": 3,
        "Feed": 3,
        "nowhere": 1,
        "example.com": 2,
        "C:": 1,
        "": 1,
        "null": 1,
        '<b>"\x1b[31m\u202e|\n': 1,
    }
    assert {row.name for row in summary.pages} == {name.split("?")[0] for name in names}
    page, console = render(summary), Console(file=io.StringIO(), width=200)
    show(summary, console, 25)
    assert isinstance(console.file, io.StringIO)
    for shown in (page, console.file.getvalue()):
        assert "newsletter/2026-11/top" in shown
        assert "\x1b" not in shown
        assert "\u202e" not in shown
    assert "<b>" not in page.split("</header>")[1]
    assert summary_of(log, page="newsletter/*").total.visits == 2
