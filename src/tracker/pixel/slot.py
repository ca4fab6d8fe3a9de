"""A slot: one worker process after the other; a dead one is followed by another, with backoff, until it is drained.

A worker is started with the listening socket, so that no connection is lost when one ends, with a socket pair, so that
it ends when main does, and with memory for its counts, so that these do not end with it.

A worker that hangs (it is stopped, or its loop does not turn) is killed, and then replaced like one that died:

1. The worker's loop increments `BEATS` in the shared memory each second.
2. Main's loop calls `check` each second and counts the calls in a row in which the beats were the same. It counts its
   own calls and not seconds: after a suspend of the host, or after a time in which main itself was stopped, the clock
   has moved on, but there was only one call, and the worker has the next ones to beat again.
3. After SILENT_CHECKS the worker does not count as answering. After HUNG_CHECKS (a worker that has not answered yet:
   START_CHECKS) it is killed.
4. A worker in uninterruptible sleep is not killed. It waits for a disk: the signal would only take effect when the disk
   answers, and would then end a healthy worker.
5. The next worker is started when the killed one has really ended, so hanging processes do not pile up.
"""

import asyncio
import contextlib
import logging
import os
import re
import socket
import sys
from collections.abc import Mapping, Sequence

from tracker import telemetry
from tracker.config import PixelConfig
from tracker.lifecycle import Backoff
from tracker.pixel.control import ANSWERING, BEATS, NOT_RECORDING, Command, Counts, Hello, encode
from tracker.pixel.tally import Tally
from tracker.processes import waits_for_disk

log = logging.getLogger("tracker.pixel.slot")

KILL_SECONDS = 1.0
SILENT_CHECKS = 3  # one a second
HUNG_CHECKS = 8
START_CHECKS = 60  # a cold disk and a busy host can make a start slow
STEADY_SECONDS = 10.0  # a worker that lived so long did not die of its start

# What a worker may have in its environment; see docs/security.md. It faces the internet, so it gets no credentials, and
# its configuration comes over the socket pair. A name ending in "_" stands for all names that begin so. Short prefixes
# are not used: UV_PUBLISH_TOKEN, LD_SDK_KEY and PYTHONANYWHERE_API_TOKEN are other programs' secrets.
ENVIRONMENT = (
    *("PATH", "HOME", "__PYVENV_LAUNCHER__"),
    *("PYTHON_CPU_COUNT", "PYTHON_GIL", "PYTHON_JIT", "PYTHON_FROZEN_MODULES"),  # and PYTHON…, without an underscore
    *("LD_LIBRARY_PATH", "LD_PRELOAD", "LD_BIND_NOW", "DYLD_"),  # libraries
    *("MALLOC_", "GLIBC_TUNABLES", "UV_THREADPOOL_SIZE", "UV_USE_IO_URING"),  # allocator, and libuv
    *("LANG", "LANGUAGE", "LC_", "TZ", "TZDIR", "TMPDIR"),
    "COVERAGE_",
)
_PYTHON_SETTING = re.compile(r"PYTHON[A-Z0-9]+")


class Slot:
    """Keeps one worker on `listener`; `room` is how many bytes it may add to the outbox."""

    def __init__(self, *, number: int, config: PixelConfig, listener: socket.socket, tally: Tally, room: int) -> None:
        self.answers = asyncio.Event()  # while a worker is there and answers
        self.pid: int | None = None
        self._number = number
        self._config = config
        self._listener = listener
        self._tally = tally
        self._room = room
        self._writer: asyncio.StreamWriter | None = None
        self._counts: Counts | None = None
        self._counted: dict[str, int] = {}
        self._process: asyncio.subprocess.Process | None = None  # while it may have to be killed
        self._beats = 0
        self._silent = 0  # checks in a row that saw no new beat
        self._drain: float | None = None
        self._drained = asyncio.Event()

    @property
    def recording(self) -> bool:
        """Whether its worker, if one answers, records its visits."""
        return self._counts is None or not self.answers.is_set() or not self._counts[NOT_RECORDING]

    @property
    def answering(self) -> bool:
        """Whether its worker answers, as far as one can know: it has said so, and its loop still turns."""
        return self.answers.is_set() and self._silent < SILENT_CHECKS

    def check(self) -> None:
        """Kill the worker if it hangs. To be called each second, by main's loop (see above)."""
        if self._process is None or self._counts is None or self._drain is not None:  # a drain has its own deadline
            return
        if self._counts[BEATS] != self._beats:
            self._beats, self._silent = self._counts[BEATS], 0
            return
        self._silent += 1
        limit = HUNG_CHECKS if self.answers.is_set() else START_CHECKS
        if self._silent >= limit and not waits_for_disk(self._process.pid):
            log.error(
                "worker_hangs slot=%d pid=%d checks=%d; its loop does not turn: it is killed, and another is started",
                self._number,
                self._process.pid,
                self._silent,
            )
            self.answers.clear()
            self._process.kill()
            self._process = None

    def allow(self, room: int) -> None:
        """Let the worker add at most `room` bytes until the next call."""
        self._room = room
        self._tell(Command(room=room))

    def drain(self, seconds: float) -> None:
        """Let the worker finish what it has begun within `seconds` and end; `run` returns then."""
        self._drain = seconds
        self._drained.set()
        self._tell(Command(drain=seconds))

    def count(self) -> None:
        """Take over what the worker has counted since."""
        if self._counts is not None:
            before, self._counted = self._counted, dict(self._counts)
            self._tally.not_recorded(before, self._counted)

    async def run(self) -> None:
        """Keep a worker running, until drained."""
        loop = asyncio.get_running_loop()
        backoff = Backoff(first=0.1, cap=5.0)
        while not self._drained.is_set():
            began = loop.time()
            try:
                status = str(await self._run_worker())
            except OSError as error:  # no process or no descriptor to be had: the other workers go on
                status = f"not started: {error.strerror}"
            if self._drained.is_set():
                return
            if loop.time() - began > STEADY_SECONDS:
                backoff.reset()
            telemetry.WORKER_RESTARTS.inc()
            log.error("worker_died slot=%d status=%s; another one is started", self._number, status)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(backoff.next()):
                    await self._drained.wait()

    async def _run_worker(self) -> int:
        """One worker from its start to its end; its exit status. It is killed if this is cancelled."""
        with contextlib.ExitStack() as stack:
            memory = Counts.create()
            stack.callback(os.close, memory)
            counts = Counts(memory)
            ours, theirs = socket.socketpair()
            stack.enter_context(theirs)
            try:
                process = await self._start(theirs.fileno(), memory)
            except BaseException:
                ours.close()  # a worker that was started all the same ends with it
                counts.close()
                raise
        self._counts, self._counted = counts, {}
        self._process, self._beats, self._silent = process, 0, 0
        ours.setblocking(False)
        reader, writer = await asyncio.open_unix_connection(sock=ours)
        try:
            self.pid, self._writer = process.pid, writer
            self._tell(Hello(self._config, self._room))
            if self._drain is not None:
                self._tell(Command(drain=self._drain))
            await self._listen(reader)
            return await process.wait()
        finally:
            self._writer = self._process = None
            writer.close()  # the worker stops at once when its end is closed
            self.answers.clear()
            if process.returncode is None:
                process.kill()
                await asyncio.wait([asyncio.create_task(process.wait())], timeout=KILL_SECONDS)
            self.pid = None
            self.count()
            self._counts = None
            counts.close()

    async def _start(self, control: int, memory: int) -> asyncio.subprocess.Process:
        descriptors = {"listener": self._listener.fileno(), "control": control, "counts": memory}
        command = [sys.executable, "-m", "tracker.pixel.start_worker", "--main", str(os.getpid())]
        for name, descriptor in descriptors.items():
            command += [f"--{name}", str(descriptor)]
        return await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            pass_fds=tuple(descriptors.values()),
            env=worker_environment(os.environ, sys.path),
        )

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        with contextlib.suppress(ConnectionError):  # it died in mid-word
            while line := await reader.readline():
                if line == ANSWERING:
                    self._silent = 0  # its beats begin now
                    self.answers.set()

    def _tell(self, words: Hello | Command) -> None:
        if self._writer is not None and not self._writer.is_closing():
            self._writer.write(encode(words))


def worker_environment(environ: Mapping[str, str], path: Sequence[str]) -> dict[str, str]:
    """The environment of a worker: a part of main's own, and `path`, main's module search path.

    Without that path, `-m` would look for modules in the current directory first. There a file that has the name of a
    module that we import would end every worker, although main, started as `tracker-pixel`, never looks there.
    """
    prefixes = tuple(name for name in ENVIRONMENT if name.endswith("_"))
    kept = {
        name: value
        for name, value in environ.items()
        if name in ENVIRONMENT or name.startswith(prefixes) or _PYTHON_SETTING.fullmatch(name)
    }
    return {**kept, "PYTHONPATH": os.pathsep.join(path), "PYTHONSAFEPATH": "1"}
