"""`make run` as a process of its own, in a folder and on ports of its own."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path


def wait_until(condition: Callable[[], bool], what: str, seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not within {seconds} s: {what}"
        time.sleep(0.02)


class System:
    """`python -m tracker.local run`; configuration, outbox and visit log are under `folder`."""

    def __init__(self, folder: Path, ports: list[int]) -> None:
        self.folder = folder
        self.broker_port, self.pixel_port, self.pixel_admin_port, self.storage_admin_port, self.demo_port = ports
        self.log = folder / "var" / "visits.log"
        self.pixel_url = f"http://127.0.0.1:{self.pixel_port}/track"
        self.demo_url = f"http://127.0.0.1:{self.demo_port}/"
        (folder / "pixel.yaml").write_text(
            f"{{http: {{host: 127.0.0.1, port: {self.pixel_port}}}, admin: {{port: {self.pixel_admin_port}}}, "
            "sns: {topic_arn: 'arn:aws:sns:us-east-1:000000000000:tracking'}}"
        )
        (folder / "storage.yaml").write_text(
            f"{{sqs: {{queue: visits, wait_time: 1}}, admin: {{port: {self.storage_admin_port}}}}}"
        )
        self._runs = 0
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def output(self) -> str:
        """What the run that was started last has said."""
        return (self.folder / f"run-{self._runs}.txt").read_text()

    @property
    def lines(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def launch(self) -> subprocess.Popen[bytes]:
        self._runs += 1
        with (self.folder / f"run-{self._runs}.txt").open("wb") as output:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "tracker.local", "run"),
                    *("--pixel-config", "pixel.yaml", "--storage-config", "storage.yaml"),
                    *("--broker-port", str(self.broker_port), "--demo-port", str(self.demo_port)),
                ],
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
            )
        return self.process

    def start(self) -> None:
        self.launch()
        wait_until(lambda: "Ctrl-C stops everything" in self.output or not self.running, "all parts are ready")
        assert self.running, self.output

    def interrupt(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGINT)

    def stop(self) -> int:
        self.interrupt()
        return self.wait()

    def wait(self) -> int:
        assert self.process is not None
        return self.process.wait(timeout=40)

    def destroy(self) -> None:
        """Nothing may be left when a test ends, however it ended: the second signal ends everything at once."""
        if self.process is None or not self.running:
            return
        for _ in range(2):
            self.interrupt()
            time.sleep(0.3)
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
