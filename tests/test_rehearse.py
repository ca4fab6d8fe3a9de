"""What `make rehearse` says about parts that cannot be rehearsed here, and how it accounts for the visits.

The rehearsal itself needs root and minutes.
"""

import gzip
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from tests.rehearse import __main__ as rehearse
from tests.rehearse.archive import PRINT_LOGS, account
from tests.rehearse.prepared import Missing, program, run


def test_a_missing_program_is_named_with_its_package() -> None:
    with pytest.raises(Missing, match=r"no-such-program is not installed \(Debian's package such-a-package\)"):
        program("no-such-program", "such-a-package")


def test_a_part_that_lacks_something_is_skipped_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def prepare(base: Path) -> None:
        program("no-such-program", "such-a-package")

    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setitem(rehearse.PARTS, "docker", rehearse.PARTS["docker"]._replace(prepare=prepare))
    reason = rehearse.attempt("docker", tmp_path, tmp_path)
    assert rehearse.conclude({"docker": reason, "systemd": None}) == 3
    assert "docker: skipped: no-such-program is not installed" in capsys.readouterr().out


def test_a_part_whose_download_fails_is_skipped_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def prepare(base: Path) -> None:
        run("sh", "-c", "echo no network; exit 1")

    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setitem(rehearse.PARTS, "docker", rehearse.PARTS["docker"]._replace(prepare=prepare))
    reason = rehearse.attempt("docker", tmp_path, tmp_path)
    assert reason is not None
    assert reason.startswith("skipped: it cannot be prepared")
    assert "no network" in reason


def test_nobody_but_root_rehearses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert rehearse.attempt("systemd", tmp_path, tmp_path) == "skipped: namespaces and mounts need root"


def test_a_part_that_failed_is_the_status() -> None:
    assert rehearse.conclude({"docker": "failed", "compose": "skipped: no LocalStack"}) == 1
    assert rehearse.conclude({"docker": None}) == 0


def test_the_logs_that_are_not_archived_are_printed_and_nothing_else(tmp_path: Path) -> None:
    closed = "visits.log.20261124T130000.000000Z"
    for name in ("visits.log", f"{closed}.gz.part", "visits.log.torn-20261124T130000.000000Z", "visits.log-20261123"):
        (tmp_path / name).write_text(f"{name}\n")
    for hour in (11, 12):
        name = closed.replace("T13", f"T{hour}")
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(f"{name}\n".encode()))
    markers = tmp_path / "visits.log.d/archived"
    markers.mkdir(parents=True)
    for archived in ("visits.log-20261123", closed.replace("T13", "T11")):
        (markers / archived).touch()
    script = PRINT_LOGS.replace("/var/log/tracker", str(tmp_path))
    printed = subprocess.run(["sh", "-eu", "-c", script], capture_output=True, text=True, check=True).stdout
    assert sorted(printed.split()) == ["visits.log", closed.replace("T13", "T12")]


def lines(*pages: str) -> str:
    return "".join(f"2026-11-24T12:00:00.000000+00:00|{page}|load|192.0.2.1\n" for page in pages)


def test_visits_that_are_once_in_a_log_or_in_the_archive_are_accounted_for() -> None:
    said: list[str] = []
    account({"/1", "/2", "/3"}, lambda: Counter(["/1", "/3"]), lambda: lines("/2", "/not-answered"), said.append)
    assert said == ["3 visits were answered: each is there once, none is missing; 2 are in the archive"]


@pytest.mark.parametrize(
    ("archived", "logs", "why"),
    [
        ({"/1": 1}, lines(), "every answered visit is in a log or in the archive"),
        ({"/1": 1}, lines("/1", "/2"), "more than once"),
        ({"/1": 2}, lines("/2"), "more than once"),
        ({}, lines("/1", "/2"), "no visit is in the archive"),
    ],
)
def test_a_visit_that_is_missing_or_there_twice_fails_the_rehearsal(
    archived: dict[str, int], logs: str, why: str
) -> None:
    with pytest.raises(AssertionError, match=why):
        account({"/1", "/2"}, lambda: Counter(archived), lambda: logs, print, seconds=0)
