"""One worker process as main sees it: its start, its heartbeats, its counts and its end.

1. Main starts the process (`tracker.pixel.start_worker`) with three inherited descriptors: the listening socket, one
   end of a socket pair, and shared memory for the worker's counts (`tracker.pixel.control`).
2. Main sends `Hello` over the socket pair: the configuration, and how many bytes the worker may add to the outbox.
3. The worker writes one line once it answers requests. From then on main sends it new quotas, once a second.
4. To end a worker, main sends `Command(drain=…)`. The worker finishes the requests that have begun and exits.
5. When the worker ends, in whatever way, the socket pair closes. Main reads its counts a last time, so that nothing
   that a killed worker counted is lost. When main ends, the worker exits at once for the same reason.

Main also kills a worker that hangs, which means that its process is stopped or its event loop is blocked:

1. The worker's loop increments `HEARTBEATS` in the shared memory each second.
2. Main's loop calls `check` each second and counts the calls in a row in which that number was the same. It counts its
   own calls and not seconds: after a suspend of the host, or after a time in which main itself was stopped, the clock
   has moved on, but there was only one call, and the worker can send heartbeats before the next ones.
3. After `silent_checks` such calls the worker does not count as answering. After `hung_checks` it is killed, or after
   `start_checks` if it has not answered yet (`Patience`).
4. A worker in uninterruptible sleep is not killed. It waits for a disk: the signal would only take effect when the disk
   answers, and would then end a healthy worker.
"""

import asyncio
import contextlib
import logging
import os
import re
import socket
import sys
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from tracker.config import PixelConfig
from tracker.pixel.accounting import Accounting
from tracker.pixel.control import ANSWERING, HEARTBEATS, NOT_RECORDING, Command, Counts, Hello, encode
from tracker.pixel.worker_starter import WorkerStarter
from tracker.processes import waits_for_disk

log = logging.getLogger(__name__)

KILL_SECONDS = 1.0  # how long to wait for the end of a killed process; one that waits for a disk takes longer

# What a worker may have in its environment; see docs/security.md. It faces the internet, so it gets no credentials, and
# its configuration comes over the socket pair. A name ending in "_" is a prefix of many names. Short prefixes
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


class Patience(NamedTuple):
    """How long main waits for a worker, before it takes it for hanging and in a reload."""

    check_seconds: float = 1.0  # between two checks whether a worker hangs
    silent_checks: int = 3
    hung_checks: int = 8
    start_checks: int = 60  # a cold disk and a busy host can make a start slow
    trial_seconds: float = 15.0  # for the first worker of a reload to answer
    requests_seconds: float = 8.0  # for the requests of a worker that a reload drains


PATIENCE = Patience()


class WorkerProcess:
    """One process that answers on `listener`; `run` is its whole life.

    `number` names its place in the pool. `quota` is how many bytes it may add to the outbox.
    """

    def __init__(
        self,
        *,
        number: int,
        config: PixelConfig,
        listener: socket.socket,
        accounting: Accounting,
        quota: int,
        starter: WorkerStarter,
        patience: Patience = PATIENCE,
    ) -> None:
        self.number = number
        self.config = config
        self.answers = asyncio.Event()  # set from when the process says that it answers until it ends
        self.started = asyncio.Event()  # set when the process says that it answers, or ends before
        self.drained = asyncio.Event()  # set when the process is asked to exit
        self.pid: int | None = None
        self._listener = listener
        self._accounting = accounting
        self._quota = quota
        self._starter = starter
        self._patience = patience
        self._control: asyncio.StreamWriter | None = None
        self._counts: Counts | None = None
        self._accounted: dict[str, int] = {}  # the part of the counts that the accounting has
        self._process: asyncio.subprocess.Process | None = None  # while `check` may have to kill it
        self._heartbeats = 0
        self._silent = 0  # checks in a row that saw no new heartbeat
        self._drain_seconds: float | None = None

    @property
    def recording(self) -> bool:
        """Whether the worker records its visits. True while it does not answer: it discards no visit then."""
        return self._counts is None or not self.answers.is_set() or not self._counts[NOT_RECORDING]

    @property
    def answering(self) -> bool:
        """Whether the worker answers, as far as main knows: it has said so, and its event loop still runs."""
        return self.answers.is_set() and self._silent < self._patience.silent_checks

    @property
    def connected(self) -> bool:
        """Whether main can send to the worker: it has been started, and its end of the socket pair is open."""
        return self._control is not None and not self._control.is_closing()

    def check(self) -> None:
        """Kill the worker if it hangs. Main's loop must call this once a second (see above)."""
        if self._process is None or self._counts is None or self.drained.is_set():  # a drain has its own deadline
            return
        if self._counts[HEARTBEATS] != self._heartbeats:
            self._heartbeats, self._silent = self._counts[HEARTBEATS], 0
            return
        self._silent += 1
        limit = self._patience.hung_checks if self.answers.is_set() else self._patience.start_checks
        if self._silent >= limit and not waits_for_disk(self._process.pid):
            log.error(
                "worker_killed worker=%d pid=%d checks=%d; In this many checks, one a second, the event loop of the "
                "worker did not run. Main has killed it and starts another one. Its visits are in the outbox.",
                self.number,
                self._process.pid,
                self._silent,
            )
            self.answers.clear()
            self._starter.kill(self._process)
            self._process = None

    def set_quota(self, quota: int) -> None:
        """Let the worker add at most `quota` bytes to the outbox until the next call."""
        self._quota = quota
        self._send(Command(quota=quota))

    def drain(self, seconds: float) -> None:
        """Ask the worker to finish the requests that have begun within `seconds` and to exit; `run` returns then."""
        self._drain_seconds = seconds
        self.drained.set()
        self._send(Command(drain=seconds))

    def count(self) -> None:
        """Pass on to the accounting what the worker has counted since the last call."""
        if self._counts is not None:
            before, self._accounted = self._accounted, dict(self._counts)
            self._accounting.count_not_recorded(before, self._accounted)

    async def run(self) -> str:
        """Start the process and wait for its end; return its exit status, or why it could not be started.

        If this is cancelled the process is killed.
        """
        try:
            return "not started: it was drained before" if self.drained.is_set() else str(await self._run())
        except OSError as error:  # no process or no descriptor is available: the other workers go on
            return f"not started: {error.strerror}"
        finally:
            self.started.set()

    async def _run(self) -> int:
        process, counts, control = await self._starter.call(self._start())
        self._process, self.pid, self._counts = process, process.pid, counts
        try:
            reader, self._control = await asyncio.open_unix_connection(sock=control)
            self._send(Hello(self.config, self._quota))
            if self._drain_seconds is not None:  # `drain` was called while the process was being started
                self._send(Command(drain=self._drain_seconds))
            await self._receive(reader)
            return await self._starter.call(process.wait())
        finally:
            self._process = None
            self.answers.clear()
            main_end, self._control = self._control or control, None
            main_end.close()  # the worker then exits at once
            if process.returncode is None:
                self._starter.kill(process)
                await asyncio.wait([asyncio.create_task(self._starter.call(process.wait()))], timeout=KILL_SECONDS)
            self.pid = None
            self.count()
            self._counts = None
            counts.close()

    async def _start(self) -> tuple[asyncio.subprocess.Process, Counts, socket.socket]:
        """The process, its counts, and main's end of the socket pair. Raises OSError, with all of them closed.

        All of this runs in the starter's thread: nobody closes a descriptor while the process inherits it.
        """
        with contextlib.ExitStack() as on_error, contextlib.ExitStack() as inherited:
            memory = Counts.create()
            inherited.callback(os.close, memory)
            counts = Counts(memory)
            on_error.callback(counts.close)
            control, workers_end = socket.socketpair()
            on_error.callback(control.close)  # a process that was started in spite of an error then exits
            inherited.callback(workers_end.close)
            control.setblocking(False)
            descriptors = {"listener": self._listener.fileno(), "control": workers_end.fileno(), "counts": memory}
            command = [sys.executable, "-m", "tracker.pixel.start_worker", "--main", str(os.getpid())]
            for name, descriptor in descriptors.items():
                command += [f"--{name}", str(descriptor)]
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=tuple(descriptors.values()),
                env=worker_environment(os.environ, sys.path),
            )
            on_error.pop_all()
            return process, counts, control

    async def _receive(self, reader: asyncio.StreamReader) -> None:
        """Read what the worker writes, until it closes its end."""
        with contextlib.suppress(ConnectionError):  # the worker was killed while it wrote a line
            while line := await reader.readline():
                if line == ANSWERING:
                    self._silent = 0  # its heartbeats begin now
                    self.answers.set()
                    self.started.set()

    def _send(self, document: Hello | Command) -> None:
        if self._control is not None and self.connected:  # uvloop, unlike asyncio, raises on a closed transport
            self._control.write(encode(document))


def worker_environment(environ: Mapping[str, str], path: Sequence[str]) -> dict[str, str]:
    """The environment of a worker: a part of main's own, and `path`, main's module search path.

    Without that path, `-m` would look for modules in the current directory first. A file there with the name of one
    of our imports would make every worker fail. Main is started as `tracker-pixel` and never looks there.
    """
    prefixes = tuple(name for name in ENVIRONMENT if name.endswith("_"))
    kept = {
        name: value
        for name, value in environ.items()
        if name in ENVIRONMENT or name.startswith(prefixes) or _PYTHON_SETTING.fullmatch(name)
    }
    return {**kept, "PYTHONPATH": os.pathsep.join(path), "PYTHONSAFEPATH": "1"}
