"""The storage service: wires the stages in the order the data flows, and stops them in that order.

    SQS -> Receiver -> hand-over -> Writer (Batch, Ledger, VisitLog) -> Acknowledger -> SQS

A stage that dies ends the process. However the process ends, unless it is killed: what is durable is deleted from SQS,
and the rest is given back at once, so that the next start need not wait for the visibility timeout.
"""

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec

from tracker import __version__, telemetry
from tracker.admin import AdminServer
from tracker.aws import Queue, open_queue
from tracker.config import StorageConfig
from tracker.errors import QueueFailed
from tracker.files import refuse_network_file_system
from tracker.lifecycle import (
    Backoff,
    Deadline,
    install_stop_signals,
    on_hangup,
    wait_for_event,
    wait_while_held,
)
from tracker.logs import Structure
from tracker.storage import figures
from tracker.storage.acknowledger import Acknowledger
from tracker.storage.compressor import Compressor
from tracker.storage.ledger import Ledger
from tracker.storage.receiver import Handover, Held, Outage, Receiver
from tracker.storage.recovery import only_writer, open_ledger
from tracker.storage.rotation import Rotation, rotated
from tracker.storage.visit_log import VisitLog, open_log
from tracker.storage.writer import Writer
from tracker.systemd import Manager

log = logging.getLogger("tracker.storage")

HANDOVER_DELIVERIES = 20
FEWEST_RECEIVES = 10  # below, a few crashes send good visits to the dead-letter queue
RELEASE_SECONDS = 2.0  # of the stop's time, kept for giving back what was not appended
FLUSH_SECONDS = 2.0  # for deleting what is durable, when a stage has died


async def serve(config: StorageConfig, *, accept_log: bool) -> None:
    """Run until SIGTERM or SIGINT; raises TrackerError when the log or its ledger cannot be used."""
    stop, reopen = install_stop_signals().requested, asyncio.Event()
    on_hangup(reopen.set)
    path, mode = Path(config.log.path), int(config.log.mode, 8)
    async with (
        _open_files(path, mode, stop, accept_log=accept_log) as (executor, ledger, visit_log),
        open_queue(config.sqs) as queue,
    ):
        outage = Outage()
        held = Held(queue=queue, visibility_timeout=config.sqs.visibility_timeout)
        acknowledger = Acknowledger(queue=queue, done=held.drop)
        handover: Handover = asyncio.Queue(HANDOVER_DELIVERIES)
        compressor = Compressor(rotated(path)) if config.log.rotate.compress == "gzip" else None
        writer = Writer(
            ledger=ledger,
            visit_log=visit_log,
            rotation=Rotation(path=path, mode=mode, config=config.log.rotate, ledger=ledger),
            executor=executor,
            handover=handover,
            acknowledge=acknowledger.acknowledge,
            leave=held.drop,
            stop=stop,
            reopen=reopen,
            rotated=compressor.add if compressor else lambda file: None,
        )
        receivers = [
            Receiver(
                queue=queue, handover=handover, held=held, outage=outage, wait_time=config.sqs.wait_time, stop=stop
            )
            for _ in range(config.sqs.receivers)
        ]

        def ready() -> tuple[bool, dict[str, Any]]:
            detail = {"log": writer.paused or "ok", "queue": outage.reason or "ok", "held": len(held)}
            return writer.paused is None, detail

        async def alive() -> bool:
            await asyncio.get_running_loop().run_in_executor(executor, int)  # the writer's thread takes its turn
            return True

        manager = Manager()
        telemetry.WRITING.set_function(lambda: writer.paused is None)
        telemetry.RECEIVING.set_function(lambda: outage.reason is None)
        telemetry.HELD.set_function(lambda: len(held))
        admin = AdminServer(host=config.admin.host, port=config.admin.port, ready=ready, registry=telemetry.STORAGE)
        await admin.start(stop)
        acknowledging = asyncio.create_task(acknowledger.run())
        deadline = Deadline(float("inf"))
        try:
            log.info("started version=%s config=%s", __version__, Structure(msgspec.to_builtins(config)))
            async with asyncio.TaskGroup() as group:
                receiving = [group.create_task(receiver.run()) for receiver in receivers]
                writing = group.create_task(writer.run())
                beside = [
                    group.create_task(_outlive(acknowledging)),
                    group.create_task(held.run()),
                    group.create_task(check_redrive(queue, stop)),
                    group.create_task(figures.watch(ledger, path, executor)),
                    group.create_task(manager.heartbeat(alive)),
                ]
                if compressor is not None:
                    beside.append(group.create_task(compressor.run()))
                manager.ready()
                await stop.wait()
                manager.stopping()
                deadline = Deadline(config.shutdown.timeout)
                await _drain(deadline, handover, acknowledger, receiving, writing, acknowledging)
                for task in (*receiving, writing, *beside):
                    task.cancel()
        finally:
            seconds = min(FLUSH_SECONDS + RELEASE_SECONDS, deadline.remaining())
            await _give_back(held, acknowledger, acknowledging, Deadline(seconds))
            await admin.stop()
    log.info(
        "stopped received=%d appended=%d duplicates=%d malformed=%d acknowledged=%d",
        telemetry.total(telemetry.RECEIVED),
        telemetry.total(telemetry.APPENDED),
        telemetry.total(telemetry.DUPLICATES),
        telemetry.total(telemetry.MALFORMED),
        telemetry.total(telemetry.ACKNOWLEDGED),
    )


async def _drain(
    deadline: Deadline,
    handover: Handover,
    acknowledger: Acknowledger,
    receiving: list[asyncio.Task[None]],
    writing: asyncio.Task[None],
    acknowledging: asyncio.Task[None],
) -> None:
    """Let what is on its way arrive, stage by stage; what the deadline cuts off comes again from SQS."""
    try:
        async with asyncio.timeout(max(0.0, deadline.remaining() - RELEASE_SECONDS)):
            await asyncio.wait(receiving, timeout=deadline.remaining() * 0.6)
            for task in receiving:
                task.cancel()
            await handover.put(None)
            await asyncio.wait([writing])
            await acknowledger.close()
            await asyncio.wait([acknowledging])
    except TimeoutError:
        log.warning("stop_incomplete action=what was not appended or not deleted comes again")


async def _outlive(task: asyncio.Task[None]) -> None:
    """End when `task` does, and raise what it raises; a cancellation does not reach it."""
    await asyncio.shield(task)


async def _give_back(
    held: Held, acknowledger: Acknowledger, acknowledging: asyncio.Task[None], deadline: Deadline
) -> None:
    """However the stages ended: delete what is durable, then give the rest back to the queue, before the deadline.

    Raises nothing, because it may run while an error is on its way that says why the service ends. What cannot be given
    back comes again by itself when its visibility timeout ends.
    """
    try:
        async with asyncio.timeout(max(0.0, deadline.remaining() - RELEASE_SECONDS)):
            if not acknowledging.done():
                await acknowledger.close()
                await asyncio.wait([acknowledging])
    except TimeoutError:
        log.debug("deletes_unfinished")
    acknowledging.cancel()
    await asyncio.gather(acknowledging, return_exceptions=True)
    if held:
        log.info("deliveries_released count=%d", len(held))
    try:
        async with asyncio.timeout(max(RELEASE_SECONDS / 2, deadline.remaining())):
            await held.release()
    except Exception as error:  # a TimeoutError too
        log.warning(
            "release_failed deliveries=%d error=%r; they come back after their visibility timeout", len(held), error
        )


@asynccontextmanager
async def _open_files(
    path: Path, mode: int, stop: asyncio.Event, *, accept_log: bool
) -> AsyncIterator[tuple[ThreadPoolExecutor, Ledger, VisitLog]]:
    """The log and its ledger, in agreement and ours alone; both belong to the executor's one thread."""
    loop = asyncio.get_running_loop()
    refuse_network_file_system(path.parent, "log.path")
    with ExitStack() as held:
        await wait_while_held(lambda: held.enter_context(only_writer(path)), stop)
        executor = held.enter_context(ThreadPoolExecutor(1, thread_name_prefix="writer"))
        ledger = await loop.run_in_executor(executor, lambda: open_ledger(path, mode, accept=accept_log))
        try:
            visit_log = await open_log(path, executor)
            try:
                telemetry.LOG_BYTES.set(ledger.size or 0)
                yield executor, ledger, visit_log
            finally:
                await visit_log.close()
        finally:
            await loop.run_in_executor(executor, ledger.close)


async def check_redrive(queue: Queue, stop: asyncio.Event) -> None:
    """Warn of a queue that loses unreadable messages, or that gives good ones up too soon. Holds nothing up."""
    backoff = Backoff()
    while not stop.is_set():
        try:
            attributes = await queue.attributes()
            break
        except QueueFailed as error:
            log.debug("queue_unchecked error=%s", error)
            await wait_for_event(stop, backoff.next())
    else:
        return
    try:
        count = int(json.loads(attributes["RedrivePolicy"])["maxReceiveCount"])
    except (KeyError, TypeError, ValueError):
        log.warning("queue_without_dead_letters action=give it a dead-letter queue, or unreadable messages are lost")
        return
    if count < FEWEST_RECEIVES:
        log.warning(
            "queue_gives_up_early maxReceiveCount=%d action=set it to 100, at least to %d", count, FEWEST_RECEIVES
        )
