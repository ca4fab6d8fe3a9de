"""The supervisor: as many slots with a worker each as are configured, and new workers in place of the old ones.

A reload goes from slot to slot: a new worker is started, and only when it answers is the old one drained. The first
new worker is the trial of the configuration: if it does not answer, the reload is given up and nothing has changed.
"""

import asyncio
import socket

from tracker.config import PixelConfig
from tracker.cpus import usable_cpus
from tracker.errors import ReloadFailed
from tracker.lifecycle import Deadline, wait_for_event
from tracker.pixel.accounting import Accounting
from tracker.pixel.slot import Slot

TRIAL_SECONDS = 15.0
ROLL_SECONDS = 8.0  # for the end of one worker during a reload
CHECK_SECONDS = 1.0  # between two looks whether a worker hangs


class Supervisor:
    """Keeps `config.workers` workers answering on the listening socket."""

    def __init__(self, *, config: PixelConfig, listener: socket.socket, accounting: Accounting) -> None:
        self._config = config
        self._listener = listener
        self._accounting = accounting
        self._room = config.outbox.max_bytes
        self._slots: list[Slot] = []  # those that stay, by their number
        self._running: dict[Slot, asyncio.Task[None]] = {}  # and those whose worker has not ended yet
        self._tasks = asyncio.TaskGroup()
        self._draining = asyncio.Event()

    @property
    def answering(self) -> int:
        """How many workers answer."""
        return sum(slot.answering for slot in self._running)

    @property
    def recording(self) -> bool:
        """Whether every worker that answers records its visits."""
        return all(slot.recording for slot in self._running)

    def pids(self) -> list[int]:
        """The processes of the workers."""
        return [slot.pid for slot in self._running if slot.pid is not None]

    def allow(self, room: int) -> None:
        """Let the workers together add at most `room` bytes until the next call."""
        self._room = max(0, room)
        for slot in self._running:
            slot.allow(self._room // len(self._running))

    def count(self) -> None:
        """Take over what the workers have counted since."""
        for slot in self._running:
            slot.count()

    async def run(self) -> None:
        """Keep all workers running, until drained."""
        async with self._tasks:
            self._slots = [self._open(number, self._config) for number in range(_worker_count(self._config))]
            checking = self._tasks.create_task(self._check())
            await self._draining.wait()
            checking.cancel()

    async def wait_answering(self, seconds: float) -> None:
        """Return once the first worker answers, or after `seconds`."""
        await asyncio.sleep(0)  # `run` begins
        if self._slots:
            await wait_for_event(self._slots[0].answers, seconds)

    async def reload(self, config: PixelConfig) -> None:
        """Put a worker with `config` in the place of each, one after the other; raises ReloadFailed if none will do.

        After the first has answered, the others are waited for as long as it takes.
        """
        for number in range(_worker_count(config)):
            new = self._open(number, config)
            if not await wait_for_event(new.answers, TRIAL_SECONDS if number == 0 else None):
                await self._end(new, 0.0)
                raise ReloadFailed(f"no worker answered with it within {TRIAL_SECONDS:g} seconds")
            old, self._slots[number : number + 1] = self._slots[number : number + 1], [new]
            for slot in old:
                await self._end(slot, ROLL_SECONDS)
        surplus, self._slots = self._slots[number + 1 :], self._slots[: number + 1]
        for slot in surplus:
            await self._end(slot, ROLL_SECONDS)

    def drain(self, seconds: float) -> None:
        """Let the workers finish what they have begun within `seconds`, and end; `run` returns after the last."""
        self._listener.close()
        for slot in self._running:
            slot.drain(seconds)
        self._draining.set()

    async def _check(self) -> None:
        while True:
            await asyncio.sleep(CHECK_SECONDS)
            for slot in self._running:
                slot.check()

    def _open(self, number: int, config: PixelConfig) -> Slot:
        room = self._room // (len(self._running) + 1) if self._slots else self._room // _worker_count(config)
        slot = Slot(number=number, config=config, listener=self._listener, accounting=self._accounting, room=room)
        self._running[slot] = task = self._tasks.create_task(slot.run())
        task.add_done_callback(lambda _: self._running.pop(slot))
        return slot

    async def _end(self, slot: Slot, seconds: float) -> None:
        slot.drain(seconds)
        await finish(self._running[slot], Deadline(seconds + 1.0))


def _worker_count(config: PixelConfig) -> int:
    return usable_cpus() if config.workers == "auto" else config.workers


async def finish(running: "asyncio.Task[None]", deadline: Deadline) -> None:
    """Wait for something drained to end; at the deadline it is cancelled, which kills the workers still there."""
    await asyncio.wait([running], timeout=deadline.remaining())
    running.cancel()
    await asyncio.wait([running])
