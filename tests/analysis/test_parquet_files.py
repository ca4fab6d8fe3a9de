"""Reports and exports of Parquet files: the same numbers as from the logs, and nothing is read that is not needed."""

import csv
import io
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.analysis.golden import LINES
from tracker.analysis.database import open_database
from tracker.analysis.log_files import open_logs
from tracker.analysis.plain import plain_lines
from tracker.analysis.selection import Selection
from tracker.analysis.summary import Summary, summarise
from tracker.archive.lines import ClosedLog
from tracker.archive.objects import make_objects
from tracker.cli import main
from tracker.core.log_line import escape, format_line
from tracker.core.visit import Visit
from tracker.errors import TrackerError

DAY = datetime(2026, 11, 24, tzinfo=UTC)


def archive_of(closed: Path) -> Path:
    """A folder with the objects of a closed log, as a copy of the bucket has them."""
    made = closed.parent / "made"
    made.mkdir(exist_ok=True)
    folder = closed.parent / "archive"
    with ClosedLog(closed) as log:
        for each in make_objects(log, made, threading.Event()).objects:
            target = folder / each.name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(each.file.read_bytes())
    return folder


def days_log(folder: Path, days: int = 3) -> Path:
    closed = folder / "visits.log.20261127T000000.000000Z"
    for number in range(4 * days):
        visit = Visit(
            DAY + timedelta(hours=6 * number), f"https://a.example/{number}", f"Agent {number % 2}", "192.0.2.1"
        )
        with closed.open("ab") as file:
            file.write(format_line(visit))
    return closed


def summary(*names: Path, selection: Selection | None = None, with_query: bool = False) -> Summary:
    selection = selection or Selection()
    with open_logs([str(name) for name in names], selection.since, selection.until) as logs:
        return summarise(logs, selection, with_query=with_query)


def comparable(found: Summary) -> dict[str, object]:
    return {name: getattr(found, name) for name in found.__slots__ if name not in ("files", "notes")}


def test_a_report_of_the_archive_has_the_numbers_of_the_log(tmp_path: Path) -> None:
    closed = tmp_path / "visits.log.20261125T000000.000000Z"
    closed.write_bytes(b"".join(LINES))
    assert comparable(summary(archive_of(closed))) == comparable(summary(closed))


def test_an_export_of_the_archive_is_the_export_of_the_log(tmp_path: Path) -> None:
    closed = days_log(tmp_path)
    for name, source in (("a", closed), ("b", archive_of(closed))):
        assert main(["export", str(source), "--to", "csv", "-o", str(tmp_path / name)]) == 0
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert len(list(csv.reader(io.StringIO((tmp_path / "b").read_text())))) == 13


def test_days_outside_of_since_and_until_are_not_opened(tmp_path: Path) -> None:
    archive = archive_of(days_log(tmp_path))
    for day in (24, 26):
        (found,) = (archive / f"date=2026-11-{day}").iterdir()
        found.write_bytes(b"not Parquet")
    chosen = Selection(since=DAY + timedelta(days=1), until=DAY + timedelta(days=2))
    found_summary = summary(archive, selection=chosen)
    assert found_summary.total.people + found_summary.total.bots == 4
    assert any("2 Parquet files of days outside" in note for note in found_summary.notes)
    with pytest.raises(TrackerError, match="cannot be read as Parquet"):
        summary(archive)


def test_a_closed_log_that_is_given_as_text_too_counts_once(tmp_path: Path) -> None:
    closed = days_log(tmp_path)
    archive = archive_of(closed)
    live = tmp_path / "visits.log"
    live.write_bytes(format_line(Visit(DAY, None, "Agent 1", "192.0.2.2")))
    both = summary(archive, closed, live)
    assert both.total == summary(closed, live).total
    assert any("given as text too" in note for note in both.notes)
    closed.unlink()
    assert summary(archive, live).total == both.total
    assert summary(archive, archive, live).total == both.total  # the same folder twice


def test_an_export_is_read_like_the_archive(tmp_path: Path) -> None:
    closed = days_log(tmp_path)
    export = tmp_path / "visits.parquet"
    assert main(["export", str(closed), "--to", "parquet", "-o", str(export)]) == 0
    assert summary(export).total == summary(closed).total


def test_a_parquet_file_with_other_columns_is_refused_by_name(tmp_path: Path) -> None:
    file = tmp_path / "other.parquet"
    pq.write_table(pa.table({"time": ["2026-11-24"], "page": ["a"]}), file)
    with pytest.raises(TrackerError, match=r"other\.parquet: expected a column time of type TIMESTAMP WITH TIME ZONE"):
        summary(file)
    with pytest.raises(TrackerError, match="missing"):
        summary(tmp_path / "missing.parquet")


def test_long_texts_are_shortened_alike_from_parquet_and_from_text(tmp_path: Path) -> None:
    closed = tmp_path / "visits.log.20261125T000000.000000Z"
    long = "https://a.example/" + "a" * 975  # with the first é there is half a character at the limit
    pages = (long + "é" * 9, long + "é" * 8, f"{long}éé?{'q' * 1500}", f"{'p' * 900}?{'q' * 900}", "b?" + "é" * 400)
    closed.write_bytes(b"".join(format_line(Visit(DAY, page, f"Agent {page}", "192.0.2.1")) for page in pages))
    archive = archive_of(closed)
    found = summary(archive, with_query=True)
    assert comparable(found) == comparable(summary(closed, with_query=True))
    assert {len(count.name.encode()) for count in found.pages} == {1028, 2064, 1801, 287}
    assert comparable(summary(archive)) == comparable(summary(closed))
    # The same page counts as the same one, whichever file it is in.
    live = tmp_path / "visits.log"
    live.write_bytes(closed.read_bytes())
    assert summary(archive, live, with_query=True).pages_seen == len(pages)


def test_an_export_with_agents_is_the_same_from_parquet(tmp_path: Path) -> None:
    closed = days_log(tmp_path)
    for name, source in (("a", closed), ("b", archive_of(closed))):
        assert main(["export", str(source), "--to", "csv", "--agents", "-o", str(tmp_path / name)]) == 0
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_report_of_parquet_is_as_private_as_its_files(tmp_path: Path) -> None:
    archive = archive_of(days_log(tmp_path))
    for number, file in enumerate(sorted(archive.rglob("*.parquet"))):
        file.chmod(0o640 if number else 0o604)
    assert main(["report", str(archive), "--html", str(tmp_path / "report.html")]) == 0
    assert (tmp_path / "report.html").stat().st_mode & 0o777 == 0o600


@given(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=50)
    | st.sampled_from(["null", r"\x41", "'\"|"])
)
def test_a_text_is_escaped_as_in_the_log(text: str) -> None:
    with open_database(threads=1) as database:
        [(found, back)] = database.execute("SELECT escape($t), unescape(escape($t))", {"t": text}).fetchall()
    assert found == ("\\x6Eull" if text == "null" else escape(text))
    assert back == text
    assert plain_lines(f"2026-11-24T00:00:00.000000+00:00|{found}|null|192.0.2.1\n".encode())[1] == 0
