"""The pool of workers: as many worker processes as are configured, and the one owner of the configuration in force.

A worker that ends by itself, or is killed because it hangs, is replaced:

1. The pool waits first, longer after each death (`Backoff`). The wait is short again after a process that ran for
   `STEADY_SECONDS`.
2. The replacement is started only after the old process has ended, so processes that hang do not accumulate.

A reload replaces all workers by workers with another configuration. No connection is refused or reset meanwhile:

1. One worker with the new configuration is started. If it does not answer within `trial_seconds` it is killed, and the
   reload is given up: nothing has changed.
2. Once it answers, the old worker in its place is drained: it finishes the requests that have begun and exits.
3. The same is done for each further worker, one after the other. From here on the pool waits for as long as a worker
   takes to answer: the first one has shown that the configuration can be used.
4. If the new configuration has fewer workers, those that are too many are drained.
5. The new configuration is in force.
"""

import asyncio
import logging
import socket

from tracker import telemetry
from tracker.config import PixelConfig
from tracker.cpus import usable_cpus
from tracker.errors import ReloadFailed
from tracker.lifecycle import Backoff, wait_for_event
from tracker.pixel.accounting import Accounting
from tracker.pixel.worker_process import PATIENCE, Patience, WorkerProcess
from tracker.pixel.worker_starter import WorkerStarter

log = logging.getLogger(__name__)

END_SECONDS = 1.0  # for such a worker to make its journal durable and exit; then it is killed
STEADY_SECONDS = 10.0  # after this time, the end of a worker is not a failed start


class WorkerPool:
    """Keeps `config.workers` workers answering on the listening socket. `config` is the configuration in force."""

    def __init__(
        self,
        *,
        config: PixelConfig,
        listener: socket.socket,
        accounting: Accounting,
        patience: Patience = PATIENCE,
    ) -> None:
        self.config = config
        self._patience = patience
        self._listener = listener
        self._accounting = accounting
        self._quota = config.outbox.max_bytes
        self._members: list[WorkerProcess] = []  # each is replaced when it dies; the index is its number
        self._running: dict[WorkerProcess, asyncio.Task[None]] = {}  # the members, and those being tried or drained
        self._tasks = asyncio.TaskGroup()
        self._starter: WorkerStarter  # while `run` runs
        self._draining = asyncio.Event()

    @property
    def answering(self) -> int:
        """How many workers answer."""
        return sum(worker.answering for worker in self._running)

    @property
    def recording(self) -> bool:
        """Whether every worker that answers records its visits."""
        return all(worker.recording for worker in self._running)

    def pids(self) -> list[int]:
        """The process numbers of the workers."""
        return [worker.pid for worker in self._running if worker.pid is not None]

    def set_quota(self, quota: int) -> None:
        """Let the workers together add at most `quota` bytes to the outbox until the next call."""
        self._quota = max(0, quota)
        for worker in self._running:
            worker.set_quota(self._quota // len(self._running))

    def count(self) -> None:
        """Pass on to the accounting what the workers have counted since the last call."""
        for worker in self._running:
            worker.count()

    async def run(self) -> None:
        """Keep all workers running until they are drained. If this is cancelled they are killed."""
        self._starter = WorkerStarter()
        try:
            async with self._tasks:
                self._members = [self._start(n, self.config, _backoff()) for n in range(worker_count(self.config))]
                checking = self._tasks.create_task(self._check())
                await self._draining.wait()
                checking.cancel()
        finally:
            self._starter.stop()

    async def wait_answering(self, seconds: float) -> None:
        """Return once the first worker answers, or after `seconds`."""
        await asyncio.sleep(0)  # let `run` make the workers
        if self._members:
            await wait_for_event(self._members[0].answers, seconds)

    async def reload(self, config: PixelConfig) -> None:
        """Replace all workers by workers with `config`, and put it in force (see above).

        Raises ReloadFailed if no worker answers with it. Nothing has changed then.
        """
        for number in range(worker_count(config)):
            new = await self._start_answering(number, config, self._patience.trial_seconds if number == 0 else None)
            old, self._members[number : number + 1] = self._members[number : number + 1], [new]
            for worker in old:
                await self._end(worker, self._patience.requests_seconds)
        surplus, self._members = self._members[number + 1 :], self._members[: number + 1]
        for worker in surplus:
            await self._end(worker, self._patience.requests_seconds)
        self.config = config

    def drain(self, seconds: float) -> None:
        """Let the workers finish the requests that have begun within `seconds` and exit; `run` returns then."""
        self._draining.set()
        self._listener.close()
        for worker in self._running:
            worker.drain(seconds)

    async def _check(self) -> None:
        while True:
            await asyncio.sleep(self._patience.check_seconds)
            for worker in self._running:
                worker.check()

    def _start(self, number: int, config: PixelConfig, backoff: Backoff) -> WorkerProcess:
        workers = max(len(self._running) + 1, worker_count(self.config))
        worker = WorkerProcess(
            number=number,
            config=config,
            listener=self._listener,
            accounting=self._accounting,
            quota=self._quota // workers,
            starter=self._starter,
            patience=self._patience,
        )
        self._running[worker] = self._tasks.create_task(self._run(worker, backoff))
        return worker

    async def _start_answering(self, number: int, config: PixelConfig, seconds: float | None) -> WorkerProcess:
        """A new worker that answers; if its process ends before that, another one is tried.

        `seconds` limits all tries together, None does not. Raises ReloadFailed when the time is over.
        """
        backoff = _backoff()
        try:
            async with asyncio.timeout(seconds):
                while True:
                    worker = self._start(number, config, backoff)
                    await worker.started.wait()
                    if worker.answers.is_set():
                        return worker
                    await self._wait_ended(worker)
        except TimeoutError:
            await self._end(worker, 0.0)
            raise ReloadFailed(f"no worker with this configuration answered within {seconds:g} seconds") from None

    async def _run(self, worker: WorkerProcess, backoff: Backoff) -> None:
        """Run one process until its end, then wait, and start its replacement."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            status = await worker.run()
            if worker.drained.is_set():
                return
            if loop.time() - began > STEADY_SECONDS:
                backoff.reset()
            telemetry.WORKER_RESTARTS.inc()
            log.error(
                "worker_died worker=%d status=%s; A worker process has ended by itself or was killed. Another one is "
                "started. The visits that it answered are in the outbox.",
                worker.number,
                status,
            )
            if await wait_for_event(worker.drained, backoff.next()):
                return
        finally:
            del self._running[worker]
        if worker in self._members:
            self._members[worker.number] = self._start(worker.number, worker.config, backoff)

    async def _end(self, worker: WorkerProcess, seconds: float) -> None:
        """Drain a worker within `seconds`; kill it if it has not ended `END_SECONDS` later."""
        worker.drain(seconds)
        await self._wait_ended(worker, seconds + END_SECONDS)
        if worker in self._running:
            self._running[worker].cancel()  # this kills the process
            await self._wait_ended(worker)

    async def _wait_ended(self, worker: WorkerProcess, seconds: float | None = None) -> None:
        if worker in self._running:
            await asyncio.wait([self._running[worker]], timeout=seconds)


def _backoff() -> Backoff:
    return Backoff(first=0.1, cap=5.0)


def worker_count(config: PixelConfig) -> int:
    return usable_cpus() if config.workers == "auto" else config.workers
