"""The local broker as the process it is."""

import subprocess
import sys


class Broker:
    """`python -m tracker.local broker`, ready."""

    def __init__(self, port: int, *options: str) -> None:
        self.endpoint = f"http://127.0.0.1:{port}"
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tracker.local", "broker", "--port", str(port), *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert self.process.stdout is not None
        self.said = ""
        while not self.said.startswith("ready ", self.said.rfind("\n", 0, -1) + 1):
            line = self.process.stdout.readline()
            self.said += line
            if not line:
                self.process.communicate()
                raise AssertionError(f"the broker did not start: {self.said}")

    def __enter__(self) -> "Broker":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()
