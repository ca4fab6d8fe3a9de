"""A service, the local broker or `make run` as a process: Python programs, launched by `tests.launched`."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

from tests.launched import Launched, environment
from tests.ports import free_port

from .log_pipe import LogPipe
from .wire import DEADLINE, LOOPBACK, Reply, get, wait_for

Config = dict[str, Any]


def merged(base: Config, override: Config) -> Config:
    """`base` with `override` laid over it, section by section."""
    result = dict(base)
    for key, value in override.items():
        below = result.get(key)
        result[key] = merged(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return result


def write_config(path: Path, config: Config) -> Path:
    """Writes a configuration; JSON is YAML."""
    path.write_text(json.dumps(config, indent=2))
    return path


def run(*arguments: str, home: Path, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """A service's command that is expected to end by itself."""
    command = [sys.executable, "-m", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=DEADLINE, cwd=home, env=environment(home, env), check=False
    )


class Process(Launched):
    """A Python module as a process.

    What it prints goes to a file: directly, or with `piped` through a pipe whose reader can be stalled (`log_pipe`).
    `stderr` may be another descriptor; `launcher` is a command that executes the one that follows it; `stdin` may be
    `subprocess.PIPE`, which `close_stdin` closes. As a context it ends with `destroy`.
    """

    def __init__(
        self,
        *arguments: str,
        home: Path,
        name: str,
        env: Mapping[str, str] | None = None,
        stdin: int = subprocess.DEVNULL,
        stderr: int = subprocess.STDOUT,
        launcher: Sequence[str] = (),
        piped: bool = False,
    ) -> None:
        output_file = home / f"{name}-{uuid4().hex[:8]}.out"
        self.log_pipe = LogPipe(output_file.with_suffix(".pipe"), output_file) if piped else None
        super().__init__(
            [*launcher, sys.executable, "-m", *arguments],
            output_file=output_file,
            home=home,
            env=env,
            stdin=stdin,
            stdout=self.log_pipe.write_end if self.log_pipe else None,
            stderr=stderr,
        )
        if self.log_pipe:
            self.log_pipe.start()

    def family(self) -> dict[int, int]:
        """What runs in this process's group, itself included: pid to parent's pid. Zombies are gone."""
        listing = subprocess.run(["ps", "-axo", "pid=,ppid=,pgid=,stat="], capture_output=True, text=True, check=True)
        rows = [line.split() for line in listing.stdout.splitlines()]
        return {int(row[0]): int(row[1]) for row in rows if int(row[2]) == self.pid and not row[3].startswith("Z")}

    def children(self) -> list[int]:
        return sorted(pid for pid, parent in self.family().items() if parent == self.pid)

    def close_stdin(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()

    def stop(self) -> None:
        """A clean stop."""
        self.terminate()
        status = self.wait()
        assert status == 0, f"{self.name} stopped with {status}:\n{self.output}"
        assert self.family() == {}

    def kill(self) -> None:
        """SIGKILL to the main process alone; its family must notice by itself, soon."""
        self._process.kill()
        self._process.wait(DEADLINE)
        wait_for(
            lambda: not self.family(), lambda: f"{self.name} is killed, its children are not gone: {self.family()}"
        )

    def destroy(self) -> None:
        super().destroy()
        if self._process.stdin:
            self._process.stdin.close()
        if self.log_pipe:
            self.log_pipe.close()


class Service(Process):
    """A pixel or a storage, and its admin listener."""

    def __init__(
        self,
        module: str,
        config: Path,
        home: Path,
        env: Mapping[str, str] | None,
        port: int,
        admin_port: int,
        **launch: Any,
    ) -> None:
        super().__init__(module, "--config", str(config), home=home, name=module, env=env, **launch)
        self.port = port
        self.admin_port = admin_port
        self.config = config

    def reload(self, config: Config) -> None:
        """Writes another configuration into the service's file and tells it so."""
        write_config(self.config, config)
        self.signal(signal.SIGHUP)

    def admin(self, path: str) -> Reply:
        return get(self.admin_port, path)

    def is_ready(self) -> bool:
        return self._is_ok("/readyz")

    def is_alive(self) -> bool:
        return self._is_ok("/healthz")

    def _is_ok(self, path: str) -> bool:
        try:
            return self.admin(path).status == 200
        except OSError:
            return False

    def readiness(self) -> str:
        return self.admin("/readyz").body.decode()

    def wait_ready(self) -> None:
        self.wait_alive(self.is_ready, "ready")

    def metric(self, name: str, label: str = "") -> float:
        """The sum of a metric's samples; of those with this label (`reason="privacy"`), if one is given."""
        total = 0.0
        for line in self.admin("/metrics").body.decode().splitlines():
            sample, _, value = line.rpartition(" ")
            if re.match(rf"{name}(_total)?(\{{|$)", sample) and label in sample:
                total += float(value)
        return total

    def wait_metric(self, name: str, at_least: float, label: str = "") -> None:
        self.wait_alive(lambda: self.metric(name, label) >= at_least, f"{name} {label} at least {at_least:g}")

    def workers(self) -> list[int]:
        """A pixel's workers: main's children that hold a journal open, or all its children if the system hides that."""
        children = self.children()
        if not os.path.isdir("/proc/self/fd"):
            return children
        return [pid for pid in children if any(re.search(r"/[0-9a-f]{32}/", path) for path in _opened(pid))]

    def logged(self, *words: str) -> list[str]:
        """The lines of warning and worse with all of these words."""
        lines = [line for line in self.output.splitlines() if re.search("WARNING|ERROR|CRITICAL", line)]
        return [line for line in lines if all(word.lower() in line.lower() for word in words)]


class Broker(Process):
    """The local broker, as `make run-aws` starts it."""

    def __init__(self, home: Path, *options: str, **launch: Any) -> None:
        self.port = free_port()
        self.endpoint = f"http://{LOOPBACK}:{self.port}"
        arguments = ("broker", "--port", str(self.port), *options)
        super().__init__("tracker.local", *arguments, home=home, name="broker", **launch)

    def wait_ready(self) -> None:
        self.wait_alive(lambda: re.search("^ready .*\n", self.output, re.MULTILINE), "ready")


def _opened(pid: int) -> list[str]:
    """The files a process has open; none if it is gone."""
    try:
        return [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")]
    except OSError:
        return []


def left_behind(home: Path) -> list[str]:
    """Processes that still run in this directory, as every service of the tests does."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "cwd").readlink() == home:
                found.append(f"{process.name}: {(process / 'cmdline').read_text().replace(chr(0), ' ')}")
        except OSError:
            continue  # gone, or not ours to look at
    return found
