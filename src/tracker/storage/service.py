"""The storage service: wires the stages in the order the data flows, and stops them in that order.

    SQS -> Receiver -> queue -> Writer (Batch, Ledger, VisitLog) -> Acknowledger -> SQS

The start takes the log's lock, brings log and ledger into agreement, and opens them; each is undone in reverse order at
the end. A stop makes these steps, and `STOP_SHARES` divides `shutdown.timeout` among them:

1. The receivers start no new long poll, and the polls that run are awaited.
2. The writer appends what was received, makes a checkpoint, and ends.
3. The acknowledger deletes what is durable, and ends.
4. Whatever is still in flight is given back to SQS, so that the next start need not wait for the visibility timeout.

If a stage dies, the process ends: steps 3 and 4 are made, and the error is raised. After a SIGKILL, SQS delivers again
what was in flight when its visibility timeout ends.
"""

import asyncio
import json
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
from tracker.config import LogConfig, StorageConfig
from tracker.core.delivery import Delivery, Queue
from tracker.errors import QueueFailed
from tracker.files import refuse_network_file_system
from tracker.lifecycle import (
    Backoff,
    Budget,
    install_stop_signals,
    on_hangup,
    wait_for_event,
    wait_while_held,
)
from tracker.logs import Structure
from tracker.owner_thread import OwnerThread
from tracker.storage import gauges
from tracker.storage.acknowledger import Acknowledger
from tracker.storage.compressor import Compressor
from tracker.storage.in_flight import InFlight
from tracker.storage.ledger import Ledger
from tracker.storage.receiver import Outage, Receiver
from tracker.storage.recovery import only_writer, open_ledger
from tracker.storage.visit_log import VisitLog, open_visit_log
from tracker.storage.writer import Writer
from tracker.systemd import Manager
from tracker.visit_log_files import closed_logs

log = logging.getLogger(__name__)

MAX_RECEIVED = 20  # deliveries that wait for the writer
FEWEST_RECEIVES = 10  # below, a few crashes send good visits to the dead-letter queue

STOP_SHARES = {"receive": 0.6, "append and delete": 0.28, "give back": 0.12}
"""Shares of `shutdown.timeout`. The first step is the longest: a long poll may last `sqs.wait_time`."""

FAILURE_SECONDS = 4.0
FAILURE_SHARES = {"append and delete": 0.5, "give back": 0.5}
"""Shares of `FAILURE_SECONDS`, when a stage has died: what is durable is deleted, the rest is given back."""


@dataclass(frozen=True, slots=True)
class _Files:
    """The log and its ledger, both for the owner thread."""

    path: Path
    thread: OwnerThread
    ledger: Ledger
    visit_log: VisitLog
    compressor: Compressor | None


@dataclass(frozen=True, slots=True)
class _Stages:
    """The stages, in the order the data flows, and what stands between them."""

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
        files = await _open_files(stack, config.log, stop, accept_log=accept_log)
        on_hangup(files.visit_log.request_reopen)
        queue = await stack.enter_async_context(open_queue(config.sqs))
        stages = _make_stages(config, queue, files, stop)
        _show(stages)
        admin = AdminServer(
            host=config.admin.host, port=config.admin.port, ready=lambda: _ready(stages), registry=telemetry.STORAGE
        )
        stack.push_async_callback(admin.stop)
        await admin.start(stop)
        await _run(config, stages, files, stop)
    log.info(
        "stopped received=%d appended=%d duplicates=%d malformed=%d acknowledged=%d; Storage has ended.",
        telemetry.total(telemetry.RECEIVED),
        telemetry.total(telemetry.APPENDED),
        telemetry.total(telemetry.DUPLICATES),
        telemetry.total(telemetry.MALFORMED),
        telemetry.total(telemetry.ACKNOWLEDGED),
    )


async def _open_files(stack: AsyncExitStack, config: LogConfig, stop: asyncio.Event, *, accept_log: bool) -> _Files:
    """Lock the log, bring it and its ledger into agreement, and open both; `stack` undoes it in reverse order."""
    path, mode = Path(config.path), int(config.mode, 8)
    refuse_network_file_system(path.parent, "log.path")
    await wait_while_held(lambda: stack.enter_context(only_writer(path)), stop)
    thread = OwnerThread(stack.enter_context(ThreadPoolExecutor(1, thread_name_prefix="writer")))
    ledger = await thread.call(open_ledger, path, mode, accept=accept_log)
    stack.push_async_callback(thread.call, ledger.close)
    compressor = Compressor(closed_logs(path)) if config.rotate.compress == "gzip" else None
    visit_log = await open_visit_log(
        path=path, mode=mode, rotate=config.rotate, thread=thread, ledger=ledger, compressor=compressor
    )
    stack.push_async_callback(visit_log.close)
    telemetry.LOG_BYTES.set(ledger.size or 0)
    return _Files(path, thread, ledger, visit_log, compressor)


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


def _show(stages: _Stages) -> None:
    """Let the gauges of `/metrics` ask the stages."""
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
    """Run the stages until `stop` is set, or until one of them dies, and end them."""
    manager = Manager()

    async def alive() -> bool:
        await files.thread.call(int)  # the writer's thread answers
        return True

    acknowledging = asyncio.create_task(stages.acknowledger.run())
    budget: Budget | None = None
    try:
        log.info(
            "started version=%s config=%s; Storage is running.", __version__, Structure(msgspec.to_builtins(config))
        )
        async with asyncio.TaskGroup() as group:
            receiving = [group.create_task(receiver.run()) for receiver in stages.receivers]
            writing = group.create_task(stages.writer.run())
            beside = [
                group.create_task(_outlive(acknowledging)),
                group.create_task(stages.in_flight.run()),
                group.create_task(check_redrive(stages.queue, stop)),
                group.create_task(gauges.update(files.ledger, files.path, files.thread)),
                group.create_task(manager.heartbeat(alive)),
            ]
            if files.compressor is not None:
                beside.append(group.create_task(files.compressor.run()))
            manager.ready()
            await stop.wait()
            manager.stopping()
            budget = Budget(STOP_SHARES, config.shutdown.timeout)
            await _drain(budget, stages, receiving, writing, acknowledging)
            for task in (*receiving, writing, *beside):
                task.cancel()
    finally:
        if budget is None:
            budget = Budget(FAILURE_SHARES, FAILURE_SECONDS)
        await _give_back(budget, stages, acknowledging)


async def _outlive(task: asyncio.Task[None]) -> None:
    """End when `task` does, and raise what it raises. A cancellation does not reach the task."""
    await asyncio.shield(task)


async def _drain(
    budget: Budget,
    stages: _Stages,
    receiving: list[asyncio.Task[None]],
    writing: asyncio.Task[None],
    acknowledging: asyncio.Task[None],
) -> None:
    """Steps 1 to 3 of a stop: each stage ends when it has passed on what it has. SQS redelivers what is cut off."""
    await asyncio.wait(receiving, timeout=budget.remaining("receive"))
    for task in receiving:
        task.cancel()
    try:
        async with asyncio.timeout(budget.remaining("append and delete")):
            await stages.received.put(None)
            await asyncio.wait([writing])
            await stages.acknowledger.close()
            await asyncio.wait([acknowledging])
    except TimeoutError:
        log.warning(
            "stop_cut_short; There was not enough time to append and delete all that was received. SQS delivers the "
            "rest again, and each visit is stored once. Nothing needs to be done."
        )


async def _give_back(budget: Budget, stages: _Stages, acknowledging: asyncio.Task[None]) -> None:
    """However the stages ended: delete what is durable, then give the rest back to SQS.

    Raises nothing, because it may run while an error is being raised that says why the service ends. What cannot be
    given back is delivered again when its visibility timeout ends.
    """
    try:
        async with asyncio.timeout(budget.remaining("append and delete")):
            if not acknowledging.done():
                await stages.acknowledger.close()
                await asyncio.wait([acknowledging])
    except TimeoutError:
        log.debug("deletes_cut_short; SQS delivers again what was not deleted, and it is deleted then.")
    acknowledging.cancel()
    await asyncio.gather(acknowledging, return_exceptions=True)
    count = len(stages.in_flight)
    try:
        async with asyncio.timeout(budget.remaining("give back")):
            await stages.in_flight.give_back()
    except Exception as error:  # a TimeoutError too
        log.warning(
            "give_back_failed deliveries=%d error=%r; These messages could not be given back to SQS. It delivers them "
            "again when their visibility timeout ends. Nothing needs to be done.",
            *(len(stages.in_flight), error),
        )
    if given_back := count - len(stages.in_flight):
        log.info("deliveries_given_back count=%d; SQS delivers these messages again at once.", given_back)


async def check_redrive(queue: Queue, stop: asyncio.Event) -> None:
    """Warn of a queue that loses unreadable messages, or that gives good messages up too soon. Delays nothing."""
    backoff = Backoff()
    while not stop.is_set():
        try:
            attributes = await queue.attributes()
            break
        except QueueFailed as error:
            log.debug("queue_unchecked error=%s; The attributes of the queue could not be read. Tried again.", error)
            await wait_for_event(stop, backoff.next())
    else:
        return
    try:
        count = int(json.loads(attributes["RedrivePolicy"])["maxReceiveCount"])
    except (KeyError, TypeError, ValueError):
        log.warning(
            "dead_letters_missing; The queue has no dead-letter queue, so unreadable messages are lost when they "
            "expire. Give it one."
        )
        return
    if count < FEWEST_RECEIVES:
        log.warning(
            "receives_limited max_receive_count=%d least=%d; SQS moves a message to the dead-letter queue after so "
            "many receives. A few crashes would send good visits there. Set maxReceiveCount to 100.",
            *(count, FEWEST_RECEIVES),
        )
