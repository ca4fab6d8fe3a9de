"""Starts worker processes, in a thread and an event loop of their own.

A process inherits the priority of the thread that starts it, and only a privileged one can raise its priority again.
Main's event loop has a lower priority than the workers (`tracker.cpus.run_behind`). So workers are started by this
thread, which began before the event loop lowered its priority.

The thread must not end before the workers: Linux kills them when the thread that started them ends (`tracker.start`).
"""

import asyncio
import contextlib
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

import uvloop

STOP_SECONDS = 1.0  # how long `stop` waits: a start of a process may wait for a disk that hangs

T = TypeVar("T")


class WorkerStarter:
    """The thread. Create it before the calling thread lowers its priority."""

    def __init__(self) -> None:
        self._loop = uvloop.new_event_loop()
        self._stopped = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="worker-starter", daemon=True)
        self._thread.start()

    async def call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Await `coroutine` in the thread's event loop, and return its result. Raises what it raises."""
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(coroutine, self._loop))

    def kill(self, process: asyncio.subprocess.Process) -> None:
        """Kill a process that was started in the thread's event loop; it may have ended."""
        self._loop.call_soon_threadsafe(_kill, process)

    def stop(self) -> None:
        """End the thread, and with it all workers that it has started."""
        self._loop.call_soon_threadsafe(self._stopped.set)
        self._thread.join(STOP_SECONDS)

    def _run(self) -> None:
        uvloop.run(self._stopped.wait(), loop_factory=lambda: self._loop)


def _kill(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.kill()
