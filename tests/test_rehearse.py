"""What `make rehearse` says about parts that cannot be rehearsed here. The rehearsal itself needs root and minutes."""

from pathlib import Path

import pytest

from tests.rehearse import __main__ as rehearse
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
