"""The storage service: wires the stages in the order the data flows, and stops them in that order.

    SQS -> Receiver -> queue -> Writer (Batch, Ledger, VisitLog) -> Acknowledger -> SQS

1. The service takes the log's lock, brings the log and its ledger into agreement, and opens both.
2. It connects to the queue.
3. It starts the admin listener and then the stages.
4. At a stop request `tracker.storage.shutdown` ends the stages, in the order the data flows.
5. The service undoes steps 3 to 1, in reverse order.

If a stage raises an error, all stages are ended, step 5 follows, and the process ends with that error.
"""

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from tracker import __version__, telemetry
from tracker.admin import AdminServer
from tracker.aws import open_queue
from tracker.config import StorageConfig
from tracker.core.delivery import Delivery, Queue
from tracker.files import refuse_network_file_system
from tracker.lifecycle import Budget, install_stop_signals, on_hangup, wait_while_held
from tracker.logs import Structure
from tracker.owner_thread import OwnerThread
from tracker.storage import gauges, shutdown
from tracker.storage.acknowledger import Acknowledger
from tracker.storage.compressor import Compressor
from tracker.storage.dead_letters import check_redrive
from tracker.storage.in_flight import InFlight
from tracker.storage.ledger import Ledger
from tracker.storage.ledger_start import only_writer
from tracker.storage.receiver import Outage, Receiver
from tracker.storage.recovery import open_ledger
from tracker.storage.retention import Retention
from tracker.storage.visit_log import VisitLog, open_visit_log
from tracker.storage.writer import Writer
from tracker.systemd import Manager
from tracker.visit_log_files import closed_logs

log = logging.getLogger(__name__)

MAX_RECEIVED = 20  # how many deliveries may wait for the writer; then the receivers wait


@dataclass(frozen=True, slots=True)
class _Files:
    """The log and its ledger, which are used in `thread` only, and what is done with closed logs."""

    path: Path
    thread: OwnerThread
    ledger: Ledger
    visit_log: VisitLog
    closed_logs: list[Compressor | Retention]


@dataclass(frozen=True, slots=True)
class _Stages:
    """The stages, in the order the data flows, and the objects that they share."""

    queue: Queue
    outage: Outage
    in_flight: InFlight
    receivers: list[Receiver]
    received: asyncio.Queue[Delivery | None]
    writer: Writer
    acknowledger: Acknowledger


async def serve(config: StorageConfig, *, accept_log: bool) -> None:
    """Run until SIGTERM or SIGINT; raises TrackerError when the log or its ledger cannot be used."""
    stop = install_stop_signals().requested
    async with AsyncExitStack() as stack:
        files = await _open_files(stack, config, stop, accept_log=accept_log)
        on_hangup(files.visit_log.request_reopen)
        queue = await stack.enter_async_context(open_queue(config.sqs))
        stages = _make_stages(config, queue, files, stop)
        _connect_gauges(stages)
        admin = AdminServer(
            host=config.admin.host, port=config.admin.port, ready=lambda: _ready(stages), registry=telemetry.STORAGE
        )
        stack.push_async_callback(admin.stop)
        await admin.start(stop)
        await _run(config, stages, files, stop)
    log.info(
        "service_stopped received=%d appended=%d duplicates=%d malformed=%d acknowledged=%d; Storage has ended.",
        telemetry.total(telemetry.RECEIVED),
        telemetry.total(telemetry.APPENDED),
        telemetry.total(telemetry.DUPLICATES),
        telemetry.total(telemetry.MALFORMED),
        telemetry.total(telemetry.ACKNOWLEDGED),
    )


async def _open_files(stack: AsyncExitStack, config: StorageConfig, stop: asyncio.Event, *, accept_log: bool) -> _Files:
    """Step 1: lock the log, bring it and its ledger into agreement, and open both. `stack` undoes all of it."""
    path, mode, rotate = Path(config.log.path), int(config.log.mode, 8), config.log.rotate
    refuse_network_file_system(path.parent, "log.path")
    await wait_while_held(lambda: stack.enter_context(only_writer(path)), stop)
    thread = OwnerThread(stack.enter_context(ThreadPoolExecutor(1, thread_name_prefix="writer")))
    ledger = await thread.call(open_ledger, path, mode, accept=accept_log)
    stack.push_async_callback(thread.call, ledger.close)
    keepers: list[Compressor | Retention] = []
    if rotate.compress == "gzip":
        keepers.append(Compressor(closed_logs(path)))
    if rotate.keep is not None:
        keepers.append(
            Retention(
                path=path,
                rotate=rotate,
                archived_only=config.archive.url is not None,
                recorded_inode=lambda: ledger.inode,
            )
        )

    def on_closed(file: Path) -> None:
        for keeper in keepers:
            keeper.add(file)

    visit_log = await open_visit_log(
        path=path, mode=mode, rotate=rotate, thread=thread, ledger=ledger, on_closed=on_closed
    )
    stack.push_async_callback(visit_log.close)
    telemetry.LOG_BYTES.set(ledger.size or 0)
    return _Files(path, thread, ledger, visit_log, keepers)


def _make_stages(config: StorageConfig, queue: Queue, files: _Files, stop: asyncio.Event) -> _Stages:
    outage = Outage()
    in_flight = InFlight(queue=queue, visibility_timeout=config.sqs.visibility_timeout)
    received: asyncio.Queue[Delivery | None] = asyncio.Queue(MAX_RECEIVED)
    receivers = [
        Receiver(
            queue=queue,
            received=received,
            in_flight=in_flight,
            outage=outage,
            wait_time=config.sqs.wait_time,
            stop=stop,
        )
        for _ in range(config.sqs.receivers)
    ]
    acknowledger = Acknowledger(queue=queue, in_flight=in_flight)
    writer = Writer(
        received=received,
        ledger=files.ledger,
        visit_log=files.visit_log,
        thread=files.thread,
        acknowledger=acknowledger,
        stop=stop,
    )
    return _Stages(queue, outage, in_flight, receivers, received, writer, acknowledger)


def _connect_gauges(stages: _Stages) -> None:
    """Let each scrape of `/metrics` read these gauges from the stages."""
    telemetry.WRITING.set_function(lambda: stages.writer.paused is None)
    telemetry.RECEIVING.set_function(lambda: stages.outage.reason is None)
    telemetry.IN_FLIGHT.set_function(lambda: len(stages.in_flight))


def _ready(stages: _Stages) -> tuple[bool, dict[str, Any]]:
    """What `/readyz` answers: whether visits can be appended, and the state of each part."""
    detail = {
        "log": stages.writer.paused or "ok",
        "queue": stages.outage.reason or "ok",
        "in_flight": len(stages.in_flight),
    }
    return stages.writer.paused is None, detail


async def _run(config: StorageConfig, stages: _Stages, files: _Files, stop: asyncio.Event) -> None:
    """Run the stages until `stop` is set, or until one of them raises an error; then end them."""
    manager = Manager()

    async def alive() -> bool:
        await files.thread.call(int)  # returns only when the writer's thread is not blocked, for example by a disk
        return True

    acknowledging = asyncio.create_task(stages.acknowledger.run())
    budget: Budget | None = None
    try:
        log.info(
            "service_started version=%s config=%s; Storage is running.",
            __version__,
            Structure(msgspec.to_builtins(config)),
        )
        async with asyncio.TaskGroup() as group:
            receiving = [group.create_task(receiver.run()) for receiver in stages.receivers]
            writing = group.create_task(stages.writer.run())
            background = [
                group.create_task(shutdown.watch(acknowledging)),
                group.create_task(stages.in_flight.run()),
                group.create_task(check_redrive(stages.queue, stop)),
                group.create_task(gauges.update(files.ledger, files.path, files.thread)),
                group.create_task(manager.heartbeat(alive)),
            ]
            background += [group.create_task(keeper.run()) for keeper in files.closed_logs]
            manager.ready()
            await stop.wait()
            manager.stopping()
            budget = Budget(shutdown.STOP_SHARES, config.shutdown.timeout)
            await shutdown.drain(budget, stages.received, stages.acknowledger, receiving, writing, acknowledging)
            for task in (*receiving, writing, *background):
                task.cancel()
    finally:
        if budget is None:
            budget = Budget(shutdown.FAILURE_SHARES, shutdown.FAILURE_SECONDS)
        await shutdown.give_back(budget, stages.in_flight, stages.acknowledger, acknowledging)
