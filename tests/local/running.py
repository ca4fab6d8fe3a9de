"""`make run` as a process, in a folder and on ports of its own."""

import contextlib
import re
import signal
import subprocess
import urllib.request
from collections.abc import Mapping
from pathlib import Path

from tests.system.processes import Process
from tests.system.wire import wait_for

IGNORING_CTRL_C = ("sh", "-c", "trap '' INT; exec \"$@\"", "sh")


class System:
    """`python -m tracker.local run`; configuration, outbox and visit log are under `folder`."""

    def __init__(self, folder: Path, ports: list[int]) -> None:
        self.folder = folder
        self.broker_port, self.pixel_port, self.pixel_admin_port, self.storage_admin_port = ports[:4]
        self.demo_port, self.archive_port = ports[4:]
        self.log = folder / "var" / "visits.log"
        self.pixel_url = f"http://127.0.0.1:{self.pixel_port}/track"
        self.demo_url = f"http://127.0.0.1:{self.demo_port}/"
        (folder / "pixel.yaml").write_text(
            f"{{http: {{host: 127.0.0.1, port: {self.pixel_port}, page_parameter: page}}, "
            f"admin: {{port: {self.pixel_admin_port}}}, "
            "sns: {topic_arn: 'arn:aws:sns:us-east-1:000000000000:tracking'}}"
        )
        self.configure_storage()
        self._started: Process | None = None

    def configure_storage(self, more: str = "") -> None:
        """Write storage's configuration; `more` is YAML, such as `", log: {}"`."""
        (self.folder / "storage.yaml").write_text(
            f"{{sqs: {{queue: visits, wait_time: 1}}, admin: {{port: {self.storage_admin_port}}}{more}}}"
        )

    def hit(self, referrer: str, offset: int = 0) -> None:
        """One visit; `offset` is the system's `--port-offset`."""
        url = f"http://127.0.0.1:{self.pixel_port + offset}/track"
        request = urllib.request.Request(url, headers={"Referer": referrer, "User-Agent": "test"})
        with urllib.request.urlopen(request, timeout=5) as response:
            assert response.status == 200

    @property
    def process(self) -> Process:
        """The run that was started last."""
        assert self._started is not None, "it was not launched"
        return self._started

    @property
    def output(self) -> str:
        return self.process.output

    @property
    def lines(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []

    def parts(self) -> dict[str, int]:
        """The processes that the run has started, each with the name that it prints."""
        found = {}
        listing = subprocess.run(["ps", "-axwwo", "pid=,ppid=,command="], capture_output=True, text=True, check=True)
        for line in listing.stdout.splitlines():
            pid, parent, command = line.split(maxsplit=2)
            if int(parent) == self.process.pid and (
                name := re.search(r"-m tracker\.local\.guarded tracker\.(\w+)", command)
            ):
                found[{"local": "broker", "cli": "archive"}.get(name[1], name[1])] = int(pid)
        return found

    def launch(self, *options: str, env: Mapping[str, str] | None = None) -> None:
        """Start it as the Makefile does, and do not wait for it."""
        arguments = ["--pixel-config", "pixel.yaml", "--storage-config", "storage.yaml"]
        arguments += ["--broker-port", str(self.broker_port), "--demo-port", str(self.demo_port)]
        arguments += ["--archive-port", str(self.archive_port)]
        self._started = Process(
            "tracker.local",
            "run",
            *arguments,
            *options,
            home=self.folder,
            name="run",
            env=env,
            launcher=IGNORING_CTRL_C,
        )

    def start(self, *options: str, env: Mapping[str, str] | None = None) -> None:
        """Start it and wait until all parts are ready."""
        self.launch(*options, env=env)
        self.process.wait_alive(lambda: "Ctrl-C stops everything" in self.output, "all parts are ready")

    def interrupt(self) -> None:
        """What Ctrl-C does."""
        self.process.signal(signal.SIGINT)

    def stop(self) -> int:
        self.interrupt()
        return self.process.wait()

    def destroy(self) -> None:
        """End all of it, however the test ended. Its services have sessions of their own; a second Ctrl-C ends them."""
        if self._started is None:
            return
        if self.process.running:
            self.interrupt()
            with contextlib.suppress(AssertionError):  # what does not stop in time is killed below
                wait_for(lambda: "stopping" in self.output or not self.process.running, "the first Ctrl-C", 5)
                self.interrupt()
                self.process.wait(10)
        self.process.destroy()
