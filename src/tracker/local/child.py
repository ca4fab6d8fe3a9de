"""A part of the local system: a child process whose output is shown."""

import asyncio
import contextlib
import os
import signal
import sys
from collections import deque
from collections.abc import Mapping

MAX_LINE_BYTES = 1 << 20
LAST_LINES = 10  # shown again when the process has ended by itself


class Child:
    """A process in a session of its own. Each line of its output is shown with its name in front.

    `ready` is set when it prints a line that begins with `ready `; `ended` is done when it has ended.
    """

    def __init__(self, name: str, process: asyncio.subprocess.Process) -> None:
        self.name = name
        self._process = process
        self.ready = asyncio.Event()
        self._last: deque[str] = deque(maxlen=LAST_LINES)
        self._shown = asyncio.create_task(self._show())
        self.ended = asyncio.create_task(process.wait())

    @classmethod
    async def start(cls, name: str, *arguments: str, environ: Mapping[str, str]) -> "Child":
        """Start `python -m` with these arguments. The process ends when this one ends, however that happens."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "tracker.local.guarded",
            *arguments,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env={**environ, "PYTHONUNBUFFERED": "1"},
            start_new_session=True,
            limit=MAX_LINE_BYTES,
        )
        return cls(name, process)

    @property
    def running(self) -> bool:
        return self._process.returncode is None

    async def how_it_ended(self) -> str:
        """How the process ended, and its last lines."""
        await asyncio.wait([self._shown], timeout=1.0)
        code = self._process.returncode
        how = f"ended with exit status {code}"
        if code is not None and code < 0:
            how = f"was killed by {signal.Signals(-code).name}"
        return "\n".join([f"{self.name} {how}", *(["its last lines:", *self._last] if self._last else [])])

    async def stop(self, timeout: float) -> bool:
        """Send SIGTERM, and SIGKILL if it has not ended after `timeout` seconds; returns whether it stopped cleanly."""
        if self.running:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGTERM)
            await asyncio.wait([self.ended], timeout=timeout)
        in_time = not self.running
        if not in_time:
            print(f"{self.name} did not stop within {timeout:.0f} s: killed", flush=True)
        self.kill()
        await self.ended
        await asyncio.wait([self._shown], timeout=1.0)
        # A process that has just started has no handler yet, so SIGTERM kills it. That is a clean stop, too.
        return in_time and self._process.returncode in (0, -signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL to the process group: to the process and to all that it started, even if it has ended itself."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)

    async def _show(self) -> None:
        assert self._process.stdout is not None
        while True:
            try:
                line = await self._process.stdout.readline()
            except ValueError:
                continue  # a line longer than MAX_LINE_BYTES is not shown
            if not line:
                return
            if line.startswith(b"ready "):
                self.ready.set()
            text = f"{self.name:<7} | {line.decode(errors='replace').rstrip()}"
            self._last.append(text)
            print(text, flush=True)
