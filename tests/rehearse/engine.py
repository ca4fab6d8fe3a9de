"""A Docker engine of its own, in the namespaces of the rehearsal, with an image that stands for the base image.

No registry is asked. The base is the Debian tree with the wheels in it, so the guide's `docker build` needs no network
either. Compose is a plugin of the command line program, as the guide types it.
"""

import os
import subprocess
import sys
from pathlib import Path

from tests.launched import Launched
from tests.rehearse.prepared import Missing, program

BASE = "rehearsal-base"


def find_programs() -> None:
    """Raises Missing, which names what this machine lacks."""
    program("docker", "docker.io")
    program("dockerd", "docker.io")
    _compose()


def _compose() -> Path:
    beside = Path(sys.executable).parent / "docker-compose"  # a package of the development environment
    if not beside.exists():
        raise Missing("docker-compose is not installed (in requirements/development.txt)")
    return beside


class Engine:
    """A dockerd, and the commands for it, typed in `directory`. As a context it ends with all containers."""

    def __init__(self, home: Path, directory: Path) -> None:
        self._directory = directory
        # The path of a socket may have about 100 bytes, and `home` may be longer.
        self._environment = {**os.environ, "HOME": str(home), "DOCKER_HOST": "unix:///run/rehearsal-docker.sock"}
        # Compose needs buildx to build, which Debian 12 does not have. The engine's own builder needs nothing.
        self._environment["DOCKER_BUILDKIT"] = "0"
        plugins = home / ".docker/cli-plugins"
        plugins.mkdir(parents=True)
        (plugins / "docker-compose").symlink_to(_compose())
        options = ["--data-root", home / "data", "--exec-root", home / "exec", "--pidfile", home / "dockerd.pid"]
        command = [program("dockerd", "docker.io"), "--host", self._environment["DOCKER_HOST"], *map(str, options)]
        self._daemon = Launched(
            [*command, "--iptables=false", "--ip6tables=false", "--ip-forward=false"],
            output_file=home / "dockerd.log",
            home=home,
        )

    def __enter__(self) -> "Engine":
        self._daemon.wait_alive(lambda: self.status("docker info") == 0, "the engine starts")
        return self

    def __exit__(self, *_: object) -> None:
        self.status("docker ps --quiet | xargs --no-run-if-empty docker kill")
        self._daemon.terminate()
        self._daemon.wait()
        self._daemon.destroy()

    def import_base(self, base: Path) -> None:
        """The Debian tree and the wheels as an image."""
        changes = "--change 'ENV PIP_NO_INDEX=1' --change 'ENV PIP_FIND_LINKS=/wheels'"
        self.type(f"tar -c -C {base}/debian . -C {base} ./wheels | docker import {changes} - {BASE}")

    def _run(self, script: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=self._directory,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=600,
            check=False,
        )

    def status(self, script: str) -> int:
        return self._run(script).returncode

    def type(self, script: str) -> str:
        """What a script prints. Raises AssertionError if it fails."""
        done = self._run(script)
        assert done.returncode == 0, f"status {done.returncode}:\n{script}\n{done.stdout}"
        return done.stdout
