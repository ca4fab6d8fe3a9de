"""`make run` starts everything, stops it in order, and starts again over what it left."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.system.processes import left_behind
from tests.system.wire import wait_for

from .running import System

pytest.importorskip("moto", reason="the local broker is moto")


@pytest.fixture
def system(tmp_path: Path, free_ports: Callable[[int], list[int]]) -> Iterator[System]:
    made = System(tmp_path, free_ports(6))
    yield made
    made.destroy()


def keeps_ctrl_c(pid: int) -> bool:
    """Whether a process blocks or handles SIGINT. Before its first line it ignores it (see `System.launch`)."""
    status = Path(f"/proc/{pid}/status")
    if not status.exists():
        return True  # not Linux
    masks = re.findall(r"^Sig(?:Blk|Cgt):\t(\w+)$", status.read_text(), re.MULTILINE)
    return any(int(mask, 16) & 1 << (signal.SIGINT - 1) for mask in masks)


@pytest.fixture
def free_port_offset(system: System) -> int:
    """An offset at which the ports of a second system are free."""
    ports = [
        system.broker_port,
        system.pixel_port,
        system.pixel_admin_port,
        system.storage_admin_port,
        system.demo_port,
        system.archive_port,
    ]
    for offset in range(1000, 65_536 - max(ports), 101):
        if not any(listening(port + offset) for port in ports):
            return offset
    raise AssertionError("no free ports")


def processes(system: System) -> dict[str, int]:
    """The children by name: every process started for this system's files or ports, the session leaders only."""
    found = {}
    listing = subprocess.run(["ps", "-axwwo", "pid=,ppid=,command="], capture_output=True, text=True, check=True).stdout
    for line in listing.splitlines():
        pid, parent, command = line.split(maxsplit=2)
        if int(parent) == system.process.pid and (
            name := re.search(r"-m tracker\.local\.guarded tracker\.(\w+)", command)
        ):
            found[{"local": "broker", "cli": "archive"}.get(name[1], name[1])] = int(pid)
    return found


def listening(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def ports_free(system: System) -> bool:
    return not any(
        listening(port)
        for port in (
            *(system.broker_port, system.pixel_port, system.pixel_admin_port, system.storage_admin_port),
            system.archive_port,
        )
    )


def test_a_hit_becomes_a_line_and_ctrl_c_loses_none_and_it_runs_again(system: System) -> None:
    for run in range(2):
        system.start()
        assert system.demo_url in system.output
        assert system.pixel_url in system.output
        system.hit(f"http://example.org/{run}/first")
        wait_for(lambda: any("first" in line for line in system.lines[-1:]), "the first line")
        for number in range(50):
            system.hit(f"http://example.org/{run}/{number}")
        assert system.stop() == 0, system.output
        assert ports_free(system)
        said = system.output
        assert said.rstrip().endswith("stopped")
        wanted = [f"http://example.org/{r}/{n}" for r in range(run + 1) for n in ["first", *range(50)]]
        assert sorted(line.split("|")[1] for line in system.lines) == sorted(wanted)


def test_a_second_ctrl_c_ends_at_once(system: System) -> None:
    system.start()
    # Storage cannot stop: so neither can the rest.
    os.kill(processes(system)["storage"], signal.SIGSTOP)
    system.interrupt()
    wait_for(lambda: "stopping" in system.output, "it has received the first")
    time.sleep(0.5)
    assert system.process.running
    start = time.monotonic()
    system.interrupt()
    assert system.process.wait() == 130
    assert time.monotonic() - start < 2
    wait_for(lambda: ports_free(system), "nothing is left")


@pytest.mark.parametrize("name", ["storage", "broker", "archive"])
def test_a_part_that_dies_stops_the_rest_and_is_named(system: System, name: str) -> None:
    system.start(*(["--archive"] if name == "archive" else []))
    os.kill(processes(system)[name], signal.SIGKILL)
    assert system.process.wait() == 1
    assert f"error: {name} was killed by SIGKILL" in system.output
    assert ports_free(system)


def test_ctrl_c_while_it_starts(system: System) -> None:
    system.launch()
    wait_for(lambda: "broker  |" in system.output, "the broker is there")
    assert system.stop() == 0
    assert ports_free(system)


def test_nothing_stays_when_the_runner_is_killed_and_it_runs_again_at_once(system: System) -> None:
    system.start()
    system.hit("http://example.org/before")
    started = processes(system)
    assert sorted(started) == ["broker", "pixel", "storage"]
    system.process.kill()
    wait_for(lambda: left_behind(system.folder) == [], lambda: f"all are gone, not {left_behind(system.folder)}")
    system.start()
    system.hit("http://example.org/after")
    wait_for(lambda: any("after" in line for line in system.lines), "the line of the next run")
    assert system.stop() == 0


def test_a_part_that_ends_by_itself_is_named_with_its_last_lines(system: System) -> None:
    (system.folder / "var").mkdir()
    system.log.mkdir()  # where storage writes its log file
    system.launch()
    assert system.process.wait() == 1
    _, _, end = system.output.partition("error: storage ended with exit status 78\nits last lines:\n")
    assert "storage | " in end
    assert "visits.log" in end


def test_ctrl_c_at_any_moment_of_the_start_shows_no_traceback_and_leaves_nothing(system: System) -> None:
    for hundredths in (0, 10, 20, 40, 80, 160):
        system.launch()
        wait_for(lambda: keeps_ctrl_c(system.process.pid), "it has begun")
        time.sleep(hundredths / 100)  # what is tested is the moment
        assert system.stop() == 0, system.output
        assert "Traceback" not in system.output
        assert left_behind(system.folder) == []


def test_a_second_one_says_where_the_first_runs_and_how_to_choose_other_ports(system: System) -> None:
    system.start()
    first, pid = system.process, system.process.pid
    system.launch()
    second = system.process
    assert second.wait() == 1
    assert f"port {system.demo_port} on 127.0.0.1 is in use" in second.output
    assert (
        f"`make run` is running already: in {system.folder}, process {pid}, demo page {system.demo_url}"
        in second.output
    )
    assert 'make run ARGS="--port-offset 1000"' in second.output
    assert "Traceback" not in second.output
    first.signal(signal.SIGINT)
    assert first.wait() == 0


def test_two_run_beside_each_other_from_one_folder(system: System, free_port_offset: int) -> None:
    system.start()
    first = system.process
    system.start("--port-offset", str(free_port_offset))
    second = system.process
    folder = system.folder / "var" / f"offset-{free_port_offset}"
    assert f"http://127.0.0.1:{system.demo_port + free_port_offset}/" in second.output
    system.hit("http://example.org/first")
    url = f"http://127.0.0.1:{system.pixel_port + free_port_offset}/track"
    with urllib.request.urlopen(urllib.request.Request(url, headers={"Referer": "http://example.org/second"})):
        pass
    for process in (first, second):
        process.signal(signal.SIGINT)
        assert process.wait() == 0, process.output
    assert [line.split("|")[1] for line in system.lines] == ["http://example.org/first"]
    assert [line.split("|")[1] for line in (folder / "visits.log").read_text().splitlines()] == [
        "http://example.org/second"
    ]
    assert (folder / "outbox").is_dir()


NOWHERE = "http://127.0.0.1:9"  # the discard port: a proxy that does not answer

# Each case has several settings at once, because a run takes seconds and a failure names the setting.
ODD_ENVIRONMENTS: dict[str, dict[str, str]] = {
    "proxies, an unknown profile, a missing certificate file, moto's settings, another environment of Python": {
        **dict.fromkeys(("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"), NOWHERE),
        **{"AWS_PROFILE": "nobody", "AWS_DEFAULT_PROFILE": "nobody"},
        **{"AWS_CA_BUNDLE": "missing", "REQUESTS_CA_BUNDLE": "missing"},
        **{"MOTO_ACCOUNT_ID": "1", "MOTO_PORT": "9"},
        **{"VIRTUAL_ENV": "/nonexistent", "PIP_TARGET": "/nonexistent"},
    },
    "a broken configuration file, another endpoint, the C locale, a home that is missing": {
        **{"AWS_CONFIG_FILE": "broken", "AWS_SHARED_CREDENTIALS_FILE": "broken"},
        **{"AWS_ENDPOINT_URL": NOWHERE, "AWS_ENDPOINT_URL_SQS": NOWHERE, "AWS_REGION": "nowhere-1"},
        **{"LC_ALL": "C", "LANG": "C"},
        "HOME": "/nonexistent",
    },
    "a broken configuration file at home, an ASCII terminal": {
        **{"LC_ALL": "C", "PYTHONIOENCODING": "ascii:strict", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    },
    "no home": {"HOME": ""},
}


@pytest.mark.parametrize("name", ODD_ENVIRONMENTS)
def test_it_works_whatever_the_users_environment_says(
    name: str, tmp_path: Path, free_ports: Callable[[int], list[int]]
) -> None:
    folder = tmp_path / "Ein Ordner für Zähler"
    folder.mkdir()
    (folder / "broken").write_text("[profile\nthis is no configuration")
    (folder / ".aws").mkdir()
    if "at home" in name:
        (folder / ".aws" / "config").write_text("[profile\nthis is no configuration")
        (folder / ".aws" / "credentials").write_text("[profile\nthis is no configuration")
    system = System(folder, free_ports(6))
    try:
        system.start(env=ODD_ENVIRONMENTS[name])
        system.hit("http://example.org/")
        wait_for(lambda: len(system.lines) == 1, "its line")
        assert system.stop() == 0, system.output
        assert "Traceback" not in system.output
    finally:
        system.destroy()
