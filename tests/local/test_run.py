"""`make run` starts everything, stops it in order, and starts again over what it left."""

import contextlib
import os
import re
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.system.processes import left_behind
from tests.system.wire import wait_for

from .running import System

pytest.importorskip("moto", reason="the local broker is moto")


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


NOWHERE = "http://127.0.0.1:9"  # the discard port: a proxy that does not answer

# Each has several settings at once, because a run takes seconds.
ODD_ENVIRONMENTS: list[dict[str, str]] = [
    # proxies, an unknown profile, a missing certificate file, moto's settings, another environment of Python, no home
    {
        **dict.fromkeys(("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"), NOWHERE),
        **{"AWS_PROFILE": "nobody", "AWS_DEFAULT_PROFILE": "nobody"},
        **{"AWS_CA_BUNDLE": "missing", "REQUESTS_CA_BUNDLE": "missing", "SSL_CERT_FILE": "missing"},
        **{"MOTO_ACCOUNT_ID": "1", "MOTO_PORT": "9"},
        **{"VIRTUAL_ENV": "/nonexistent", "PIP_TARGET": "/nonexistent"},
        "HOME": "",
    },
    # a broken configuration file, another endpoint, the C locale, a home that is missing
    {
        **{"AWS_CONFIG_FILE": "broken", "AWS_SHARED_CREDENTIALS_FILE": "broken"},
        **{"AWS_ENDPOINT_URL": NOWHERE, "AWS_ENDPOINT_URL_SQS": NOWHERE, "AWS_REGION": "nowhere-1"},
        **{"LC_ALL": "C", "LANG": "C"},
        "HOME": "/nonexistent",
    },
    # a broken configuration file at home, an ASCII terminal
    {"LC_ALL": "C", "PYTHONIOENCODING": "ascii:strict", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
]


def pages(system: System) -> list[str]:
    """The page of each line of the log."""
    return [line.split("|")[1] for line in system.lines]


def run_once(system: System, environment: dict[str, str], visits: list[str], *, killed: bool) -> None:
    """One run with these visits, ended by Ctrl-C or by a SIGKILL of the runner."""
    system.start(env=environment)
    assert sorted(system.parts()) == ["broker", "pixel", "storage"]
    assert system.demo_url in system.output
    assert system.pixel_url in system.output
    system.hit(visits[0])
    wait_for(lambda: visits[0] in pages(system), "the first line")
    for visit in visits[1:]:
        system.hit(visit)
    if killed:
        system.process.kill()
        wait_for(lambda: left_behind(system.folder) == [], lambda: f"all are gone, not {left_behind(system.folder)}")
        wait_for(lambda: ports_free(system), "free ports: a process loses its command line before its sockets")
    else:
        assert system.stop() == 0, system.output
        assert system.output.rstrip().endswith("stopped")
    assert "Traceback" not in system.output
    assert ports_free(system)


def test_it_runs_again_after_ctrl_c_and_after_a_kill_and_loses_no_line_whatever_the_users_environment_says(
    tmp_path: Path, free_ports: Callable[[int], list[int]]
) -> None:
    folder = tmp_path / "Ein Ordner für Zähler"
    (folder / ".aws").mkdir(parents=True)
    for broken in ("broken", ".aws/config", ".aws/credentials"):
        (folder / broken).write_text("[profile\nthis is no configuration")
    system = System(folder, free_ports(6))
    wanted: list[str] = []
    try:
        for run, environment in enumerate(ODD_ENVIRONMENTS):
            killed = run == 1  # after the line of its one visit: a visit that waits in the broker ends with it
            visits = [f"http://example.org/{run}/{number}" for number in range(1 if killed else 50)]
            run_once(system, environment, visits, killed=killed)
            wanted += visits
            assert sorted(pages(system)) == sorted(wanted)
    finally:
        system.destroy()


def second_ctrl_c_ends_at_once(system: System) -> None:
    """Storage cannot stop, and so neither can the rest."""
    process = system.process
    os.kill(system.parts()["storage"], signal.SIGSTOP)
    process.signal(signal.SIGINT)
    wait_for(lambda: "pixel" not in system.parts(), "the pixel has stopped")
    assert process.running
    began = time.monotonic()
    process.signal(signal.SIGINT)
    assert process.wait() == 130
    assert time.monotonic() - began < 2


def test_a_second_one_says_where_the_first_runs_and_runs_beside_it_on_other_ports(
    system: System, free_port_offset: int
) -> None:
    system.start()
    first = system.process

    system.launch()
    assert system.process.wait() == 1
    assert f"port {system.demo_port} on 127.0.0.1 is in use" in system.output
    assert (
        f"`make run` is running already: in {system.folder}, process {first.pid}, demo page {system.demo_url}"
        in system.output
    )
    assert 'make run ARGS="--port-offset 1000"' in system.output
    assert "Traceback" not in system.output

    system.start("--port-offset", str(free_port_offset))
    folder = system.folder / "var" / f"offset-{free_port_offset}"
    assert f"http://127.0.0.1:{system.demo_port + free_port_offset}/" in system.output
    system.hit("http://example.org/first")
    system.hit("http://example.org/second", free_port_offset)
    second_log = folder / "visits.log"
    wait_for(lambda: second_log.exists() and second_log.read_text(), "the second's line")
    first.signal(signal.SIGINT)
    assert first.wait() == 0, first.output
    assert pages(system) == ["http://example.org/first"]
    assert [line.split("|")[1] for line in second_log.read_text().splitlines()] == ["http://example.org/second"]
    assert (folder / "outbox").is_dir()

    second_ctrl_c_ends_at_once(system)
    wait_for(lambda: left_behind(system.folder) == [], "nothing is left")


def test_a_broker_that_dies_stops_the_rest_and_is_named(system: System) -> None:
    system.start()
    os.kill(system.parts()["broker"], signal.SIGKILL)
    assert system.process.wait() == 1
    assert "error: broker was killed by SIGKILL" in system.output
    assert ports_free(system)


def test_a_part_that_ends_by_itself_is_named_with_its_last_lines(system: System) -> None:
    (system.folder / "var").mkdir()
    system.log.mkdir()  # where storage writes its log file
    system.launch()
    assert system.process.wait() == 1
    _, _, end = system.output.partition("error: storage ended with exit status 78\nits last lines:\n")
    assert "storage | " in end
    assert "visits.log" in end


def test_ctrl_c_at_any_moment_of_the_start_shows_no_traceback_and_leaves_nothing(system: System) -> None:
    moments: dict[str, Callable[[], object]] = {
        "it has begun": lambda: keeps_ctrl_c(system.process.pid),
        "the broker has begun": lambda: "broker" in system.parts(),
        "the broker is ready, and the services have begun": lambda: "pixel" in system.parts(),
    }
    for moment, come in moments.items():
        system.launch()
        wait_for(come, moment)
        assert system.stop() == 0, system.output
        assert "Traceback" not in system.output
        assert left_behind(system.folder) == []
        assert ports_free(system)
