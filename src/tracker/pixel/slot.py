"""A slot: one worker process after the other; a dead one is followed by another, with backoff, until it is drained.

A worker is started with the listening socket, so that no connection is lost when one ends, with a socket pair, so that
it ends when main does, and with memory for its counts, so that these do not end with it.
"""

import asyncio
import contextlib
import logging
import os
import socket
import sys

from tracker import telemetry
from tracker.config import PixelConfig
from tracker.lifecycle import Backoff
from tracker.pixel.control import ANSWERING, BEATS, NOT_RECORDING, Command, Counts, Hello, encode
from tracker.pixel.tally import Tally

log = logging.getLogger("tracker.pixel.slot")

KILL_SECONDS = 1.0
SILENT_SECONDS = 30.0  # a worker whose loop has not turned for so long hangs
STEADY_SECONDS = 10.0  # a worker that lived so long did not die of its start


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
        self._beats = (0, 0.0)  # how many were counted, and since when, by the loop's clock
        self._drain: float | None = None
        self._drained = asyncio.Event()

    @property
    def recording(self) -> bool:
        """Whether its worker, if one answers, records its visits."""
        return self._counts is None or not self.answers.is_set() or not self._counts[NOT_RECORDING]

    def is_heard(self) -> bool:
        """Whether the loop of its worker, if one answers, still turns."""
        now = asyncio.get_running_loop().time()
        if self._counts is None or not self.answers.is_set() or self._counts[BEATS] != self._beats[0]:
            self._beats = (self._counts[BEATS] if self._counts is not None else 0, now)
        return now - self._beats[1] < SILENT_SECONDS

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
            self._writer = None
            writer.close()  # the worker stops at once when it hears nothing more
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
            *command, stdin=asyncio.subprocess.DEVNULL, pass_fds=tuple(descriptors.values())
        )

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        with contextlib.suppress(ConnectionError):  # it died in mid-word
            while line := await reader.readline():
                if line == ANSWERING:
                    self.answers.set()

    def _tell(self, words: Hello | Command) -> None:
        if self._writer is not None and not self._writer.is_closing():
            self._writer.write(encode(words))
