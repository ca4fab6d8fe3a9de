"""A worker process: answers and appends, nothing else. It has no AWS client, and no credentials in its environment.

Main starts it (`start_worker`) with three inherited descriptors: the listening socket, a socket pair over which the
worker receives its configuration and commands, and the memory in which it counts. When the pair closes, main is gone
and the worker stops at once.
"""

import asyncio
import logging
import os
import socket

import msgspec

from tracker.files import raise_open_files
from tracker.lifecycle import exit_now
from tracker.logs import setup_logging
from tracker.pixel.control import ANSWERING, BACKLOG, BEATS, LOG_LINES_DROPPED, NOT_RECORDING, Command, Counts, Hello
from tracker.pixel.recorder import Recorder
from tracker.pixel.server import PixelServer
from tracker.standard_error import STREAM

log = logging.getLogger("tracker.pixel.worker")

STATE_SECONDS = 0.25
BEAT_SECONDS = 1.0
CONTROL_LINE_BYTES = 1 << 20
OTHER_FILES = 64  # open in a worker beside its visitors' connections, at most
FEW_CONNECTIONS = 4096


async def serve(listener: socket.socket, control: socket.socket, counts: Counts) -> None:
    """Answer until main says drain; end the process when main is gone."""
    reader, writer = await asyncio.open_unix_connection(sock=control, limit=CONTROL_LINE_BYTES)
    if not (greeting := await _read(reader)):
        return  # main is gone already
    hello = msgspec.json.decode(greeting, type=Hello)
    setup_logging(hello.config.logging.level, hello.config.logging.format)
    recorder = Recorder(config=hello.config.outbox, room=hello.room, counts=counts)
    await recorder.open()
    server = PixelServer(config=hello.config, recorder=recorder, max_connections=max_connections())
    await server.start(listener, BACKLOG)
    drain: asyncio.Future[float] = asyncio.get_running_loop().create_future()
    essential = [
        asyncio.create_task(recorder.run()),
        asyncio.create_task(_tell_state(recorder, counts)),
        asyncio.create_task(_beat(counts)),
        asyncio.create_task(_obey(reader, recorder, drain)),
    ]
    for task in essential:
        task.add_done_callback(_end_with)
    writer.write(ANSWERING)
    await server.stop(await drain)
    for task in essential:
        task.remove_done_callback(_end_with)
        task.cancel()
    await asyncio.wait(essential)
    await recorder.close()
    writer.close()


def max_connections() -> int:
    """How many visitors may be connected to this worker: as many as it may open files, but for those of its journal."""
    open_files = raise_open_files()
    connections = max(1, open_files - OTHER_FILES)
    if connections < FEW_CONNECTIONS:
        log.warning("few_open_files limit=%d; no more than %d visitors can be connected", open_files, connections)
    return connections


async def _obey(reader: asyncio.StreamReader, recorder: Recorder, drain: "asyncio.Future[float]") -> None:
    while line := await _read(reader):
        command = msgspec.json.decode(line, type=Command)
        if command.room is not None:
            recorder.room = command.room
        if command.drain is not None and not drain.done():
            drain.set_result(command.drain)
    os._exit(0)  # every answered visit is in the page cache already


async def _read(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.readline()
    except ConnectionError:
        return b""


async def _tell_state(recorder: Recorder, counts: Counts) -> None:
    while True:
        counts[NOT_RECORDING] = not recorder.recording
        counts[LOG_LINES_DROPPED] = STREAM.dropped
        await asyncio.sleep(STATE_SECONDS)


async def _beat(counts: Counts) -> None:
    while True:
        counts[BEATS] += 1
        await asyncio.sleep(BEAT_SECONDS)


def _end_with(task: "asyncio.Task[None]") -> None:
    """A worker without its recorder or its orders is of no use; main starts another."""
    log.critical("worker_ended", exc_info=task.exception())
    exit_now(1)
