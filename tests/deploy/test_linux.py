"""systemd, logrotate: the files are right by the tools that will read them."""

import os
import pwd
import re
import stat
from pathlib import Path

import pytest

from tracker.config import load_pixel, load_storage
from tracker.visit_log_files import archived_directory

from .tools import DEPLOY, run, tool

SYSTEMD = DEPLOY / "systemd"
UNITS = ["tracker-pixel.service", "tracker-storage.service"]
root_only = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def setting(unit: str, name: str) -> str:
    values = re.findall(rf"^{name}=(.*)$", (SYSTEMD / unit).read_text(), re.MULTILINE)
    assert values, f"{unit} has no {name}"
    return str(values[-1])


ARCHIVE = "tracker-archive.service"


@pytest.mark.parametrize("unit", [*UNITS, ARCHIVE])
def test_systemd_verifies_the_unit(unit: str, tmp_path: Path) -> None:
    # As installed, but for the commands, which are those of this environment.
    scripts = Path(tool("tracker-pixel")).parent
    installed = tmp_path / unit
    installed.write_text((SYSTEMD / unit).read_text().replace("/opt/tracker/bin", str(scripts)))
    said = run("systemd-analyze", "verify", "--man=no", "--recursive-errors=no", installed)
    assert unit not in said, said


@pytest.mark.parametrize("unit", [*UNITS, ARCHIVE])
def test_systemd_finds_the_unit_little_exposed(unit: str) -> None:
    run("systemd-analyze", "security", "--offline=true", "--threshold=20", "--no-pager", SYSTEMD / unit)


@pytest.mark.parametrize(("unit", "name"), list(zip(UNITS, ("pixel", "storage"), strict=True)))
def test_the_unit_fits_its_service(unit: str, name: str) -> None:
    path = SYSTEMD / f"{name}.yaml"
    config = load_pixel(path, {}) if name == "pixel" else load_storage(path, {})
    assert setting(unit, "ExecStart").split() == [
        f"/opt/tracker/bin/tracker-{name}",
        "--config",
        f"/etc/tracker/{name}.yaml",
    ]
    assert setting(unit, "Type") == "notify"
    assert float(setting(unit, "WatchdogSec")) > 30  # longer than a hanging worker is given
    assert float(setting(unit, "TimeoutStopSec")) > config.shutdown.timeout
    assert setting(unit, "RestartPreventExitStatus") == "78"
    assert setting(unit, "ReadWritePaths") in str(getattr(config, "outbox", None) or config)


def test_the_archive_has_a_user_of_its_own_who_may_write_the_markers_only() -> None:
    config = load_storage(SYSTEMD / "storage.yaml", {})
    assert setting(ARCHIVE, "ExecStart") == "/opt/tracker/bin/tracker archive --config /etc/tracker/storage.yaml"
    assert setting(ARCHIVE, "ReadWritePaths") == str(archived_directory(Path(config.log.path)))
    assert setting(ARCHIVE, "User") not in {setting(unit, "User") for unit in UNITS}
    assert setting(ARCHIVE, "Group") == setting("tracker-storage.service", "Group")
    run("systemd-analyze", "calendar", setting("tracker-archive.timer", "OnCalendar"))


@root_only
def test_the_user_and_the_directories_are_made(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    run("systemd-sysusers", f"--root={tmp_path}", SYSTEMD / "tracker.sysusers.conf")
    users = (tmp_path / "etc/passwd").read_text()
    found = re.search(r"^tracker:[^:]*:(\d+):(\d+):[^:]*:/var/lib/tracker:/usr/sbin/nologin$", users, re.MULTILINE)
    assert found is not None, users
    run("systemd-tmpfiles", f"--root={tmp_path}", "--create", SYSTEMD / "tracker.tmpfiles.conf")
    markers = archived_directory(tmp_path / "var/log/tracker/visits.log").stat()
    assert (stat.S_IMODE(markers.st_mode), markers.st_gid) == (0o750, int(found[2]))
    assert f"tracker-archive:x:{markers.st_uid}:{found[2]}:" in users
    for folder, owner in (("etc", 0), ("var/lib", int(found[1])), ("var/log", int(found[1]))):
        made = (tmp_path / folder / "tracker").stat()
        assert stat.S_IMODE(made.st_mode) == 0o750
        assert made.st_uid == owner
        assert made.st_gid == int(found[2])


def rotation(folder: Path, postrotate: str) -> Path:
    """The logrotate file for a log in `folder`, whose owner is whoever runs the test."""
    me = pwd.getpwuid(os.geteuid()).pw_name
    text = (DEPLOY / "logrotate/tracker").read_text()
    text = text.replace("/var/log/tracker", str(folder)).replace("tracker tracker", f"{me} {me}")
    text, changed = re.subn(r"^ +systemctl kill .*$", f"        {postrotate}", text, flags=re.MULTILINE)
    assert changed == 1
    path = folder.parent / "logrotate.conf"
    path.write_text(text)
    path.chmod(0o644)
    return path


def test_logrotate_renames_makes_a_new_file_and_says_so(tmp_path: Path) -> None:
    folder = tmp_path / "log"
    folder.mkdir(mode=0o750)
    log = folder / "visits.log"
    state = tmp_path / "state"
    config = rotation(folder, f"ls {folder} >> {tmp_path}/reloaded")
    log.write_text("first\n")
    inode = log.stat().st_ino
    run("logrotate", "--force", "--state", state, config)
    [old] = folder.glob("visits.log-*")
    assert old.stat().st_ino == inode  # renamed, not copied: storage may still be writing to it
    assert old.read_text() == "first\n"
    assert log.read_text() == ""
    assert stat.S_IMODE(log.stat().st_mode) == 0o640
    assert (tmp_path / "reloaded").read_text().split() == [
        "visits.log",
        old.name,
    ]  # the signal comes once both are there

    assert "copytruncate" not in re.sub(r"#.*", "", (DEPLOY / "logrotate/tracker").read_text())


def test_an_empty_log_is_not_rotated(tmp_path: Path) -> None:
    folder = tmp_path / "log"
    folder.mkdir(mode=0o750)
    (folder / "visits.log").touch(0o640)
    config = rotation(folder, "exit 1")
    run("logrotate", "--force", "--state", tmp_path / "state", config)
    assert [path.name for path in folder.iterdir()] == ["visits.log"]


def test_the_signal_of_the_rotation_goes_to_the_unit_that_is_there() -> None:
    found = re.search(r"systemctl kill .*?(\S+\.service)", (DEPLOY / "logrotate/tracker").read_text())
    assert found is not None
    assert (SYSTEMD / found[1]).exists()
