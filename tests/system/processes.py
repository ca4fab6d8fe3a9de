"""The one launcher of the tests: a service, the local broker or `make run` as a process.

A process gets a session of its own, is watched from outside, and is gone at the end of the test.
"""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from uuid import uuid4

from tests.ports import free_port

from .log_pipe import LogPipe
from .wire import DEADLINE, LOOPBACK, Reply, get, wait_for

ROOT = Path(__file__).resolve().parents[2]
Config = dict[str, Any]


def environment(home: Path, extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of a service: none of the caller's AWS or tracker settings, no credentials to be found."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "TRACKER_", "MOTO_"))}
    return {
        **kept,
        "HOME": str(home),
        "AWS_EC2_METADATA_DISABLED": "true",
        "PYTHONPATH": str(ROOT / "src"),
        "PYTHONUNBUFFERED": "1",
        **(extra or {}),
    }


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


def start_session(
    command: Sequence[str], *, home: Path, cwd: Path, env: Mapping[str, str] | None, **streams: Any
) -> "subprocess.Popen[bytes]":
    """A process that leads a session of its own; `streams` are those of Popen. The benchmarks use it, too."""
    return subprocess.Popen(command, cwd=cwd, env=environment(home, env), start_new_session=True, **streams)


def end_session(process: "subprocess.Popen[bytes]") -> None:
    """SIGKILL to the process and its whole group, whatever state they are in."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(DEADLINE)


class Process:
    """A process leading a session of its own.

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
        self.name = name
        self._output = home / f"{name}-{uuid4().hex[:8]}.out"
        with self._output.open("wb") as output:
            self.log_pipe = LogPipe(self._output.with_suffix(".pipe"), self._output) if piped else None
            self._process = start_session(
                [*launcher, sys.executable, "-m", *arguments],
                home=home,
                cwd=home,
                env=env,
                stdin=stdin,
                stdout=self.log_pipe.write_end if self.log_pipe else output,
                stderr=stderr,
            )
        if self.log_pipe:
            self.log_pipe.start()
        self.pid = self._process.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.destroy()

    @property
    def output(self) -> str:
        return self._output.read_text(errors="replace")

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def family(self) -> dict[int, int]:
        """What runs in this process's group, itself included: pid to parent's pid. Zombies are gone."""
        listing = subprocess.run(["ps", "-axo", "pid=,ppid=,pgid=,stat="], capture_output=True, text=True, check=True)
        rows = [line.split() for line in listing.stdout.splitlines()]
        return {int(row[0]): int(row[1]) for row in rows if int(row[2]) == self.pid and not row[3].startswith("Z")}

    def children(self) -> list[int]:
        return sorted(pid for pid, parent in self.family().items() if parent == self.pid)

    def wait_alive(self, condition: Any, what: str) -> None:
        """Waits for the condition; fails at once, with the output, when the process ends before."""

        def check() -> bool:
            if not self.running:
                raise AssertionError(f"{self.name} ended with {self._process.returncode}:\n{self.output}")
            return bool(condition())

        wait_for(check, lambda: f"{self.name}: {what}\n{self.output}")

    def close_stdin(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()

    def terminate(self) -> None:
        self.signal(signal.SIGTERM)

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def wait(self, timeout: float = DEADLINE) -> int:
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} did not end within {timeout:g} s:\n{self.output}") from None

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
        """Ends the whole group, whatever state it is in."""
        end_session(self._process)
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
