"""A worker process: it answers requests and appends their visits to its journal, nothing else.

It has no AWS client, and no credentials in its environment. Main starts it (`start_worker`) with three inherited
descriptors: the listening socket, one end of a socket pair, and the shared memory in which it counts.

1. The worker reads `Hello` from the socket pair: its configuration and its quota.
2. It makes its journal, accepts connections, and writes `ANSWERING`.
3. While it answers, it reads each `Command`, makes its journal durable, and counts a heartbeat once a second.
4. When main asks it to stop, it finishes the requests that have begun, makes its journal durable and exits.
5. When main's end of the socket pair closes, main has ended. The worker exits at once. No visit is lost, because each
   answered visit is in the page cache.
"""

import asyncio
import logging
import os
import socket

import msgspec

from tracker.files import raise_open_files
from tracker.lifecycle import exit_now
from tracker.logs import setup_logging
from tracker.pixel.control import (
    ANSWERING,
    BACKLOG,
    HEARTBEATS,
    LOG_LINES_DROPPED,
    NOT_RECORDING,
    Command,
    Counts,
    Hello,
)
from tracker.pixel.recorder import Recorder
from tracker.pixel.server import PixelServer
from tracker.standard_error import STREAM

log = logging.getLogger(__name__)

STATE_SECONDS = 0.25  # between two reports of the worker's state
BEAT_SECONDS = 1.0
CONTROL_LINE_BYTES = 1 << 20  # a line from main is never longer
OTHER_FILES = 64  # at most this many open files of a worker are not connections
FEW_CONNECTIONS = 4096  # below this limit a warning is logged


async def serve(listener: socket.socket, control: socket.socket, counts: Counts) -> None:
    """Answer until main requests a stop. If main has ended, end the process at once."""
    reader, writer = await asyncio.open_unix_connection(sock=control, limit=CONTROL_LINE_BYTES)
    if not (line := await _read(reader)):
        return  # main has ended already
    hello = msgspec.json.decode(line, type=Hello)
    setup_logging(hello.config.logging.level, hello.config.logging.format)
    recorder = Recorder(config=hello.config.outbox, quota=hello.quota, counts=counts)
    await recorder.open()
    server = PixelServer(config=hello.config, recorder=recorder, max_connections=max_connections())
    await server.start(listener, BACKLOG)
    drain: asyncio.Future[float] = asyncio.get_running_loop().create_future()
    essential = [
        asyncio.create_task(recorder.run()),
        asyncio.create_task(_report_state(recorder, counts)),
        asyncio.create_task(_beat(counts)),
        asyncio.create_task(_receive_commands(reader, recorder, drain)),
    ]
    for task in essential:
        task.add_done_callback(_end_process)
    writer.write(ANSWERING)
    await server.stop(await drain)
    for task in essential:
        task.remove_done_callback(_end_process)
        task.cancel()
    await asyncio.wait(essential)
    await recorder.close()
    writer.close()


def max_connections() -> int:
    """How many connections this worker may have: one for each file it may open, less `OTHER_FILES`."""
    open_files = raise_open_files()
    connections = max(1, open_files - OTHER_FILES)
    if connections < FEW_CONNECTIONS:
        log.warning(
            "open_files_limited limit=%d connections=%d; The process may open few files, so this worker accepts few "
            "connections. Raise the limit of open files (ulimit -n, LimitNOFILE).",
            open_files,
            connections,
        )
    return connections


async def _receive_commands(reader: asyncio.StreamReader, recorder: Recorder, drain: "asyncio.Future[float]") -> None:
    """Carry out the commands of main. A stop request sets `drain`. Ends the process when main has ended."""
    while line := await _read(reader):
        command = msgspec.json.decode(line, type=Command)
        if command.quota is not None:
            recorder.quota = command.quota
        if command.drain is not None and not drain.done():
            drain.set_result(command.drain)
    os._exit(0)  # every answered visit is in the page cache already


async def _read(reader: asyncio.StreamReader) -> bytes:
    """The next line from main; empty if main has ended."""
    try:
        return await reader.readline()
    except ConnectionError:
        return b""


async def _report_state(recorder: Recorder, counts: Counts) -> None:
    """Write two values into the shared memory regularly: whether visits are recorded, and the lost log lines."""
    while True:
        counts[NOT_RECORDING] = not recorder.recording
        counts[LOG_LINES_DROPPED] = STREAM.dropped
        await asyncio.sleep(STATE_SECONDS)


async def _beat(counts: Counts) -> None:
    while True:
        counts[HEARTBEATS] += 1
        await asyncio.sleep(BEAT_SECONDS)


def _end_process(task: "asyncio.Task[None]") -> None:
    """End the process because `task` has ended: without its recorder or its commands a worker cannot go on."""
    log.critical(
        "worker_failed; This is a bug: report it. The worker ends, and main starts another one. "
        "The visits that it answered are in the outbox.",
        exc_info=task.exception(),
    )
    exit_now(1)
