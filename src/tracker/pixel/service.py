"""The pixel's main process: wires listener, workers, outbox and publisher, in the order a visit flows.

    listener ─▶ workers (answer, append) ─▶ outbox ─▶ publisher ─▶ SNS

Nothing behind the workers can stop the answers: a publisher that dies is started again, an outbox on a failing disk is
tried again, and both are said in the log, in /readyz and in the metrics. SIGHUP puts a new configuration to work.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from tracker import __version__, telemetry
from tracker.config import PixelConfig
from tracker.errors import ConfigurationError
from tracker.lifecycle import Backoff, Deadline, Stop, install_stop_signals, on_hangup, wait_while_held
from tracker.listening import listen
from tracker.logs import Structure
from tracker.pixel.accounting import Accounting
from tracker.pixel.control import BACKLOG
from tracker.pixel.outbox import Outbox
from tracker.pixel.reload import Reloader
from tracker.pixel.supervisor import Supervisor, finish
from tracker.pixel.watch import Watch

if TYPE_CHECKING:
    from tracker.pixel.publisher import Publisher

log = logging.getLogger("tracker.pixel.service")

ANSWER_SECONDS = 3.0  # after which a start goes on without a worker
ALARM_SHARE = 0.8  # of outbox.max_bytes
FINISH_SHARE = 1 / 3  # of what is left of the shutdown, for requests that have begun


async def run(config: PixelConfig, load: Callable[[], PixelConfig]) -> None:
    """Serve until a stop signal; then drain and return within `shutdown.timeout`. Raises ConfigurationError.

    `load` reads the configuration anew, for a reload.
    """
    stop = install_stop_signals()
    hangup = asyncio.Event()
    on_hangup(hangup.set)
    outbox = Outbox(Path(config.outbox.dir))
    await wait_while_held(lambda: _open(outbox), stop.requested)
    accounting = Accounting()
    # The one listening socket: workers inherit it, so that no connection is lost when one of them ends.
    http = config.http
    listener = await wait_while_held(lambda: listen("http", http.host, http.port, BACKLOG), stop.requested)
    supervisor = Supervisor(config=config, listener=listener, accounting=accounting)
    workers = asyncio.create_task(supervisor.run())
    # Imported only now that a worker answers: botocore takes longer to load than a visitor should wait.
    await supervisor.wait_answering(ANSWER_SECONDS)
    from tracker.admin import AdminServer
    from tracker.aws import open_topic
    from tracker.pixel.publisher import Publisher
    from tracker.systemd import Manager

    _refuse_slow_parser()
    publisher = Publisher(outbox=outbox, config=config.sns, open_topic=open_topic, accounting=accounting)
    watch = Watch(outbox=outbox, supervisor=supervisor, accounting=accounting, max_bytes=config.outbox.max_bytes)
    reloader = Reloader(config=config, load=load, supervisor=supervisor, publisher=publisher, watch=watch)

    def ready() -> tuple[bool, dict[str, Any]]:
        draining = stop.requested.is_set()
        answering = supervisor.answering > 0 and not draining
        return answering, {
            "draining": draining,
            "workers": supervisor.answering,
            "recording": supervisor.recording and outbox.is_open,
            "publishing": publisher.trouble is None,
            "trouble": publisher.trouble,
            "outbox": {
                "bytes": outbox.size,
                "waiting_bytes": outbox.waiting,
                "nearly_full": outbox.size > watch.max_bytes * ALARM_SHARE,
            },
        }

    admin = AdminServer(
        host=config.admin.host, port=config.admin.port, ready=ready, registry=telemetry.PIXEL, refresh=watch.look
    )
    await admin.start(stop.requested)
    log.info("started version=%s config=%s", __version__, Structure(msgspec.to_builtins(config)))
    telemetry.PUBLISHING.set(1)
    telemetry.WORKERS.set_function(lambda: supervisor.answering)
    telemetry.RECORDING.set_function(lambda: supervisor.recording and outbox.is_open)
    telemetry.PROCESSES.workers = supervisor.pids
    watching = asyncio.create_task(watch.run(stop.requested))
    publishing = asyncio.create_task(_publish(publisher))
    reloading = asyncio.create_task(reloader.run(hangup))
    manager = Manager()
    manager.ready()
    beating = asyncio.create_task(manager.heartbeat(_turn))
    await _until_stopped(stop, workers, watching)

    manager.stopping()
    shutdown = reloader.config.shutdown
    deadline = Deadline(shutdown.timeout)
    log.info("draining delay=%s timeout=%s", shutdown.drain_delay, shutdown.timeout)
    await asyncio.sleep(min(shutdown.drain_delay, deadline.remaining()))
    await finish(reloading, Deadline(0.0))
    in_flight = Deadline(deadline.remaining() * FINISH_SHARE)
    supervisor.drain(in_flight.remaining())
    await finish(workers, Deadline(in_flight.remaining() + 1.0))
    await _look(watch, deadline)  # the workers are gone: all journals are orphans now
    publisher.drain()
    await asyncio.wait([publishing], timeout=max(0.0, deadline.remaining() - 0.5))
    for task in (publishing, watching, beating):
        task.cancel()
    await asyncio.wait([publishing, watching, beating])
    await _look(watch, deadline)
    outbox.close()
    await admin.stop()
    log.info(
        "stopped hits=%d accepted=%d discarded=%d adopted=%d published=%d left_on_disk_bytes=%d",
        telemetry.total(telemetry.HITS),
        telemetry.total(telemetry.ACCEPTED),
        telemetry.total(telemetry.DISCARDED),
        telemetry.total(telemetry.ADOPTED_VISITS),
        telemetry.total(telemetry.PUBLISHED_VISITS),
        outbox.waiting,
    )


def _refuse_slow_parser() -> None:
    """aiohttp's pure-Python parser is slower and more lenient than the C one that everything here is tested with."""
    from aiohttp import http_parser

    if http_parser.HttpRequestParser is http_parser.HttpRequestParserPy:
        raise ConfigurationError(
            "aiohttp: expected its C parser: install a wheel built for this Python and unset AIOHTTP_NO_EXTENSIONS"
        )


def _open(outbox: Outbox) -> None:
    try:
        outbox.open()
    except OSError as error:
        log.error("outbox_unusable %s; visits are answered, not recorded, until it can be used", error.strerror)


async def _turn() -> None:
    """The loop turns: that is all the watchdog has to know of main, which replaces hanging workers by itself."""


async def _until_stopped(stop: Stop, *essential: "asyncio.Task[None]") -> None:
    """Wait for the stop signal. A task that should never end and does ends the process with its error."""
    stopping = asyncio.create_task(stop.requested.wait())
    done, _ = await asyncio.wait([stopping, *essential], return_when=asyncio.FIRST_COMPLETED)
    for task in done - {stopping}:
        await task


async def _look(watch: Watch, deadline: Deadline) -> None:
    """A last look, if the disk gives it in time."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(deadline.remaining()):
            await watch.look()


async def _publish(publisher: "Publisher") -> None:
    """Run the publisher to its drained end; whatever it dies of, the answers go on and it is started again."""
    backoff = Backoff(first=1.0)
    while True:
        try:
            await publisher.run()
            return
        except Exception as error:
            log.exception("publisher_died it is started again")
            publisher.trouble = f"the publisher died: {error!r}"
            telemetry.PUBLISHING.set(0)
            await asyncio.sleep(backoff.next())
