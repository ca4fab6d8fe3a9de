"""`tracker report` and `tracker export` as they are typed."""

import dataclasses
import io
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from tests.analysis.golden import write_golden
from tests.seam.method import LONG
from tests.waiting import until
from tracker import cli, extras
from tracker.analysis.log_files import open_logs
from tracker.analysis.progress import progress
from tracker.analysis.summary import Summary
from tracker.extras import how_to_install

ANALYSIS = Path(__file__).parents[2] / "docs" / "analysis.md"


def test_a_terminal_gets_a_summary(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["report", str(write_golden(tmp_path))]) == 0
    said = " ".join(capsys.readouterr().out.split())
    for words in (
        "12 visits 5 visitors 4 pages in 3 sites and groups",
        "people 58 % mail and image proxies 17 % mail scanners 0 % bots 25 %",
        "2026-11-23 09:00:00 to 2026-11-24 13:00:00, UTC",
        "Visits by hour",
        "23 Nov 09:00 to 24 Nov 13:00; most on 24 Nov 11:00: 3",
        "busiest hours: 09:00, 10:00, 13:00",
        "https://example.com/a 5 42 % ━━━━━━━━━━━━ 3",
        "(not sent) 4 33 %",
        "Chrome 4 57 % ━━━━━━━━━━━━ 2",
        "Googlebot search engine 1 8 %",
        "16 lines read, 3 of them malformed",
    ):
        assert words in said


def test_no_byte_of_a_visitor_reaches_the_terminal_raw(tmp_path: Path) -> None:
    log = write_golden(tmp_path)
    log.write_bytes(
        log.read_bytes() + b"\n2026-11-24T13:00:00Z|[red]https://[/]x\\x1B]0;title\\x07/|[bold]a|192.0.2.66\n" * 9
    )
    environment = {**os.environ, "FORCE_COLOR": "1", "TERM": "xterm-256color", "COLUMNS": "200"}
    done = subprocess.run(
        [sys.executable, "-m", "tracker.cli", "report", log], env=environment, stdout=subprocess.PIPE, check=True
    )
    assert b"\x1b[" in done.stdout  # our own colours
    assert b"\x1b]" not in done.stdout
    assert b"\x07" not in done.stdout
    assert rb"[red]https://[/]x\x1b]0;title\x07/" in done.stdout


def test_a_page_is_written_or_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log, page = write_golden(tmp_path), tmp_path / "report.html"
    assert (
        cli.main(["report", str(log), "--html", str(page), "--exclude-bots", "--tz", "Asia/Tokyo", "--top", "1"]) == 0
    )
    assert "9 visits" in capsys.readouterr().err
    assert "23 Nov 2026, 18:00 to 24 Nov 2026, 22:00, Asia/Tokyo" in page.read_text()
    assert cli.main(["report", str(log), "--html", "-"]) == 0
    assert capsys.readouterr().out.startswith("<!doctype html>")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "visits.log"]


def test_a_page_that_cannot_be_written_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "missing" / "report.html"
    assert cli.main(["report", str(write_golden(tmp_path)), "--html", str(page)]) == 3
    assert f"tracker: {page}: No such file or directory" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ["--since", "yesterday"],
        ["--until", "2026-13-01"],
        ["--tz", "Atlantis/Capital"],
        ["--tz", "../../etc/passwd"],
        ["--top", "0"],
    ],
)
def test_a_wrong_word_is_a_usage_error(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main(["report", "visits.log", *words])
    assert stopped.value.code == 2
    assert words[0] in capsys.readouterr().err


@pytest.mark.parametrize("command", [["report"], ["export", "--to", "csv"]])
def test_what_is_not_installed_is_named_with_the_extra_that_has_it(
    command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda name: None if name in ("duckdb", "rich") else True)
    assert cli.main([*command, str(write_golden(tmp_path))]) == 3
    said = capsys.readouterr().err
    assert "DuckDB, rich" in said
    assert how_to_install("analysis") in said


def test_nothing_of_the_extra_is_imported_before_a_command_runs() -> None:
    code = (
        "import sys, contextlib\n"
        "from tracker import cli\n"
        "with contextlib.suppress(SystemExit): cli.main(['report', '--help'])\n"
        "with contextlib.suppress(SystemExit): cli.main(['export', '--help'])\n"
        "assert not {'duckdb', 'rich', 'ua_parser', 'crawleruseragents'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True)
    assert "--exclude-bots" in done.stdout
    assert "parquet" in done.stdout


def test_nothing_is_left_in_the_temporary_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    log, folder = write_golden(tmp_path), tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    assert cli.main(["report", str(log)]) == 0
    assert cli.main(["export", str(log), "--to", "csv", "--sort"]) == 0
    assert list(folder.iterdir()) == []


async def test_ctrl_c_ends_it_at_once_and_leaves_nothing(tmp_path: Path) -> None:
    running = subprocess.Popen(
        [sys.executable, "-m", "tracker.cli", "report", "-"],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    await until(lambda: any(tmp_path.glob("*/visits.duckdb*")))
    running.send_signal(signal.SIGINT)
    assert running.wait(timeout=20) == 130
    assert list(tmp_path.iterdir()) == []
    said, complained = running.communicate()
    assert said == complained == b""


def test_the_bar_shows_how_much_has_been_read(tmp_path: Path) -> None:
    log = write_golden(tmp_path)
    console = Console(force_terminal=True, width=100, file=io.StringIO())
    with open_logs([str(log)]) as logs, progress(logs, console) as on_step:
        while logs.next_block() is not None:
            pass
        on_step("counting")
    assert isinstance(console.file, io.StringIO)
    shown = console.file.getvalue()
    assert f"{log.stat().st_size / 1000:.1f}/{log.stat().st_size / 1000:.1f} kB" in shown
    assert "counting" in shown


def test_the_terminal_has_as_many_rows_as_were_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "visits.log"
    log.write_text("".join(f"2026-11-24T12:00:00Z|https://example.com/{n:02d}|x|::1\n" for n in range(30)))
    for words, rows in (([], 8), (["--top", "3"], 3), (["--top", "29"], 29)):
        assert cli.main(["report", str(log), *words]) == 0
        assert capsys.readouterr().out.count("https://example.com/") == rows


# On Linux, `ru_maxrss` of a process is at least the memory of the one that has started it; VmHWM is its own.
_MEASURED = """
import os, re, resource, sys
from pathlib import Path
os.cpu_count = lambda: int(sys.argv[1])
from tracker import cli
status = cli.main(sys.argv[2:])
if sys.platform == "linux":
    peak = int(re.search(r"VmHWM:\\s+([0-9]+)", Path("/proc/self/status").read_text())[1]) // 1024
else:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // (1024 * 1024)
print(peak, file=sys.stderr)
sys.exit(status)
"""


def _hostile_log(kind: str, log: Path) -> None:
    line = "2026-11-24T12:00:00.{:06d}+00:00|{}|{}|192.0.2.1\n"
    smile = r"\xF0\x9F\x98\x80"
    with log.open("w") as file:
        for number in range(2000 if kind == "long" else 60_000):
            if kind == "long":
                file.write(line.format(number, "x", smile * 1990 + str(number)))
            else:
                agent = f"Mozilla/5.0 (X11; Linux x86_64) Firefox/{number}.0" if kind == "agents" else "Windows"
                file.write(line.format(number, f"https://example.com/{number}" + "a" * 500, agent))


@pytest.mark.parametrize("cores", [2, 64] if LONG else [64])  # with more threads each has less of the memory
@pytest.mark.parametrize(
    ("kind", "command"),
    [
        ("long", ["report", "--html", "-"]),
        ("long", ["export", "--to", "csv", "--distinct"]),
        ("pages", ["report", "--html", "-"]),
        ("pages", ["export", "--to", "csv", "--distinct"]),
        ("agents", ["report", "--html", "-"]),
    ],
)
def test_memory_is_bounded_whatever_the_log_holds(kind: str, command: list[str], cores: int, tmp_path: Path) -> None:
    log = tmp_path / "visits.log"
    _hostile_log(kind, log)
    done = subprocess.run(
        [sys.executable, "-c", _MEASURED, str(cores), *command, str(log)],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert int(done.stderr.split()[-1]) < 500


def test_programs_get_the_numbers_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = str(write_golden(tmp_path))
    assert cli.main(["report", log, "--json", "--since", "2026-11-01", "--tz", "Asia/Tokyo"]) == 0
    said = capsys.readouterr().out
    assert said.isascii()
    numbers = json.loads(said)
    kinds = {"visits": 12, "people": 7, "proxies": 2, "scanners": 0, "bots": 3}
    assert numbers["total"] == kinds | {"visitors": 5}
    assert numbers["pages"][0] == {
        "name": "https://example.com/a", "note": None, "visits": 5, "people": 4, "proxies": 0, "scanners": 0, "bots": 1,
        "visitors": 3,
    }  # fmt: skip
    assert numbers["pages"][1]["name"] is None
    assert {bot["name"]: bot["note"] for bot in numbers["bots"]}["Googlebot"] == "search engine"
    assert {kind: sum(quarter[kind] for quarter in numbers["quarters"]) for kind in kinds} == kinds
    assert numbers["quarters"][0]["begin"] == numbers["first"] == "2026-11-23T18:00:00+09:00"
    assert numbers["selection"] == {
        "since": "2026-11-01T00:00:00+09:00", "until": None, "page": None, "exclude_bots": False
    }  # fmt: skip
    assert numbers["hours"][0][18] == 2.0  # Monday
    assert numbers["days"][0] == {"day": "2026-11-23", "visitors": 1, "new": 1}
    assert [numbers[name] for name in ("lines", "malformed", "doctor", "pages_seen", "sites_seen")] == [16, 3, 1, 4, 3]
    assert (numbers["files"], numbers["zone"]) == ([log], "Asia/Tokyo")


def test_the_json_has_all_numbers_of_the_page_by_the_documented_names(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["report", str(write_golden(tmp_path)), "--json"]) == 0
    keys = set(json.loads(capsys.readouterr().out))
    # The page is made of a summary and nothing else.
    assert keys == {field.name for field in dataclasses.fields(Summary)} | {"hours"}
    table = ANALYSIS.read_text(encoding="utf-8").split("| key | is |\n|---|---|\n")[1].split("\n\n")[0]
    assert keys == {key for row in table.splitlines() for key in re.findall(r"`(\w+)`", row.split("|")[1])}


def test_a_date_before_time_zones_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "visits.log"
    for year in ("1850", "1900"):
        log.write_text(f"{year}-01-01T12:00:00Z|x|Windows|::1\n2026-11-24T12:00:00Z|x|Windows|::1\n")
        for words in ([], ["--until", "1900-12-31"], ["--html", "-"]):
            assert cli.main(["report", str(log), "--tz", "Europe/Berlin", *words]) == 0
    capsys.readouterr()


def test_no_device_or_pipe_is_replaced_by_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log, pipe = write_golden(tmp_path), tmp_path / "pipe"
    os.mkfifo(pipe)
    for command in (["report", "--html"], ["export", "--to", "csv", "--output"]):
        assert cli.main([command[0], str(log), *command[1:], str(pipe)]) == 3
        assert f"{pipe}: expected the name of a file" in capsys.readouterr().err
    assert pipe.is_fifo()


def test_what_is_written_is_as_private_as_the_logs_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log, target, elsewhere = write_golden(tmp_path), tmp_path / "made", tmp_path / "elsewhere"
    elsewhere.write_text("untouched")
    target.symlink_to(elsewhere)
    log.chmod(0o640)
    for command in (["report", "--html"], ["export", "--to", "csv", "--output"]):
        assert cli.main([command[0], str(log), *command[1:], str(target)]) == 0
        assert target.stat().st_mode & 0o777 == 0o640
    assert elsewhere.read_text() == "untouched"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["elsewhere", "made", "visits.log"]
    capsys.readouterr()


def test_a_locale_without_unicode_is_no_failure(tmp_path: Path) -> None:
    log = write_golden(tmp_path)
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "LC_ALL": "C"}
    log.write_bytes(log.read_bytes() + b"\n" + b"2026-11-24T13:00:00Z|x|Windows|::1\n" * 1200)
    every_form = "[cli.main(['report', sys.argv[1], *words]) for words in ([], ['--html', '-'], ['--json'])]"
    done = subprocess.run(
        [sys.executable, "-c", f"import sys\nfrom tracker import cli\nsys.exit(any({every_form}))", log],
        env=environment,
        stdout=subprocess.PIPE,
        check=True,
    )
    assert done.stdout.count(b"1 217 lines read") == 3


def test_a_narrow_terminal_shows_all_hours(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "visits.log"
    log.write_text("".join(f"2026-11-{1 + n // 24:02d}T{n % 24:02d}:00:00Z|x|Windows|::1\n" for n in range(100)))
    assert cli.main(["report", str(log)]) == 0
    assert "01 Nov 2026 to Thu 05 Nov 2026" in capsys.readouterr().out
