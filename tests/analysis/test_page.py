"""The page stands alone, and what a visitor sent is text on it."""

import base64
import dataclasses
import hashlib
import re
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.analysis.golden import write_golden
from tracker.analysis.charts import columns
from tracker.analysis.log_files import open_logs
from tracker.analysis.page import render
from tracker.analysis.selection import Selection
from tracker.analysis.summary import Count, Summary, summarise
from tracker.analysis.text import mean, number, share, shown
from tracker.analysis.timeline import timeline


class Parsed(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data + " "


@pytest.fixture(scope="module")
def summary(tmp_path_factory: pytest.TempPathFactory) -> Summary:
    folder = tmp_path_factory.mktemp("<b onclick=alert(1)>")
    with open_logs([str(write_golden(folder))]) as logs:
        return summarise(logs, Selection(since=datetime(2026, 11, 1, tzinfo=UTC)))


@pytest.fixture(scope="module")
def page(summary: Summary) -> str:
    return render(summary)


def test_it_needs_nothing_from_anywhere_and_runs_nothing(page: str) -> None:
    parsed = Parsed(page)
    assert not {tag for tag, _ in parsed.tags} & {"script", "img", "iframe", "object", "embed", "a", "form", "base"}
    for tag, attributes in parsed.tags:
        assert not [name for name in attributes if name.startswith("on") or name in ("style", "src")], tag
        assert tag == "link" or "href" not in attributes
    assert all(str(attributes["href"]).startswith("data:") for tag, attributes in parsed.tags if tag == "link")
    assert "url(" not in page
    assert "@import" not in page


def test_its_policy_lets_the_browser_run_and_load_nothing_but_its_style(page: str) -> None:
    [policy] = [
        attributes["content"]
        for tag, attributes in Parsed(page).tags
        if tag == "meta" and attributes.get("http-equiv") == "Content-Security-Policy"
    ]
    style = page[page.index("<style>") + 7 : page.index("</style>")]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert policy == (
        f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; base-uri 'none'; form-action 'none'"
    )
    assert page.index("Content-Security-Policy") < page.index("<style>")


def test_what_a_visitor_or_a_file_name_says_is_text(page: str) -> None:
    assert "https://evil.example/&quot;&gt;&lt;script&gt;alert(1)&lt;/script&gt;\\u202e|\\x1b[31m" in page
    assert "<b onclick" not in page
    assert "\u202e" not in page
    assert "\x1b" not in page


def test_it_says_the_numbers(page: str) -> None:
    text = " ".join(Parsed(page).text.split())
    for words in (
        "Visits 12",
        "Visitors 5 people, by address and browser",
        "Pages 4 in 3 sites and groups",
        "People 58 % 7 visits",
        "23 Nov 2026, 09:00 to 24 Nov 2026, 13:00, UTC",
        "https://example.com/a 5 42 % 3",
        "no page was sent 4 33 % 0",
        "Chrome 4 57 % 2",
        "Googlebot search engine 1 8 %",
        "16 lines read, 3 of them malformed",
        "1 visit of tracker doctor left out",
        "Day Returning New Mon 23 Nov 2026 0 2 Tue 24 Nov 2026 1 3",
    ):
        assert words in text


def test_a_live_page_loads_itself_again(summary: Summary) -> None:
    assert '<meta http-equiv="refresh" content="5">' in render(summary, refresh=5)
    assert 'http-equiv="refresh"' not in render(summary)


def test_a_report_of_no_visit_says_so(tmp_path: Path) -> None:
    log = tmp_path / "visits.log"
    log.touch()
    with open_logs([str(log)]) as logs:
        assert "No visit." in render(summarise(logs, Selection()))


def test_new_and_returning_is_left_out_where_it_cannot_be_known(summary: Summary) -> None:
    assert "New and returning visitors" in render(summary)
    one_day = dataclasses.replace(summary, days=summary.days[:1])
    assert "New and returning visitors" not in render(one_day)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://example.com/ü?a=b", "https://example.com/ü?a=b"),
        ("a\tb\x00\x7f\x85", "a\\tb\\x00\\x7f\\x85"),
        ("\u202eevil\u2066\u200b\ufeff", "\\u202eevil\\u2066\\u200b\\ufeff"),
        ("a\u00a0b\u3000\u2028", "a\\xa0b\\u3000\\u2028"),
        ("\ue000\U000e0041", "\\ue000\\U000e0041"),
        ("x" * 300, "x" * 199 + "…"),
    ],
)
def test_no_character_moves_hides_or_colours_another(text: str, expected: str) -> None:
    assert shown(text) == expected


def test_numbers_are_for_people() -> None:
    assert [number(count) for count in (0, 999, 1000, 1234567)] == ["0", "999", "1 000", "1 234 567"]
    assert [share(part, 1000) for part in (0, 1, 4, 5, 990, 999, 1000)] == [
        "0 %", "<1 %", "<1 %", "<1 %", "99 %", ">99 %", "100 %"
    ]  # fmt: skip
    assert share(0, 0) == "0 %"
    assert [mean(value) for value in (0.0, 0.01, 0.25, 3.0, 9.94, 9.96, 1234.5)] == [
        "0", "<0.1", "0.2", "3", "9.9", "10", "1 234"
    ]  # fmt: skip


BEGIN = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("span", "step", "bars", "first", "last"),
    [
        (timedelta(0), "hour", 1, "01 Jan 00:00", "01 Jan 00:00"),
        (timedelta(hours=119), "hour", 120, "01 Jan 00:00", "05 Jan 23:00"),
        (timedelta(hours=120), "day", 6, "Thu 01 Jan 2026", "Tue 06 Jan 2026"),
        (timedelta(days=119), "day", 120, "Thu 01 Jan 2026", "Thu 30 Apr 2026"),
        (timedelta(days=120), "week", 18, "week of 29 Dec 2025", "week of 27 Apr 2026"),
        (timedelta(days=3000), "month", 99, "Jan 2026", "Mar 2034"),
        (timedelta(days=5000), "year", 14, "2026", "2039"),
    ],
)
def test_visits_over_time_have_the_finest_step_that_can_be_looked_at(
    span: timedelta, step: str, bars: int, first: str, last: str
) -> None:
    line = timeline([(BEGIN, Count("", 1, 2, 0, 3)), (BEGIN + timedelta(minutes=15) + span, Count("", 10))])
    assert (line.step, len(line.bars), line.bars[0].name, line.bars[-1].name) == (step, bars, first, last)
    assert sum(bar.visits for bar in line.bars) == 16
    assert (line.bars[0].proxies, line.bars[0].bots) == (2, 3)


def test_the_whole_calendar_is_a_timeline() -> None:
    ends = [datetime(1, 1, 1), datetime(9999, 12, 31, 23, 45)]
    assert len(timeline([(moment, Count("", 1)) for moment in ends]).bars) == 9999
    assert timeline([]).bars == []


def test_columns_are_as_high_as_their_values() -> None:
    drawn = columns([("Mon", (3, 1)), ("Tue", (0, 0))], ["people", "bots"], "Visits")
    assert re.findall(r"<rect class=(\w+) x=\S+ width=\S+ y=(\S+)% height=(\S+)%", drawn) == [
        ("people", "25.00", "75.00"),
        ("bots", "0.00", "25.00"),
    ]
    assert re.findall(r"<text x=-8 y=\S+ dy=4>(\d+)<", drawn) == ["2", "4"]
    assert "2 400<" in columns([("Mon", (2080,))], ["people"], "Visits")
    assert "<title>Mon: 4</title>" in drawn


@pytest.mark.parametrize(
    ("bars", "names"),
    [
        (1, [("only", "50.000", "0")]),
        (2, [("first", "0.000", "0"), ("last", "100.000", "1")]),
        (4, [("first", "0.000", "0"), ("middle", "62.500", "2"), ("last", "100.000", "3")]),
        (
            10,
            [
                ("first", "0.000", "0"),
                ("quarter", "25.000", "2"),
                ("middle", "45.000", "4"),
                ("quarter", "75.000", "7"),
                ("last", "100.000", "9"),
            ],
        ),
    ],
)
def test_the_first_and_the_last_column_are_named_within_the_chart(bars: int, names: list[tuple[str, str, str]]) -> None:
    drawn = columns([(str(bar), (1,)) for bar in range(bars)], ["people"], "Visits")
    assert re.findall(r"<text class=(\w+) x=(\S+)% y=13>(\w+)<", drawn) == names
