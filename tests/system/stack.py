"""Both services and the broker as processes: started in sessions of their own on free ports, watched from outside,
and always gone at the end of the test."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

from tests.ports import free_port

from .broker import REGION, Aws, Proxy
from .wire import DEADLINE, LOOPBACK, Load, Reply, get, wait_for

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


class Process:
    """A process leading a session of its own; what it prints goes to a file."""

    def __init__(self, *arguments: str, home: Path, name: str, env: Mapping[str, str] | None = None) -> None:
        self.name = name
        self._output = home / f"{name}-{uuid4().hex[:8]}.out"
        with self._output.open("wb") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=home,
                env=environment(home, env),
                start_new_session=True,
            )
        self.pid = self._process.pid

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

    def terminate(self) -> None:
        self._process.send_signal(signal.SIGTERM)

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
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait(DEADLINE)


class Service(Process):
    """A pixel or a storage, and its admin listener."""

    def __init__(
        self, module: str, config: Path, home: Path, env: Mapping[str, str] | None, port: int, admin_port: int
    ) -> None:
        super().__init__(module, "--config", str(config), home=home, name=module, env=env)
        self.port = port
        self.admin_port = admin_port
        self.config = config

    def reload(self, config: Config) -> None:
        """Writes another configuration into the service's file and tells it so."""
        write_config(self.config, config)
        self._process.send_signal(signal.SIGHUP)

    def admin(self, path: str) -> Reply:
        return get(self.admin_port, path)

    def is_ready(self) -> bool:
        try:
            return self.admin("/readyz").status == 200
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

    def logged(self, *words: str) -> list[str]:
        """The lines of warning and worse with all of these words."""
        lines = [line for line in self.output.splitlines() if re.search("WARNING|ERROR|CRITICAL", line)]
        return [line for line in lines if all(word.lower() in line.lower() for word in words)]


class Stack:
    """One test's topic and queue on the broker, a proxy before each, and the services it starts."""

    def __init__(self, home: Path, broker_port: int, *, raw: bool = True) -> None:
        self.home = home
        self.aws = Aws(broker_port)
        name = uuid4().hex[:12]
        self.topic_arn = self.aws.create_topic(f"tracking-{name}")
        self.queue = f"visits-{name}"
        dead_letters = self.aws.create_queue(f"visits-dlq-{name}")
        dead_letters_arn = self.aws.queue_attributes(dead_letters)["QueueArn"]
        redrive = json.dumps({"deadLetterTargetArn": dead_letters_arn, "maxReceiveCount": "100"})
        self.queue_url = self.aws.create_queue(self.queue, RedrivePolicy=redrive)
        self.aws.subscribe(self.topic_arn, self.aws.queue_attributes(self.queue_url)["QueueArn"], raw=raw)
        self.sns = Proxy(free_port(), broker_port)
        self.sqs = Proxy(free_port(), broker_port)
        self.log_path = home / "visits.log"
        self.outbox = home / "outbox"
        self._processes: list[Process] = []

    def destroy(self) -> None:
        for process in self._processes:
            process.destroy()
        self.sns.down()
        self.sqs.down()

    def pixel_config(self, override: Config | None = None) -> Config:
        base: Config = {
            "http": {"host": LOOPBACK, "port": free_port()},
            "admin": {"host": LOOPBACK, "port": free_port()},
            "outbox": {"dir": str(self.outbox)},
            "sns": {"topic_arn": self.topic_arn, "region": REGION, "endpoint_url": self.sns.url, "linger": 0.05},
            "shutdown": {"timeout": 15},
        }
        return merged(base, override or {})

    def storage_config(self, override: Config | None = None) -> Config:
        base: Config = {
            "sqs": {
                "queue": self.queue,
                "region": REGION,
                "endpoint_url": self.sqs.url,
                "wait_time": 1,
                "visibility_timeout": 10,
            },
            "log": {"path": str(self.log_path)},
            "admin": {"host": LOOPBACK, "port": free_port()},
            "shutdown": {"timeout": 15},
        }
        return merged(base, override or {})

    def start_pixel(
        self, override: Config | None = None, env: Mapping[str, str] | None = None, *, ready: bool = True
    ) -> Service:
        config = self.pixel_config(override)
        return self._start("tracker.pixel", config, env, config["http"]["port"], ready)

    def start_storage(
        self, override: Config | None = None, env: Mapping[str, str] | None = None, *, ready: bool = True
    ) -> Service:
        return self._start("tracker.storage", self.storage_config(override), env, 0, ready)

    def _start(self, module: str, config: Config, env: Mapping[str, str] | None, port: int, ready: bool) -> Service:
        path = write_config(self.home / f"{module}-{uuid4().hex[:8]}.yaml", config)
        service = Service(module, path, self.home, env, port, config["admin"]["port"])
        self._processes.append(service)
        if ready:
            service.wait_ready()
        return service

    def log_text(self) -> str:
        """The visit log; whatever is in it, it must be ASCII."""
        return self.log_path.read_bytes().decode("ascii") if self.log_path.exists() else ""

    def lines(self) -> list[list[str]]:
        """The log's whole lines, split into their four fields."""
        whole, _, _ = self.log_text().rpartition("\n")
        rows = [line.split("|") for line in whole.split("\n")] if whole else []
        assert all(len(row) == 4 for row in rows), [row for row in rows if len(row) != 4]
        return rows

    def referrers(self) -> Counter[str]:
        return Counter(row[1] for row in self.lines())

    def wait_lines(self, count: int) -> list[list[str]]:
        """Waits until the log has at least so many lines."""
        wait_for(lambda: len(self.lines()) >= count, lambda: f"{count} lines in the log, got {len(self.lines())}")
        return self.lines()

    def wait_queue(self, depth: int = 0) -> None:
        """Waits until so many messages are left in the queue, in flight or not."""
        found = -1

        def check() -> bool:
            nonlocal found
            found = self.aws.depth(self.queue_url)
            return found == depth

        wait_for(check, lambda: f"{depth} messages in the queue, found {found}", timeout=60)

    def assert_exactly_once(self, load: Load) -> None:
        """Every answered hit is in the log, none is there twice; asked once the queue has come to rest."""
        assert load.answered
        wait_for(
            lambda: load.answered <= self.referrers().keys(),
            lambda: (
                f"all {len(load.answered)} answered visits in the log; "
                f"{len(load.answered - self.referrers().keys())} are not, "
                f"{self.aws.depth(self.queue_url)} messages in the queue"
            ),
            timeout=60,
        )
        self.wait_queue()
        twice = [referrer for referrer, times in self.referrers().items() if times > 1]
        assert not twice, f"{len(twice)} visits are in the log more than once, as {twice[0]}"
        assert self.log_text().endswith("\n")

    def recorded(self) -> list[dict[str, str | None]]:
        """The visits in the outbox's segments: files named by the 20 digits of their first byte's offset."""
        visits: list[dict[str, str | None]] = []
        for segment in self.segments():
            visits += [json.loads(line) for line in segment.read_bytes().splitlines()]
        return visits

    def segments(self) -> list[Path]:
        return sorted(path for path in self.outbox.glob("*/*") if re.match(r"\d{20}\b", path.name))


class Broker(Process):
    """The local broker, as `make run-aws` starts it."""

    def __init__(self, home: Path) -> None:
        self.port = free_port()
        super().__init__("tracker.local", "broker", "--port", str(self.port), home=home, name="broker")

    def wait_ready(self) -> None:
        self.wait_alive(self._answers, "has its queue")

    def _answers(self) -> bool:
        try:
            Aws(self.port).sqs("GetQueueUrl", QueueName="visits")
        except (OSError, AssertionError):
            return False
        return True
