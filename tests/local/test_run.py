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

from tests.system.wire import wait_for

from .running import System

pytest.importorskip("moto", reason="the local broker is moto")


@pytest.fixture
def system(tmp_path: Path, free_ports: Callable[[int], list[int]]) -> Iterator[System]:
    made = System(tmp_path, free_ports(5))
    yield made
    made.destroy()


def hit(system: System, referrer: str) -> None:
    request = urllib.request.Request(system.pixel_url, headers={"Referer": referrer, "User-Agent": "test"})
    with urllib.request.urlopen(request, timeout=5) as response:
        assert response.status == 200


def processes(system: System) -> dict[str, int]:
    """The children by name: every process started for this system's files or ports, the session leaders only."""
    found = {}
    listing = subprocess.run(["ps", "-axo", "pid=,ppid=,command="], capture_output=True, text=True, check=True).stdout
    for line in listing.splitlines():
        pid, parent, command = line.split(maxsplit=2)
        if int(parent) == system.process.pid and (name := re.search(r"-m tracker\.(\w+)", command)):
            found[name[1].replace("local", "broker")] = int(pid)
    return found


def listening(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def ports_free(system: System) -> bool:
    return not any(
        listening(port)
        for port in (system.broker_port, system.pixel_port, system.pixel_admin_port, system.storage_admin_port)
    )


def test_a_hit_becomes_a_line_and_ctrl_c_loses_none_and_it_runs_again(system: System) -> None:
    for run in range(2):
        system.start()
        assert system.demo_url in system.output
        assert system.pixel_url in system.output
        hit(system, f"http://example.org/{run}/first")
        wait_for(lambda: any("first" in line for line in system.lines[-1:]), "the first line")
        for number in range(50):
            hit(system, f"http://example.org/{run}/{number}")
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


@pytest.mark.parametrize("name", ["pixel", "storage", "broker"])
def test_a_part_that_dies_stops_the_rest_and_is_named(system: System, name: str) -> None:
    system.start()
    os.kill(processes(system)[name], signal.SIGKILL)
    assert system.process.wait() == 1
    assert f"error: {name} was killed by SIGKILL" in system.output
    assert ports_free(system)


def test_a_part_that_cannot_start_is_named(system: System) -> None:
    (system.folder / "var").mkdir()
    system.log.mkdir()  # where storage writes its log file
    system.launch()
    assert system.process.wait() == 1
    assert "error: storage ended with exit status" in system.output
    assert ports_free(system)


def test_ctrl_c_while_it_starts(system: System) -> None:
    system.launch()
    wait_for(lambda: "broker  |" in system.output, "the broker is there")
    assert system.stop() == 0
    assert ports_free(system)


def test_the_broker_ends_when_the_runner_is_killed(system: System) -> None:
    system.start()
    left = processes(system)
    system.process.kill()
    try:
        wait_for(lambda: not listening(system.broker_port), "the broker is gone")
    finally:
        for name in ("pixel", "storage"):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(left[name], signal.SIGKILL)
