"""The pixel's main process: starts its parts in the order in which a visit passes them, and stops them in that order.

    listening socket ─▶ workers (answer, append) ─▶ outbox ─▶ publisher ─▶ SNS

The start:

1. Lock the outbox. While another pixel holds the lock, wait for it.
2. Open the listening socket and start the workers, which inherit it. Wait until the first one answers.
3. Lower main's priority, and import the client of SNS: this takes long, and answers do not need it.
4. Start the admin listener, the outbox monitor, the publisher and the reloads. Tell systemd that the service is ready.

If a step fails, the steps before it are undone in reverse order. `SHUTDOWN` has the steps of a stop and their times.
No failure of the outbox, the publisher or SNS stops the answers. A publisher that fails is started again. An outbox on
a failing disk is opened again every second. The log, `/readyz` and the metrics report both failures.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec

from tracker import __version__, telemetry
from tracker.admin import AdminServer
from tracker.config import PixelConfig
from tracker.cpus import run_behind
from tracker.errors import ConfigurationError
from tracker.lifecycle import Backoff, Budget, Deadline, Stop, install_stop_signals, on_hangup, wait_while_held
from tracker.listening import listen
from tracker.logs import Structure
from tracker.pixel.accounting import Accounting
from tracker.pixel.control import BACKLOG
from tracker.pixel.outbox import Outbox
from tracker.pixel.outbox_monitor import OutboxMonitor
from tracker.pixel.publisher import Publisher
from tracker.pixel.reload import reload_on
from tracker.pixel.worker_pool import WorkerPool, worker_count
from tracker.systemd import Manager

log = logging.getLogger(__name__)

ANSWER_SECONDS = 3.0  # how long the start waits for the first worker to answer; then it goes on without one

# The steps of a stop in their order, and the share of each. Together they have `shutdown.timeout`, of which
# `shutdown.drain_delay` is taken first: with the default of 25 seconds, 0.04 is one second.
SHUTDOWN = {
    "requests": 0.32,  # workers finish the requests that have begun, and close the other connections
    "journals": 0.04,  # workers make their journals durable and exit
    "kill": 0.04,  # workers that have not exited are killed
    "publish": 0.56,  # the publisher publishes what is left in the outbox
    "close": 0.04,  # last figures, admin listener, lock
}


async def run(config: PixelConfig, load: Callable[[], PixelConfig]) -> None:
    """Serve until a stop signal; then drain and return within `shutdown.timeout`. Raises ConfigurationError.

    `load` reads the configuration file again, for a reload.
    """
    stop = install_stop_signals()
    hangup = asyncio.Event()
    on_hangup(hangup.set)
    outbox, accounting = Outbox(Path(config.outbox.dir)), Accounting()
    async with AsyncExitStack() as stack:
        stack.callback(outbox.close)
        await wait_while_held(lambda: _open(outbox), stop.requested)
        http = config.http
        listener = await wait_while_held(lambda: listen("http", http.host, http.port, BACKLOG), stop.requested)
        stack.callback(listener.close)
        workers = WorkerPool(config=config, listener=listener, accounting=accounting)
        working = await stack.enter_async_context(_background(workers.run()))
        await workers.wait_answering(ANSWER_SECONDS)
        run_behind(worker_count(config))
        # Imported only now that a worker answers: botocore takes longer to load than a visitor should wait.
        from tracker.aws import open_topic

        _refuse_slow_parser()
        publisher = Publisher(
            outbox=outbox, config=lambda: workers.config.sns, open_topic=open_topic, accounting=accounting
        )
        monitor = OutboxMonitor(outbox=outbox, workers=workers, accounting=accounting)
        service = _Service(stop, workers, outbox, publisher, monitor)
        admin = AdminServer(
            host=config.admin.host,
            port=config.admin.port,
            ready=service.readiness,
            registry=telemetry.PIXEL,
            refresh=monitor.update,
        )
        stack.push_async_callback(admin.stop)
        await admin.start(stop.requested)
        service.set_gauges()
        log.info("service_started version=%s config=%s", __version__, Structure(msgspec.to_builtins(config)))
        monitoring = await stack.enter_async_context(_background(monitor.run(stop.requested)))
        publishing = await stack.enter_async_context(_background(keep_publishing(publisher)))
        reloading = await stack.enter_async_context(_background(reload_on(hangup, load, workers)))
        manager = Manager()
        # systemd's watchdog only checks that main's event loop runs: main itself replaces workers that hang.
        await stack.enter_async_context(_background(manager.heartbeat(lambda: asyncio.sleep(0))))
        manager.ready()
        await _until_stopped(stop, working, monitoring)
        manager.stopping()
        await service.drain(working, publishing, reloading)
    _log_end(outbox)


class _Service:
    """The parts that a running pixel consists of."""

    def __init__(
        self, stop: Stop, workers: WorkerPool, outbox: Outbox, publisher: Publisher, monitor: OutboxMonitor
    ) -> None:
        self._stop = stop.requested
        self._workers = workers
        self._outbox = outbox
        self._publisher = publisher
        self._monitor = monitor

    @property
    def recording(self) -> bool:
        return self._workers.recording and self._outbox.is_open

    def readiness(self) -> tuple[bool, dict[str, Any]]:
        """Whether the pixel may be sent requests, and what `/readyz` reports."""
        draining = self._stop.is_set()
        answering = self._workers.answering
        return answering > 0 and not draining, {
            "draining": draining,
            "workers": answering,
            "recording": self.recording,
            "publishing": self._publisher.error is None,
            "publish_error": self._publisher.error,
            "outbox": self._monitor.readiness(),
        }

    def set_gauges(self) -> None:
        telemetry.PUBLISHING.set(1)
        telemetry.WORKERS.set_function(lambda: self._workers.answering)
        telemetry.RECORDING.set_function(lambda: self.recording)
        telemetry.PROCESSES.workers = self._workers.pids

    async def drain(
        self, working: "asyncio.Task[None]", publishing: "asyncio.Task[None]", reloading: "asyncio.Task[None]"
    ) -> None:
        """End the workers, then publish what they leave, within `shutdown.timeout` from now on."""
        shutdown = self._workers.config.shutdown
        deadline = Deadline(shutdown.timeout)
        log.info(
            "drain_started delay=%s timeout=%s; A stop was requested. /readyz answers 503 from now on. After the delay "
            "the workers end, and the visits that are left in the outbox are published.",
            shutdown.drain_delay,
            shutdown.timeout,
        )
        await asyncio.sleep(min(shutdown.drain_delay, shutdown.timeout))
        budget = Budget(SHUTDOWN, deadline.remaining())
        reloading.cancel()  # no new worker is started from now on
        await asyncio.wait([reloading])
        self._workers.drain(budget.remaining("requests"))
        await asyncio.wait([working], timeout=budget.remaining("journals"))
        working.cancel()  # this kills the workers that have not exited
        await asyncio.wait([working], timeout=budget.remaining("kill"))
        await self._look(budget.remaining("publish"))  # the workers have ended: the monitor adopts all their journals
        self._publisher.drain()
        await asyncio.wait([publishing], timeout=budget.remaining("publish"))
        publishing.cancel()
        await asyncio.wait([publishing])
        await self._look(budget.remaining("close"))

    async def _look(self, seconds: float) -> None:
        """Let the monitor read the outbox; wait at most `seconds` for it, because the disk may hang."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._monitor.update()


@asynccontextmanager
async def _background(call: Coroutine[Any, Any, None]) -> AsyncIterator["asyncio.Task[None]"]:
    """Run `call` as a task while the block runs. At the end of the block, cancel the task and wait for its end."""
    task = asyncio.create_task(call)
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait([task])


def _refuse_slow_parser() -> None:
    """Raise ConfigurationError if aiohttp uses its Python parser: it is slower and accepts more than the C parser."""
    from aiohttp import http_parser

    if http_parser.HttpRequestParser is http_parser.HttpRequestParserPy:
        raise ConfigurationError(
            "aiohttp: expected its C parser; install a wheel for this Python and unset AIOHTTP_NO_EXTENSIONS"
        )


def _open(outbox: Outbox) -> None:
    try:
        outbox.open()
    except OSError as error:
        log.error(
            "outbox_failed error=%s; The outbox cannot be opened. Requests are still answered, but their visits are "
            "not recorded. The pixel tries again every second. Check the disk of outbox.dir.",
            error.strerror,
        )


async def _until_stopped(stop: Stop, *essential: "asyncio.Task[None]") -> None:
    """Wait for the stop signal. If one of the tasks fails before that, raise its error, which ends the process."""
    stopping = asyncio.create_task(stop.requested.wait())
    done, _ = await asyncio.wait([stopping, *essential], return_when=asyncio.FIRST_COMPLETED)
    for task in done - {stopping}:
        await task


async def keep_publishing(publisher: Publisher) -> None:
    """Run the publisher until it is drained. If a bug makes it fail, start it again; requests are still answered."""
    backoff = Backoff(first=1.0)
    while True:
        try:
            await publisher.run()
            return
        except Exception as error:
            log.exception(
                "publisher_died; This is a bug: report it. Requests are still answered, visits are kept in the outbox, "
                "and the publisher is started again."
            )
            publisher.error = f"the publisher died: {error!r}"
            telemetry.PUBLISHING.set(0)
            await asyncio.sleep(backoff.next())


def _log_end(outbox: Outbox) -> None:
    log.info(
        "service_stopped hits=%d accepted=%d discarded=%d adopted=%d published=%d left_on_disk_bytes=%d; "
        "The visits that are left on the disk are published after the next start.",
        telemetry.total(telemetry.HITS),
        telemetry.total(telemetry.ACCEPTED),
        telemetry.total(telemetry.DISCARDED),
        telemetry.total(telemetry.ADOPTED_VISITS),
        telemetry.total(telemetry.PUBLISHED_VISITS),
        outbox.waiting,
    )
