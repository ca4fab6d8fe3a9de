"""The one launcher of the tests and the benchmarks: a command in a session of its own.

It is watched from outside, and ended with all that it has started.
"""

import contextlib
import os
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

from tests.system.wire import DEADLINE, wait_for

ROOT = Path(__file__).resolve().parents[1]


def environment(home: Path, extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of a service: none of the caller's AWS or tracker settings, no credentials to be found.

    No test calls HTTPS by a service. Without certificates a process starts with a tenth less CPU time.
    """
    others = ("AWS_", "TRACKER_", "MOTO_", "REQUESTS_CA_BUNDLE", "SSL_CERT_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(others)}
    return {
        **kept,
        "HOME": str(home),
        "AWS_EC2_METADATA_DISABLED": "true",
        "SSL_CERT_FILE": os.devnull,
        "PYTHONPATH": str(ROOT / "src"),
        "PYTHONUNBUFFERED": "1",
        **(extra or {}),
    }


class Launched:
    """A process that leads a session of its own. What it prints goes to the file `output_file`, or to `stdout`.

    As a context it ends with `destroy`. `failure` is raised when it ends too early.
    """

    failure: ClassVar[type[Exception]] = AssertionError

    def __init__(
        self,
        command: Sequence[str],
        *,
        output_file: Path,
        home: Path,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        stdin: int = subprocess.DEVNULL,
        stdout: int | None = None,
        stderr: int = subprocess.STDOUT,
    ) -> None:
        self.name = output_file.stem
        self._output = output_file
        with output_file.open("ab") as output:
            self._process = subprocess.Popen(
                command,
                cwd=cwd or home,
                env=environment(home, env),
                stdin=stdin,
                stdout=output if stdout is None else stdout,
                stderr=stderr,
                start_new_session=True,
            )
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

    def check_running(self) -> None:
        """Raise `failure`, with the output, if the process has ended."""
        if not self.running:
            raise self.failure(f"{self.name} ended with {self._process.returncode}:\n{self.output[-20_000:]}")

    def wait_alive(self, condition: Callable[[], object], what: str) -> None:
        """Waits for the condition; fails at once when the process ends before."""

        def check() -> object:
            self.check_running()
            return condition()

        wait_for(check, lambda: f"{self.name}: {what}\n{self.output}")

    def terminate(self) -> None:
        self.signal(signal.SIGTERM)

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def wait(self, timeout: float = DEADLINE) -> int:
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} did not end within {timeout:g} s:\n{self.output}") from None

    def destroy(self) -> None:
        """SIGKILL to the process and its whole group, whatever state they are in."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait(DEADLINE)
