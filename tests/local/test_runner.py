"""`make run` says at once what is in its way."""

import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.system.processes import run
from tracker.local.ports import Needed, PortInUse, check_free


def run_with(folder: Path, ports: list[int]) -> subprocess.CompletedProcess[str]:
    (folder / "pixel.yaml").write_text(
        f"{{http: {{host: 127.0.0.1, port: {ports[1]}}}, admin: {{port: {ports[2]}}}, "
        "sns: {topic_arn: 'arn:aws:sns:us-east-1:000000000000:tracking'}}"
    )
    (folder / "storage.yaml").write_text(f"{{sqs: {{queue: visits}}, admin: {{port: {ports[3]}}}}}")
    arguments = ["--pixel-config", "pixel.yaml", "--storage-config", "storage.yaml"]
    arguments += ["--broker-port", str(ports[0]), "--demo-port", str(ports[4])]
    return run("tracker.local", "run", *arguments, home=folder)


def test_every_port_in_use_is_named_with_what_needs_it(free_ports: Callable[[int], list[int]], tmp_path: Path) -> None:
    ports = free_ports(5)
    with socket.create_server(("127.0.0.1", ports[1])), socket.create_server(("127.0.0.1", ports[4])):
        done = run_with(tmp_path, ports)
    assert done.returncode == 1
    assert f"port {ports[1]} on 127.0.0.1 is in use; the pixel needs it: " in done.stderr
    assert "choose another one (http.port in pixel.yaml)" in done.stderr
    assert f"port {ports[4]} on 127.0.0.1 is in use; the demo page needs it: " in done.stderr
    assert "choose another one (--demo-port)" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "var").exists()


def test_two_parts_that_need_one_port_are_named(free_port: int) -> None:
    ports = [Needed("127.0.0.1", free_port, "the pixel", "here"), Needed("127.0.0.1", free_port, "storage", "there")]
    with pytest.raises(PortInUse, match=f"storage and the pixel both need port {free_port}"):
        check_free(ports)


def test_a_configuration_that_is_wrong_ends_with_its_own_status(
    free_ports: Callable[[int], list[int]], tmp_path: Path
) -> None:
    ports = free_ports(5)
    done = run_with(tmp_path, [*ports[:3], 0, ports[4]])
    assert done.returncode == 78
    assert "storage.yaml: admin.port" in done.stderr
