"""systemd, logrotate: the files are right by the tools that will read them."""

import os
import pwd
import re
import stat
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.guides import guide
from tests.system.wire import wait_for
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


DROP_INS = ["tracker-archive-follow.conf", "tracker-archive-keep-local.conf"]


def verified(unit: str, folder: Path) -> str:
    """What systemd says of the unit, and of its drop-ins in `folder`."""
    # As installed, but for the commands, which are those of this environment.
    scripts = Path(tool("tracker-pixel")).parent
    for name in [unit, *(path.name for path in (folder / f"{unit}.d").glob("*"))]:
        installed = folder / unit if name == unit else folder / f"{unit}.d" / name
        installed.write_text((SYSTEMD / name).read_text().replace("/opt/tracker/bin", str(scripts)))
    return run("systemd-analyze", "verify", "--man=no", "--recursive-errors=no", folder / unit)


@pytest.mark.parametrize("unit", [*UNITS, ARCHIVE])
def test_systemd_verifies_the_unit(unit: str, tmp_path: Path) -> None:
    said = verified(unit, tmp_path)
    assert unit not in said, said


def test_the_guide_makes_a_unit_and_a_configuration_for_each_of_several_storages(tmp_path: Path) -> None:
    [block] = [each for each in guide("operations.md", "Several storages") if "systemctl" in each.text]
    etc, scripts = tmp_path / "etc", Path(tool("tracker-storage")).parent
    for folder in (etc / "tracker", etc / "systemd/system"):
        folder.mkdir(parents=True)
    text = block.text.replace("/etc/systemd", f"{etc}/systemd").replace(" /etc/tracker/", f" {etc}/tracker/")
    text = text.replace("-g tracker ", "").replace("systemctl", "echo systemctl")
    for _ in range(2):  # it may be repeated
        run("bash", "-euo", "pipefail", "-c", text)
    unit = etc / "systemd/system/tracker-storage@.service"
    assert "--config /etc/tracker/storage-%i.yaml --check" in unit.read_text()
    assert "EnvironmentFile=-/etc/tracker/storage-%i.env" in unit.read_text()
    unit.write_text(unit.read_text().replace("/opt/tracker/bin", str(scripts)))
    said = run("systemd-analyze", "verify", "--man=no", "--recursive-errors=no", unit)
    assert "tracker-storage@" not in said, said

    configs = [load_storage(file, {}) for file in sorted((etc / "tracker").iterdir())]
    assert [each.sqs.queue for each in configs] == [f"visits-4-{shard}" for shard in range(4)]
    assert len({each.log.path for each in configs}) == len({each.admin.port for each in configs}) == 4
    writable = setting("tracker-storage.service", "ReadWritePaths")
    assert all(each.log.path.startswith(f"{writable}/") for each in configs)


@pytest.mark.parametrize("drop_in", DROP_INS)
def test_systemd_verifies_the_archive_with_a_drop_in(drop_in: str, tmp_path: Path) -> None:
    folder = tmp_path / f"{ARCHIVE}.d"
    folder.mkdir()
    (folder / drop_in).touch()
    said = verified(ARCHIVE, tmp_path)
    assert ARCHIVE not in said, said


def test_the_archive_that_runs_all_the_time_serves_where_prometheus_asks() -> None:
    command = setting("tracker-archive-follow.conf", "ExecStart").split()
    assert command[:-3] == setting(ARCHIVE, "ExecStart").split()
    assert command[-3:-1] == ["--follow", "--admin"]
    assert f'targets: ["{command[-1]}"]' in (DEPLOY / "prometheus/prometheus.yml").read_text()


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


@pytest.fixture
def called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, list[str]]]:
    """Calls tracker-as with a unit of these settings. Returns its status, and the words that systemd-run got."""

    def call(settings: dict[str, str], *words: str) -> tuple[int, list[str]]:
        told = tmp_path / "told"
        cases = "".join(f"--property={name}) printf '%s' '{value}' ;;\n" for name, value in settings.items())
        for name, script in (
            ("systemctl", f"echo $4 > {tmp_path}/asked\ncase $2 in {cases} esac"),
            ("systemd-run", f"printf '%s\\n' \"$@\" > {told}; exit 5"),
        ):
            path = tmp_path / name
            path.write_text(f"#!/bin/sh\n{script}\n")
            path.chmod(0o755)
        environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
        done = subprocess.run([SYSTEMD / "tracker-as", *words], env=environment, check=False, capture_output=True)
        return done.returncode, told.read_text().splitlines() if told.exists() else []

    return call


def test_tracker_as_gives_a_command_what_the_unit_has(called: Callable[..., tuple[int, list[str]]]) -> None:
    settings = {
        "User": "tracker",
        "WorkingDirectory": "/var/lib/tracker",
        "Environment": "A=1 B=2",
        "EnvironmentFiles": "/etc/one.env (ignore_errors=yes)\n/etc/the other.env (ignore_errors=no)\n",
    }
    status, told = called(settings, "pixel", "tracker", "doctor", "--pixel", "a file")
    assert status == 5  # that of the command
    assert told[told.index("--") + 1 :] == ["tracker", "doctor", "--pixel", "a file"]
    properties = [word.removeprefix("--property=") for word in told if word.startswith("--property=")]
    files = [word for word in properties if word.startswith("EnvironmentFile=")]
    assert files == ["EnvironmentFile=-/etc/one.env", "EnvironmentFile=/etc/the other.env"]  # the later one wins
    assert {"User=tracker", "WorkingDirectory=/var/lib/tracker", "Environment=A=1 B=2"} <= set(properties)
    assert "--wait" in told


@pytest.mark.parametrize("service", ["pixel", "storage", "storage@visits-4-0", "archive"])
def test_tracker_as_asks_for_the_unit_of_its_service(
    called: Callable[..., tuple[int, list[str]]], service: str, tmp_path: Path
) -> None:
    called({"User": "of-the-unit"}, service, "true")
    assert (tmp_path / "asked").read_text().split() == [f"tracker-{service}.service"]


@pytest.mark.parametrize("words", [(), ("pixel",), ("doctor", "tracker", "doctor"), ("--help",)])
def test_tracker_as_refuses_what_it_does_not_know(
    called: Callable[..., tuple[int, list[str]]], words: tuple[str, ...]
) -> None:
    assert called({}, *words) == (2, [])


@pytest.mark.parametrize("unit", UNITS)
def test_a_reload_needs_no_other_package_than_a_shell(unit: str) -> None:
    assert setting(unit, "ExecReload") == "/bin/sh -c 'kill -HUP ${MAINPID}'"


@root_only
def test_only_root_may_read_credentials_also_those_of_an_earlier_installation(tmp_path: Path) -> None:
    old = tmp_path / "etc/tracker/storage.env"
    old.parent.mkdir(parents=True)
    old.touch(0o644)
    run("systemd-sysusers", f"--root={tmp_path}", SYSTEMD / "tracker.sysusers.conf")
    run("systemd-tmpfiles", f"--root={tmp_path}", "--create", SYSTEMD / "tracker.tmpfiles.conf")
    assert (stat.S_IMODE(old.stat().st_mode), old.stat().st_uid, old.stat().st_gid) == (0o600, 0, 0)


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


def test_a_log_is_rotated_again_on_the_same_day(tmp_path: Path) -> None:
    folder = tmp_path / "log"
    folder.mkdir(mode=0o750)
    log, state, config = folder / "visits.log", tmp_path / "state", rotation(folder, "true")
    closed: set[Path] = set()
    for number in range(3):
        log.write_text(f"{number}\n")
        wait_for(lambda: _another_second(folder), "the next second: its time is the name")
        run("logrotate", "--force", "--state", state, config)
        assert log.read_text() == ""
        now = set(folder.glob("visits.log-*"))
        assert len(now) == number + 1
        closed = now
    # The newest is not compressed yet, and each has a name of its own that sorts in the order of writing.
    assert [path.suffix == ".gz" for path in sorted(closed)] == [True, True, False]
    assert sorted(closed)[-1].read_text() == "2\n"


def _another_second(folder: Path) -> bool:
    """Whether logrotate would choose a name now that no closed log has."""
    return not list(folder.glob(f"visits.log-{time.strftime('%Y%m%d-%H%M%S')}*"))


@pytest.mark.parametrize("status", [0, 1, 5])
def test_a_rotation_succeeds_while_the_service_is_down(tmp_path: Path, status: int) -> None:
    folder = tmp_path / "log"
    folder.mkdir(mode=0o750)
    hook = re.search(r"^ +(systemctl kill .*)$", (DEPLOY / "logrotate/tracker").read_text(), re.MULTILINE)
    assert hook is not None
    systemctl = tmp_path / "systemctl"  # as the real one ends for a unit that is stopped, or not there at all
    systemctl.write_text(f"#!/bin/sh\necho called >> {tmp_path}/calls\nexit {status}\n")
    systemctl.chmod(0o755)
    config = rotation(folder, hook[1].replace("systemctl", str(systemctl)))
    (folder / "visits.log").write_text("first\n")
    run("logrotate", "--force", "--state", tmp_path / "state", config)
    assert (tmp_path / "calls").read_text() == "called\n"
    assert len(list(folder.glob("visits.log-*"))) == 1


def test_logrotate_removes_nothing_that_the_archive_is_to_remove(tmp_path: Path) -> None:
    folder = tmp_path / "log"
    folder.mkdir(mode=0o750)
    config = rotation(folder, "true")
    config.write_text(config.read_text().replace("rotate 90", "rotate -1"))
    for day in range(1, 5):
        (folder / f"visits.log-2026010{day}-000000.gz").write_text("archived or not\n")
    (folder / "visits.log").write_text("live\n")
    run("logrotate", "--force", "--state", tmp_path / "state", config)
    assert len(list(folder.glob("visits.log-*"))) == 5


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
