"""The set-up of `.venv` picks up whatever an interrupted one left. Its Python and pip are a stand-in.

The stand-in writes down its calls. It is a script that makes an environment with itself as Python. A file `during-pip`
in its folder is what it executes as pip; without it pip succeeds at once.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.system.wire import wait_for

SET_UP = Path(__file__).parents[2] / "requirements" / "set_up.py"

PYTHON = """#!/bin/sh
here={here}
echo "$@" >> "$here/calls"
case "$*" in
  *"-m venv"*) for folder; do :; done; mkdir -p "$folder/bin"; cp "$0" "$folder/bin/python" ;;
  *"import pip"*) test ! -e "$here/no-pip" ;;
  *"sys.version"*) echo {version} ;;
  *"-m pip"*) if test -e "$here/during-pip"; then . "$here/during-pip"; fi ;;
esac
"""


class Machine:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.venv = folder / ".venv"
        self.python = folder / "python"
        version = sys.version.split()[0]
        self.python.write_text(PYTHON.format(here=f"'{folder}'", version=version))
        self.python.chmod(0o755)
        self.run_lock = self.lock("run", "aiohttp==1", "moto==2")
        self.development_lock = self.lock("development", "aiohttp==1", "moto==2", "pytest==3")

    def lock(self, name: str, *pins: str) -> Path:
        path = self.folder / f"{name}.txt"
        path.write_text("".join(f"{pin} ; python_version > '3' \\\n    --hash=sha256:00\n" for pin in pins))
        return path

    def start(self, lock: Path, *options: str, env: dict[str, str] | None = None) -> "subprocess.Popen[str]":
        program = f"import runpy, sys; sys.executable = {str(self.python)!r}; sys.argv = sys.argv[1:]; "
        program += "runpy.run_path(sys.argv[0], run_name='__main__')"
        return subprocess.Popen(
            [sys.executable, "-c", program, str(SET_UP), str(self.venv), str(lock), *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, **(env or {})},
            start_new_session=True,
        )

    def set_up(self, lock: Path, *options: str, env: dict[str, str] | None = None) -> tuple[int, str]:
        process = self.start(lock, *options, env=env)
        output = process.communicate(timeout=60)[0]
        return process.returncode, output

    def during_pip(self, script: str) -> None:
        (self.folder / "during-pip").write_text(script)

    def calls(self) -> list[str]:
        """The calls since the last time: which of `venv` and the locks given to pip."""
        path = self.folder / "calls"
        lines = path.read_text().splitlines() if path.exists() else []
        path.unlink(missing_ok=True)
        made = []
        for line in lines:
            if "-m venv" in line:
                made.append("venv")
            elif "-r " in line:
                made.append(Path(line.split("-r ")[1]).stem)
        return made


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    folder = tmp_path / "Ein Ordner für Zähler"
    folder.mkdir()
    return Machine(folder)


def test_a_second_time_nothing_is_done_and_a_changed_lock_is_installed(machine: Machine) -> None:
    status, said = machine.set_up(machine.run_lock)
    assert status == 0, said
    assert "installing 2 packages" in said
    assert machine.calls() == ["venv", "run"]
    assert machine.set_up(machine.run_lock) == (0, "")
    assert machine.calls() == []
    machine.lock("run", "aiohttp==1", "moto==3")
    assert machine.set_up(machine.run_lock)[0] == 0
    assert machine.calls() == ["run"]


def test_what_runs_and_what_tests_share_an_environment_in_both_orders(machine: Machine) -> None:
    machine.set_up(machine.run_lock)
    machine.set_up(machine.development_lock)
    assert machine.calls() == ["venv", "run", "development"]
    assert machine.set_up(machine.run_lock) == (0, "")
    machine.lock("run", "aiohttp==2", "moto==2")
    machine.set_up(machine.run_lock)
    assert machine.calls() == ["run"]
    machine.set_up(machine.development_lock)  # its aiohttp is another one
    assert machine.calls() == ["development"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_set_up_begins_again(machine: Machine, number: signal.Signals) -> None:
    machine.during_pip('touch "$here/in-pip"; sleep 60')
    process = machine.start(machine.run_lock)
    wait_for((machine.folder / "in-pip").exists, "pip runs")
    os.killpg(process.pid, number)  # as a terminal does: also pip receives it
    said = process.communicate(timeout=30)[0]
    assert process.returncode == (130 if number == signal.SIGINT else -number)
    assert "Traceback" not in said
    (machine.venv / "half-a-package").touch()
    machine.during_pip("")
    machine.calls()
    assert machine.set_up(machine.run_lock)[0] == 0
    assert machine.calls() == ["venv", "run"]
    assert not (machine.venv / "half-a-package").exists()


def test_a_set_up_waits_for_the_pip_that_a_killed_one_left(machine: Machine) -> None:
    machine.during_pip(
        'touch "$here/in-pip"; while test ! -e "$here/go-on"; do sleep 0.05; done; touch "$here/pip-ended"'
    )
    process = machine.start(machine.run_lock)
    wait_for((machine.folder / "in-pip").exists, "pip runs")
    process.kill()
    process.wait()
    assert process.stdout is not None
    process.stdout.close()
    second = machine.start(machine.run_lock)
    assert second.stdout is not None
    assert "waiting for another set-up" in second.stdout.readline()
    assert not (machine.folder / "pip-ended").exists()
    (machine.folder / "go-on").touch()
    said = second.communicate(timeout=60)[0]
    assert second.returncode == 0, said
    assert (machine.folder / "pip-ended").exists()


def test_a_pip_that_fails_shows_why_and_the_next_one_begins_again(machine: Machine) -> None:
    machine.during_pip("echo 'ERROR: [Errno 28] No space left on device'; exit 1")
    status, said = machine.set_up(machine.run_lock)
    assert status == 1
    assert "No space left on device" in said
    assert "The next `make` begins" in said
    assert "Traceback" not in said
    machine.during_pip("")
    assert machine.set_up(machine.run_lock)[0] == 0


@pytest.mark.parametrize("missing", ["python", "pip", "all"])
def test_an_environment_without_its_python_or_pip_is_made_anew(machine: Machine, missing: str) -> None:
    machine.set_up(machine.run_lock)
    machine.calls()
    if missing == "python":
        (machine.venv / "bin" / "python").unlink()
        (machine.venv / "bin" / "python").symlink_to("/nonexistent/python")
    elif missing == "pip":
        (machine.folder / "no-pip").touch()
    else:
        (machine.venv / ".ready").unlink()
        (machine.venv / "bin" / "python").unlink()
    machine.set_up(machine.development_lock)
    assert machine.calls() == ["venv", "development"]


def test_another_python_makes_it_anew_only_when_it_is_named(machine: Machine) -> None:
    machine.set_up(machine.run_lock)
    stamp = machine.venv / ".ready"
    stamp.write_text(stamp.read_text().replace(f"python {sys.version.split()[0]}", "python 3.12.0"))
    machine.calls()
    assert machine.set_up(machine.run_lock) == (0, "")
    machine.set_up(machine.run_lock, "--with-this-python")
    assert machine.calls() == ["venv", "run"]


def test_settings_that_would_send_packages_elsewhere_do_not_reach_pip_and_those_of_the_index_do(
    machine: Machine,
) -> None:
    machine.during_pip('env > "$here/environment"')
    misleading = {"PIP_TARGET": "/nowhere", "PIP_USER": "1", "PIP_PREFIX": "/nowhere", "PYTHONPATH": "/nowhere"}
    wanted = {"PIP_INDEX_URL": "https://index.example/simple", "HTTPS_PROXY": "http://proxy.example:3128"}
    assert machine.set_up(machine.run_lock, env=misleading | wanted)[0] == 0
    seen = dict(line.partition("=")[::2] for line in (machine.folder / "environment").read_text().splitlines())
    assert not misleading.keys() & seen.keys()
    assert wanted.items() <= seen.items()
