"""The servers that are measured or compared with, configured as users have them, on free ports, and ready."""

import json
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.naive import TOPIC
from benchmarks.peers import PEERS
from benchmarks.processes import CLIENT, SERVER, Process, get, metric
from tests.ports import free_port

ACCEPTED = "tracker_pixel_visits_accepted"
PUBLISHED = "tracker_pixel_visits_published"
APPENDED = "tracker_storage_visits_appended"


class Server:
    """Something that answers `url`."""

    def __init__(self, process: Process, port: int) -> None:
        self.process = process
        self.port = port
        self.url = f"http://127.0.0.1:{port}/track"

    def wait_done(self, hits: int) -> None:
        """Wait until the server has done all work for `hits` more hits. Some of it comes after the answers."""


class FakeAws:
    """`benchmarks.fake_aws`, on the client's core."""

    def __init__(self, process: Process, port: int) -> None:
        self.process = process
        self._port = port
        self.endpoint = f"http://127.0.0.1:{port}"

    def calls(self) -> dict[str, int]:
        """The number of calls by action since the last time this was asked."""
        counts: dict[str, int] = json.loads(get(self._port, "/calls"))
        return counts

    def down(self, is_down: bool) -> None:
        get(self._port, f"/down?{int(is_down)}")

    def add_backlog(self, visits: int) -> None:
        get(self._port, f"/backlog?{visits}")


class Service(Server):
    """A pixel or a storage. Only a pixel has a `url`."""

    def __init__(self, process: Process, port: int, admin_port: int) -> None:
        super().__init__(process, port)
        self._admin_port = admin_port
        self.admin = f"http://127.0.0.1:{admin_port}"

    def is_ready(self) -> bool:
        return b'"ready": true' in get(self._admin_port, "/readyz")

    def metric(self, name: str) -> float:
        return metric(get(self._admin_port, "/metrics"), name)

    def workers(self) -> list[int]:
        return self.process.family()[1:]


class Pixel(Service):
    _accepted = 0.0

    def wait_done(self, hits: int) -> None:
        def is_done() -> bool:
            metrics = get(self._admin_port, "/metrics")
            accepted = metric(metrics, ACCEPTED)
            done = accepted >= self._accepted + hits and metric(metrics, PUBLISHED) >= accepted
            if done:
                self._accepted = accepted
            return done

        # Each poll of /metrics costs the main process about as much as a hundred hits.
        self.process.wait_until(is_done, "everything is published", 300.0, pause=0.25)


class Naive(Server):
    def __init__(self, process: Process, port: int, aws: FakeAws) -> None:
        super().__init__(process, port)
        self._aws = aws
        self._unpublished = 0

    def wait_done(self, hits: int) -> None:
        def is_done() -> bool:
            self._unpublished -= self._aws.calls().get("Publish", 0)
            return self._unpublished <= 0

        self._unpublished += hits
        self.process.wait_until(is_done, "everything is published", 300.0)


class Servers:
    """Starts servers. All of them end with the context."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self._stack = ExitStack()
        self._started = 0

    def __enter__(self) -> "Servers":
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def directory(self, name: str) -> Path:
        """A new directory, for instance for the log of a storage."""
        self._started += 1
        folder = self.home / f"{name}-{self._started}"
        folder.mkdir()
        return folder

    def _start(self, name: str, command: list[str], folder: Path, cores: set[int]) -> Process:
        process = Process(name, command, home=folder, cores=cores)
        self._stack.callback(process.destroy)
        return process

    def peer(self, name: str) -> Server | None:
        """One of `benchmarks.peers`; None where it is not installed."""
        folder, port = self.directory("peer"), free_port()
        command = PEERS[name].command(folder, port)
        if command is None:
            return None
        server = Server(self._start(name, command, folder, SERVER), port)
        server.process.wait_until(lambda: get(port, "/track"), "it answers")
        return server

    def aws(self, *, keep: bool) -> FakeAws:
        """With `keep` published messages go into the queue; without it they are accepted and dropped."""
        folder, port = self.directory("aws"), free_port()
        command = [sys.executable, "-m", "benchmarks.fake_aws", str(port), "keep" if keep else "forget"]
        aws = FakeAws(self._start("fake-aws", command, folder, CLIENT), port)
        aws.process.wait_until(lambda: aws.calls() is not None, "it answers")
        return aws

    def distant(self, endpoint: str, seconds: float) -> str:
        """An endpoint that answers as the given one does, but `seconds` later."""
        folder, port = self.directory("distance"), free_port()
        command = [sys.executable, "-m", "benchmarks.distance", str(port), endpoint.rpartition(":")[2], str(seconds)]
        process = self._start("distance", command, folder, CLIENT)
        process.wait_until(lambda: get(port, "/calls"), "it answers")
        return f"http://127.0.0.1:{port}"

    def naive(self) -> Naive:
        folder, port, aws = self.directory("naive"), free_port(), self.aws(keep=False)
        command = [sys.executable, "-m", "benchmarks.naive", str(port), aws.endpoint]
        server = Naive(self._start("naive", command, folder, SERVER), port, aws)
        server.process.wait_until(lambda: get(port, "/track"), "it answers")
        server.wait_done(1)
        return server

    def pixel(
        self,
        endpoint: str,
        *,
        workers: int = 1,
        cores: set[int] = SERVER,
        ready: bool = True,
        trusted_proxies: Sequence[str] = (),
        outbox: Path | None = None,
    ) -> Pixel:
        folder, port, admin_port = self.directory("pixel"), free_port(), free_port()
        config = {
            "http": {"host": "127.0.0.1", "port": port, "trusted_proxies": list(trusted_proxies)},
            "admin": {"port": admin_port},
            "workers": workers,
            "outbox": {"dir": str(outbox or folder / "outbox"), "max_bytes": 8 << 30},
            "sns": {"topic_arn": TOPIC, "endpoint_url": endpoint},
            "logging": {"level": "warning"},
        }
        process = self._service("pixel", config, folder, cores)
        pixel = Pixel(process, port, admin_port)
        if ready:
            process.wait_until(lambda: pixel.is_ready() and len(pixel.workers()) == workers, "ready")
        return pixel

    def storage(self, endpoint: str, folder: Path, *, cores: set[int] = SERVER) -> Service:
        """A storage with its log at `folder`/visits.log."""
        admin_port = free_port()
        config = {
            "sqs": {"queue": "visits", "region": "us-east-1", "endpoint_url": endpoint},
            "log": {"path": str(folder / "visits.log")},
            "admin": {"port": admin_port},
            "logging": {"level": "warning"},
        }
        storage = Service(self._service("storage", config, folder, cores), 0, admin_port)
        storage.process.wait_until(storage.is_ready, "ready")
        return storage

    def broker(self) -> str:
        """The local SNS and SQS of `make run`; its endpoint."""
        folder, port = self.directory("broker"), free_port()
        command = [sys.executable, "-m", "tracker.local", "broker", "--port", str(port)]
        process = self._start("broker", command, folder, CLIENT)
        process.wait_until(lambda: "ready" in process.output, "ready")
        return f"http://127.0.0.1:{port}"

    def _service(self, name: str, config: dict[str, Any], folder: Path, cores: set[int]) -> Process:
        path = folder / f"{name}.yaml"
        path.write_text(json.dumps(config))  # JSON is YAML
        return self._start(name, [sys.executable, "-m", f"tracker.{name}", "--config", str(path)], folder, cores)
