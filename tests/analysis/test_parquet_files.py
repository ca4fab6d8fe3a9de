"""Reports and exports of Parquet files: the same numbers as from the logs, and nothing is read that is not needed."""

import csv
import io
import json
import tempfile
from contextlib import redirect_stdout
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.analysis.archives import archive_of
from tests.analysis.golden import LINES, MALFORMED, TORN
from tests.core.strategies import headers, ips, visits
from tests.seam.method import LONG
from tracker.analysis.database import open_database
from tracker.analysis.log_files import open_logs
from tracker.analysis.plain import plain_lines
from tracker.analysis.selection import Selection
from tracker.analysis.summary import Summary, summarise
from tracker.cli import main
from tracker.core.log_line import escape, format_line
from tracker.core.visit import Visit
from tracker.errors import TrackerError
from tracker.exit_status import COULD_NOT_LOOK
from tracker.storage.log_check import check_log

DAY = datetime(2026, 11, 24, tzinfo=UTC)


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


def said_by(*arguments: str) -> str:
    """Standard output of a command; nothing where --since is not before --until."""
    with redirect_stdout(io.TextIOWrapper(io.BytesIO(), encoding="utf-8")) as said:
        main(list(arguments))
        said.seek(0)
        return said.read()


def test_a_report_of_the_archive_has_the_numbers_of_the_log(tmp_path: Path) -> None:
    closed = tmp_path / "visits.log.20261125T000000.000000Z"
    # Malformed lines count as malformed in both, and the last line, which has no newline, in none of them.
    closed.write_bytes(b"".join([*LINES, *MALFORMED, TORN]))
    archive = archive_of(closed)
    found = summary(archive)
    assert found.malformed == len(MALFORMED)
    assert comparable(found) == comparable(summary(closed))
    assert main(["report", str(archive), "--html", str(tmp_path / "report.html")]) == 0
    # Of a closed log that is given as text too, no file of the archive is read.
    assert comparable(summary(archive, closed)) == comparable(found)


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
    with pytest.raises(TrackerError, match=r"24/visits\.log\.\S+: cannot be read as Parquet"):
        summary(archive)


def test_a_damaged_object_is_named(tmp_path: Path) -> None:
    archive = archive_of(days_log(tmp_path))
    (found,) = (archive / "date=2026-11-25").iterdir()
    whole = found.read_bytes()
    for damaged in (b"", whole[:-1], whole[: len(whole) // 2], whole[:-200] + bytes(150) + whole[-50:]):
        found.write_bytes(damaged)
        assert main(["report", str(archive)]) == COULD_NOT_LOOK
        with pytest.raises(TrackerError, match=f"{found}: cannot be read as Parquet"):
            summary(archive)
    found.write_bytes(whole[:4] + b"\xff" * 400 + whole[404:])
    with pytest.raises(TrackerError, match=str(found)):
        summary(archive)
    found.unlink()
    found.symlink_to(tmp_path / "nowhere")
    with pytest.raises(TrackerError, match=f"{found}: No such file"):
        summary(archive)


def test_parquet_where_text_is_expected_is_called_parquet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (made,) = archive_of(days_log(tmp_path, days=1)).rglob("*.parquet")
    renamed = made.rename(tmp_path / "visits.log")
    assert main(["report", str(renamed)]) == COULD_NOT_LOOK
    assert "visits.log: cannot be read: it is Parquet and no text" in capsys.readouterr().err
    [problem] = check_log(renamed).problems
    assert "it is Parquet and no text" in problem


def test_a_row_without_a_time_of_the_calendar_or_without_an_address_is_malformed(tmp_path: Path) -> None:
    file = tmp_path / "visits.parquet"
    times = [None, -(2**62), 2**62, 0, 0]
    columns = {"page": pa.array([None] * 5, pa.string()), "user_agent": ["Agent"] * 5, "ip": ["192.0.2.1"] * 4 + [None]}
    pq.write_table(pa.table({"time": pa.array(times, pa.timestamp("us", "UTC"))} | columns), file)
    found = summary(file)
    assert (found.lines, found.malformed, found.total.visits) == (5, 4, 1)
    assert len(said_by("export", str(file), "--to", "jsonl").splitlines()) == 1


def test_a_folder_behind_a_link_is_read_once_and_links_make_no_circle(tmp_path: Path) -> None:
    archive = archive_of(days_log(tmp_path))
    day = archive / "date=2026-11-25"
    day.rename(tmp_path / "elsewhere")
    day.symlink_to(tmp_path / "elsewhere")
    (archive / "again").symlink_to(archive)
    found = summary(archive)
    assert found.total.visits == 12
    assert not [note for note in found.notes if "the same file" in note]


def test_two_storages_with_logs_of_one_name_are_not_mixed_up(tmp_path: Path) -> None:
    logs = []
    for name in ("eu-1", "eu-2"):
        (tmp_path / name).mkdir()
        logs.append(days_log(tmp_path / name))
        archive_of(logs[-1], tmp_path / "archive" / name)
    archive = tmp_path / "archive"
    assert summary(archive).total.visits == 24
    assert summary(archive, *logs).total.visits == 24
    with pytest.raises(TrackerError, match=r"two storages have logs of this name"):
        summary(archive, logs[0])


def test_thousands_of_small_objects_are_one_archive(tmp_path: Path) -> None:
    (tmp_path / "archive/date=2026-11-24").mkdir(parents=True)
    closed = days_log(tmp_path, days=1)
    (made,) = archive_of(closed, tmp_path / "made").rglob("*.parquet")
    content = made.read_bytes()
    for number in range(2000):
        (tmp_path / f"archive/date=2026-11-24/visits.log.{number:04}.parquet").write_bytes(content)
    assert summary(tmp_path / "archive").total.visits == 4 * 2000


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


def test_an_export_to_parquet_is_read_like_the_archive(tmp_path: Path) -> None:
    closed = tmp_path / "visits.log.20261125T000000.000000Z"
    closed.write_bytes(b"".join(LINES))
    archive = archive_of(closed)
    of_text, of_archive = tmp_path / "text.parquet", tmp_path / "archive.parquet"
    for source, export in ((closed, of_text), (archive, of_archive)):
        assert main(["export", str(source), "--to", "parquet", "--sort", "-o", str(export)]) == 0
        assert comparable(summary(export)) == comparable(summary(closed))
    assert pq.read_table(of_archive).equals(pq.read_table(of_text))


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


def test_a_text_is_escaped_as_in_the_log() -> None:
    with open_database(threads=1) as database:

        @given(
            st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=50)
            | st.sampled_from(["null", r"\x41", r"\x27", "'\"|"])
        )
        def as_in_the_log(text: str) -> None:
            [(found, back)] = database.execute("SELECT escape($t), unescape(escape($t))", {"t": text}).fetchall()
            assert found == ("\\x6Eull" if text == "null" else escape(text))
            assert back == text
            assert plain_lines(f"2026-11-24T00:00:00.000000+00:00|{found}|null|192.0.2.1\n".encode())[1] == 0

        as_in_the_log()


# In Berlin 25 October 2026 has 25 hours, and 29 March 23. Other visits are at any time of the calendar.
_days = st.sampled_from([date(2026, 10, 24), date(2026, 10, 25), date(2026, 10, 26), date(2026, 3, 29)])
_moments = st.builds(datetime.combine, _days, st.times(), st.just(UTC))
_lines = (
    st.builds(Visit, _moments, st.none() | headers, st.none() | headers, ips).map(format_line)
    | visits.map(format_line)
    | st.sampled_from([*LINES, *MALFORMED, b"2026-10-25T00:30:00.0000000Z|null||192.0.2.1\n"])
)


@settings(max_examples=200 if LONG else 10, deadline=None)
@given(
    logs=st.lists(st.lists(_lines, min_size=1, max_size=8), min_size=1, max_size=3),
    as_text=st.sets(st.integers(0, 2)),
    limits=st.tuples(st.none() | _days | _moments, st.none() | _days | _moments),
    zone=st.sampled_from(["UTC", "Europe/Berlin", "America/St_Johns"]),
    page=st.sampled_from(["*", "https://example.com/*", "*?*"]),
)
def test_whatever_is_in_the_logs_their_archive_has_the_same_numbers_and_the_same_visits(
    logs: list[list[bytes]], as_text: set[int], limits: tuple[date | None, date | None], zone: str, page: str
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        archive, texts, mixed = Path(folder, "archive"), list[Path](), list[Path]()
        for number, lines in enumerate(logs):
            texts.append(Path(folder, f"visits.log.20261026T0{number}0000.000000Z"))
            texts[-1].write_bytes(b"".join(lines))
            archive_of(texts[-1])
            mixed += texts[-1:] if number in as_text else []
        chosen = [f"--{name}={limit}" for name, limit in zip(("since", "until"), limits, strict=True) if limit]
        numbers, exports = list[dict[str, object]](), list[str]()
        for names in (texts, [archive, *mixed]):
            options = [*map(str, names), *chosen, "--tz", zone, *(["--page", page] if page != "*" else [])]
            numbers.append(json.loads(said_by("report", *options, "--json") or "{}"))
            exports.append(said_by("export", *options, "--to", "csv", "--sort"))
            # Of days that are not opened, the number of lines is not known.
            for name in ("files", "notes", *(["lines"] if chosen else [])):
                numbers[-1].pop(name, None)
        assert numbers[1] == numbers[0]
        assert exports[1] == exports[0]
