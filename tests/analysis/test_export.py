"""What is exported is what was visited, in every format, whatever a visitor put into it."""

import csv
import gzip
import json
import re
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.analysis.golden import LINES, write_golden
from tests.core.strategies import visits
from tracker import cli
from tracker.core.log_line import format_line, parse_line
from tracker.core.visit import Visit

# One export is a tenth of a second, so each example is many visits.
_many_visits = st.lists(visits, min_size=1, max_size=60)
_few_examples = settings(max_examples=8, suppress_health_check=list(HealthCheck))

TRACKER = (sys.executable, "-m", "tracker.cli")


def export(log: Path, to: str, *words: str) -> Path:
    target = log.with_name(f"exported.{to}")
    assert cli.main(["export", str(log), "--to", to, "--output", str(target), *words]) == 0
    return target


def read_csv(path: Path) -> list[Visit]:
    with path.open(newline="", encoding="utf-8") as file:
        return [_visit(row) for row in csv.DictReader(file)]


def read_jsonl(path: Path) -> list[Visit]:
    return [_visit(json.loads(line)) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]


def read_parquet(path: Path) -> list[Visit]:
    rows = duckdb.execute(f"SELECT epoch_us(time), page, user_agent, ip FROM '{path}'").fetchall()
    assert duckdb.execute(f"SELECT typeof(time) FROM '{path}' LIMIT 1").fetchall() == [("TIMESTAMP WITH TIME ZONE",)]
    begin = datetime(1, 1, 1, tzinfo=UTC)
    us = 62_135_596_800_000_000
    return [Visit(begin + (datetime.resolution * (time + us)), *rest) for time, *rest in rows]


def _visit(row: dict[str, str | None]) -> Visit:
    assert row["time"] is not None
    assert row["ip"] is not None
    return Visit(datetime.fromisoformat(row["time"]), row["page"] or None, row["user_agent"] or None, row["ip"])


COMBINED = re.compile(
    r'(?P<ip>\S+) - - \[(?P<time>[^]]+)\] "GET (?P<path>\S+) HTTP/1\.1" 200 43 "(?P<page>[^"]+)" "(?P<agent>[^"]+)"'
)


def read_combined(path: Path) -> list[Visit]:
    """With nothing but the rules of the format: fields by their quotes, bytes by their escapes."""
    made = []
    for line in path.read_bytes().decode("ascii").split("\n")[:-1]:
        found = COMBINED.fullmatch(line)
        assert found, line
        time = datetime.strptime(found["time"], "%d/%b/%Y:%H:%M:%S %z")
        texts = [None if found[name] == "-" else _unescaped(found[name]) for name in ("page", "agent")]
        made.append(Visit(time, texts[0], texts[1], found["ip"]))
    return made


def _unescaped(text: str) -> str:
    return re.sub(rb"\\x([0-9A-F]{2})", lambda found: bytes([int(found[1], 16)]), text.encode()).decode()


def to_the_second(visit: Visit) -> Visit:
    return Visit(visit.time.replace(microsecond=0), visit.referrer, visit.user_agent, visit.ip)


@pytest.mark.parametrize(("to", "read"), [("csv", read_csv), ("jsonl", read_jsonl), ("parquet", read_parquet)])
@given(made=_many_visits)
@_few_examples
def test_a_visit_is_read_back_exactly(
    tmp_path_factory: pytest.TempPathFactory, to: str, read: Callable[[Path], list[Visit]], made: list[Visit]
) -> None:
    log = tmp_path_factory.mktemp("export") / "visits.log"
    log.write_bytes(b"".join(map(format_line, made)))
    assert read(export(log, to)) == made


@given(made=_many_visits)
@_few_examples
def test_combined_says_all_but_the_fraction_of_the_second(
    tmp_path_factory: pytest.TempPathFactory, made: list[Visit]
) -> None:
    log = tmp_path_factory.mktemp("export") / "visits.log"
    log.write_bytes(b"".join(map(format_line, made)))
    assert read_combined(export(log, "combined")) == [to_the_second(visit) for visit in made]


@given(lines=st.lists(st.binary(max_size=80).map(lambda raw: raw.replace(b"\n", b"") + b"\n") | st.sampled_from(LINES)))
@_few_examples
def test_any_file_is_exported_as_the_visits_its_lines_are(
    tmp_path_factory: pytest.TempPathFactory, lines: list[bytes]
) -> None:
    log = tmp_path_factory.mktemp("export") / "visits.log"
    lines = [LINES[0], *lines]  # without any visit the status is 3
    log.write_bytes(b"".join(lines))
    # No line of these few bytes is a visit by chance.
    assert read_jsonl(export(log, "jsonl")) == [parse_line(line) for line in lines if line in LINES]


@pytest.mark.parametrize(
    ("page", "path"),
    [
        ("https://example.com/a/b?c=d&e=%20f", "/a/b?c=d&e=%20f"),
        ("https://example.com", "/"),
        ("https://example.com?q=/", "/?q=/"),
        ('https://example.com/a b" HTTP/1.1', "/a%20b\\x22%20HTTP/1.1"),
        ("https://example.com/a|b\\\x1b", "/a|b\\x5C\\x1B"),
        ("https://example.com/ü", "/\\xC3\\xBC"),
        ("https://example.com/#!/a,b;c'd", "/#!/a,b;c'd"),
        ("android-app://com.example/", "/"),
        ("about:blank", "/about:blank"),
        ("newsletter/2026-11/top", "/newsletter/2026-11/top"),
        ("//cdn/x", "//cdn/x"),
        ("welcome mail?a=b", "/welcome%20mail?a=b"),
        ("welcome?from=https://example.com/", "/welcome?from=https://example.com/"),
        ("-", "/-"),
        ("null", "/-"),
        (None, "/-"),
    ],
)
def test_in_combined_the_request_is_for_the_page(tmp_path: Path, page: str | None, path: str) -> None:
    log = tmp_path / "visits.log"
    log.write_bytes(format_line(Visit(datetime(2026, 11, 24, tzinfo=UTC), page, "-", "192.0.2.1")))
    exported = export(log, "combined")
    found = COMBINED.fullmatch(exported.read_text().rstrip("\n"))
    assert found is not None
    assert found["path"] == path
    assert read_combined(exported) == [Visit(datetime(2026, 11, 24, tzinfo=UTC), page, "-", "192.0.2.1")]


def test_the_order_is_the_logs_or_by_time_and_a_visit_that_is_there_twice_can_be_once(tmp_path: Path) -> None:
    log = tmp_path / "visits.log"
    log.write_bytes(b"".join([LINES[4], LINES[0], LINES[3], LINES[0], LINES[4]]))
    expected = [parse_line(line) for line in (LINES[4], LINES[0], LINES[3], LINES[0], LINES[4])]
    assert read_csv(export(log, "csv")) == expected
    assert read_csv(export(log, "csv", "--sort")) == sorted(expected, key=lambda visit: visit.time)
    assert read_csv(export(log, "csv", "--distinct")) == [parse_line(LINES[number]) for number in (0, 3, 4)]


def test_the_order_of_a_long_log_is_kept(tmp_path: Path) -> None:
    log = tmp_path / "visits.log"
    times = [datetime.fromtimestamp(1_800_000_000 - number, UTC) for number in range(20_000)]
    log.write_bytes(b"".join(format_line(Visit(time, "https://example.com/", "x" * 300, "::1")) for time in times))
    assert [visit.time for visit in read_csv(export(log, "csv"))] == times
    assert [visit.time for visit in read_csv(export(log, "csv", "--sort"))] == times[::-1]


def test_visits_are_chosen_by_time_and_page(tmp_path: Path) -> None:
    log = write_golden(tmp_path)
    chosen = export(
        log, "csv", "--since", "2026-11-24", "--until", "2026-11-24T11:00", "--page", "https://example.com/a"
    )
    assert read_csv(chosen) == [parse_line(LINES[4]), parse_line(LINES[5])]
    berlin = export(log, "csv", "--tz", "Europe/Berlin", "--until", "2026-11-23")
    assert read_csv(berlin) == [parse_line(LINES[0]), parse_line(LINES[1])]


def test_a_spreadsheet_gets_text_where_a_visitor_wrote_a_formula(tmp_path: Path) -> None:
    log = tmp_path / "visits.log"
    formulas = ["=HYPERLINK(1)", "+1", "-1", "@x", "\t=1", "\r=1", "\n=1"]
    later = ["a;=1", "a|=1", "a +1", "a,@1", "＝1", "－1"]
    harmless = ["https://example.com/?=1", "Mozilla/5.0", "a=1"]
    time = datetime(2026, 11, 24, 13, 0, 1, 999999, tzinfo=UTC)
    log.write_bytes(b"".join(format_line(Visit(time, text, text, "::1")) for text in formulas + later + harmless))
    with export(log, "spreadsheet").open(newline="", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    safe = [f"'{text}" for text in formulas] + ["a;'=1", "a|'=1", "a '+1", "a,'@1", "'＝1", "'－1"]
    assert [row["page"] for row in rows] == safe + harmless
    assert [row["user_agent"] for row in rows] == [row["page"] for row in rows]
    assert rows[0]["time"] == "2026-11-24 13:00:01"


def test_standard_output_is_appended_to_and_says_what_was_left_out_elsewhere(tmp_path: Path) -> None:
    log, target = write_golden(tmp_path), tmp_path / "all.csv"
    target.write_bytes(b"already here\n")
    with target.open("ab") as file:
        done = subprocess.run([*TRACKER, "export", log, "--to", "csv"], stdout=file, stderr=subprocess.PIPE, check=True)
    assert target.read_bytes().startswith(b"already here\ntime,page,user_agent,ip\n2026-11-23T09:00:00.000000+00:00,")
    assert b"16 lines read, 3 of them malformed" in done.stderr


def test_a_reader_that_has_seen_enough_ends_the_export_quietly(tmp_path: Path) -> None:
    log = tmp_path / "visits.log"
    log.write_bytes(LINES[0] * 50_000)
    running = subprocess.Popen(
        [*TRACKER, "export", log, "--to", "combined"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert running.stdout is not None
    assert running.stdout.readline().startswith(b"192.0.2.1 - - [23/Nov/2026:09:00:00 +0000]")
    running.stdout.close()
    assert running.wait(timeout=30) == 0
    assert running.stderr is not None
    assert running.stderr.read() == b""
    running.stderr.close()


def test_a_failed_export_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log, target = tmp_path / "visits.log.gz", tmp_path / "exported.csv"
    packed = gzip.compress(b"".join(LINES) * 5000)
    log.write_bytes(packed[:1000] + b"\xff" * 1000 + packed[2000:])
    target.write_text("old")
    assert cli.main(["export", str(log), "--to", "csv", "--output", str(target)]) == 3
    assert "visits.log.gz: cannot be read" in capsys.readouterr().err
    assert target.read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["exported.csv", "visits.log.gz"]


def test_parquet_needs_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["export", str(write_golden(tmp_path)), "--to", "parquet"]) == 2
    assert "--output" in capsys.readouterr().err


def test_every_format_of_an_empty_log_is_there(tmp_path: Path) -> None:
    log = tmp_path / "visits.log"
    log.touch()
    assert export(log, "csv").read_text() == "time,page,user_agent,ip\n"
    assert export(log, "jsonl").read_text() == ""
    assert export(log, "combined").read_text() == ""
    assert duckdb.execute(f"SELECT count(*) FROM '{export(log, 'parquet')}'").fetchall() == [(0,)]


def test_kind_and_name_of_the_agent_are_columns_on_request(tmp_path: Path) -> None:
    log = write_golden(tmp_path)
    for to in ("csv", "spreadsheet"):
        with export(log, to, "--agents").open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
        assert list(rows[0]) == ["time", "page", "user_agent", "ip", "kind", "agent", "system", "device"]
        assert [row["ip"] for row in rows] == [parse_line(line).ip for line in LINES]  # in the order of the log
        assert [(row["kind"], row["agent"], row["system"], row["device"]) for row in rows[:1] + rows[6:8]] == [
            ("person", "Chrome", "Windows", "desktop"),
            ("bot", "Googlebot", "", "search engine"),
            ("bot", "no user agent", "", "other"),
        ]
    rows = [json.loads(line) for line in export(log, "jsonl", "--agents", "--distinct").read_text().splitlines()]
    assert [row["kind"] for row in rows].count("proxy") == 2
    assert duckdb.execute(f"SELECT count(kind) FROM '{export(log, 'parquet', '--agents')}'").fetchall() == [(13,)]


def test_the_name_that_an_agent_gives_itself_is_no_formula(tmp_path: Path) -> None:
    log = tmp_path / "visits.log"
    log.write_bytes(format_line(Visit(datetime(2026, 11, 24, tzinfo=UTC), None, "=HYPERLINK(1) bot", "::1")))
    with export(log, "spreadsheet", "--agents").open(newline="", encoding="utf-8-sig") as file:
        assert next(csv.DictReader(file))["agent"] == "'=HYPERLINK"


def test_the_combined_log_format_has_no_column_for_the_agent(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["export", str(write_golden(tmp_path)), "--to", "combined", "--agents"]) == 2
    assert "--agents" in capsys.readouterr().err
