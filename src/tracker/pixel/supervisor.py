"""The supervisor: starts the worker processes, restarts dead ones, shares the outbox's room out, sums their counts."""

import asyncio
import logging
import os
import socket
import sys

import msgspec

from tracker import telemetry
from tracker.config import PixelConfig
from tracker.lifecycle import Backoff, Deadline
from tracker.pixel.control import Command, Hello, Report, encode

log = logging.getLogger("tracker.pixel.supervisor")

KILL_SECONDS = 1.0
SILENT_SECONDS = 30.0  # a worker that answers reports twice a second; one silent for so long hangs
STEADY_SECONDS = 10.0  # a worker that lived so long did not die of its start


class Supervisor:
    """Keeps `config.workers` workers answering on the listening socket."""

    def __init__(self, *, config: PixelConfig, listener: socket.socket) -> None:
        self._config = config
        self._listener = listener
        self._count = (os.cpu_count() or 1) if config.workers == "auto" else config.workers
        self._room = config.outbox.max_bytes // self._count
        self._writers: dict[int, asyncio.StreamWriter] = {}  # of the workers that run
        self._reports: dict[int, Report] = {}  # the last one of each worker that answers
        self._heard_at: dict[int, float] = {}  # when, by the loop's clock
        self._draining = False

    @property
    def answering(self) -> int:
        """How many workers answer."""
        return len(self._reports)

    @property
    def recording(self) -> bool:
        """Whether every worker that answers records its visits."""
        return all(report.recording for report in self._reports.values())

    async def is_heard(self) -> bool:
        """Whether the loops of all workers that answer still turn."""
        now = asyncio.get_running_loop().time()
        return all(now - heard_at < SILENT_SECONDS for heard_at in self._heard_at.values())

    def allow(self, room: int) -> None:
        """Let the workers together add at most `room` bytes until the next call."""
        self._room = max(0, room) // self._count
        self._tell(Command(room=self._room))

    async def run(self) -> None:
        """Keep all workers running, until drained."""
        async with asyncio.TaskGroup() as tasks:
            for slot in range(self._count):
                tasks.create_task(self._keep(slot))

    def drain(self, seconds: float) -> None:
        """Let the workers finish what they have begun within `seconds`, and end; `run` returns after the last."""
        self._draining = True
        self._listener.close()
        self._tell(Command(drain=seconds))

    async def _keep(self, slot: int) -> None:
        loop = asyncio.get_running_loop()
        backoff = Backoff(first=0.1, cap=5.0)
        while not self._stopping():
            began = loop.time()
            try:
                status = str(await self._run_worker(slot))
            except OSError as error:  # no process or no descriptor to be had: the other workers go on
                status = f"not started: {error.strerror}"
            if self._stopping():
                return
            if loop.time() - began > STEADY_SECONDS:
                backoff.reset()
            telemetry.WORKER_RESTARTS.inc()
            log.error("worker_died slot=%d status=%s; another one is started", slot, status)
            await asyncio.sleep(backoff.next())

    def _stopping(self) -> bool:
        return self._draining

    async def _run_worker(self, slot: int) -> int:
        """One worker from its start to its end; its exit status. It is killed if this is cancelled."""
        ours, theirs = socket.socketpair()
        with theirs:
            command = [sys.executable, "-m", "tracker.pixel.worker"]
            descriptors = (self._listener.fileno(), theirs.fileno())
            command += ["--listener", str(descriptors[0]), "--control", str(descriptors[1])]
            try:
                process = await asyncio.create_subprocess_exec(
                    *command, stdin=asyncio.subprocess.DEVNULL, pass_fds=descriptors
                )
            except OSError:
                ours.close()
                raise
        ours.setblocking(False)
        reader, writer = await asyncio.open_unix_connection(sock=ours)
        try:
            writer.write(encode(Hello(self._config, self._room)))
            self._writers[slot] = writer
            if self._draining:
                writer.write(encode(Command(drain=0.0)))
            await self._listen(slot, reader)
            return await process.wait()
        finally:
            writer.close()  # the worker stops at once when it hears nothing more
            self._writers.pop(slot, None)
            self._reports.pop(slot, None)
            self._heard_at.pop(slot, None)
            telemetry.WORKERS.set(self.answering)
            if process.returncode is None:
                process.kill()
                await asyncio.wait([asyncio.create_task(process.wait())], timeout=KILL_SECONDS)

    async def _listen(self, slot: int, reader: asyncio.StreamReader) -> None:
        previous = Report(0, {}, 0, True)
        try:
            while line := await reader.readline():
                report = msgspec.json.decode(line, type=Report)
                self._count_up(previous, report)
                self._reports[slot] = previous = report
                self._heard_at[slot] = asyncio.get_running_loop().time()
                telemetry.WORKERS.set(self.answering)
                telemetry.RECORDING.set(self.recording)
        except (ConnectionError, msgspec.DecodeError):
            return  # it died in mid-word

    def _count_up(self, before: Report, now: Report) -> None:
        telemetry.ACCEPTED.inc(now.accepted - before.accepted)
        telemetry.HEADERS_CUT.inc(now.headers_cut - before.headers_cut)
        telemetry.HEADERS_UNTRUSTED.inc(now.headers_untrusted - before.headers_untrusted)
        for reason, count in now.discarded.items():
            telemetry.DISCARDED.labels(reason).inc(count - before.discarded.get(reason, 0))

    def _tell(self, command: Command) -> None:
        for writer in self._writers.values():
            writer.write(encode(command))


async def finish(running: "asyncio.Task[None]", deadline: Deadline) -> None:
    """Wait for a drained supervisor's `run`; workers still there at the deadline are killed."""
    await asyncio.wait([running], timeout=deadline.remaining())
    running.cancel()
    await asyncio.wait([running])
