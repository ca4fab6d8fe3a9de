"""A worker process: answers and appends, nothing else. It has no AWS client and no credentials.

Main starts it with two inherited descriptors: the listening socket, and a socket pair over which the worker hears its
configuration and commands and hands over its counts. When that closes, main is gone and the worker stops at once.
"""

import argparse
import asyncio
import contextlib
import logging
import os
import signal
import socket

import msgspec
import uvloop

from tracker.pixel.control import BACKLOG, Command, Hello, Report, encode
from tracker.pixel.recorder import Recorder
from tracker.pixel.server import PixelServer
from tracker.telemetry import setup_logging

log = logging.getLogger("tracker.pixel.worker")

REPORT_SECONDS = 0.5
CONTROL_LINE_BYTES = 1 << 20


async def serve(listener: socket.socket, control: socket.socket) -> None:
    """Answer until main says drain; end the process when main is gone."""
    # A signal to the whole group or unit is for main, which then tells its workers in the right order.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    reader, writer = await asyncio.open_unix_connection(sock=control, limit=CONTROL_LINE_BYTES)
    if not (greeting := await _read(reader)):
        return  # main is gone already
    hello = msgspec.json.decode(greeting, type=Hello)
    setup_logging(hello.config.logging.level, hello.config.logging.format)
    recorder = Recorder(config=hello.config.outbox, room=hello.room)
    await recorder.open()
    server = PixelServer(config=hello.config, recorder=recorder)
    await server.start(listener, BACKLOG)
    tasks = [asyncio.create_task(recorder.run()), asyncio.create_task(_report_forever(recorder, writer))]
    for task in tasks:
        task.add_done_callback(_end_with)
    drain_seconds = await _obey(reader, recorder)
    for task in tasks:
        task.remove_done_callback(_end_with)
        task.cancel()
    await asyncio.wait(tasks)
    await server.stop(drain_seconds)
    await recorder.close()
    with contextlib.suppress(ConnectionError):
        _send_report(recorder, writer)
        await writer.drain()
    writer.close()


async def _obey(reader: asyncio.StreamReader, recorder: Recorder) -> float:
    while line := await _read(reader):
        command = msgspec.json.decode(line, type=Command)
        if command.room is not None:
            recorder.room = command.room
        if command.drain is not None:
            return command.drain
    os._exit(0)  # every answered visit is in the page cache already


async def _read(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.readline()
    except ConnectionError:
        return b""


async def _report_forever(recorder: Recorder, writer: asyncio.StreamWriter) -> None:
    while True:
        _send_report(recorder, writer)
        await asyncio.sleep(REPORT_SECONDS)


def _send_report(recorder: Recorder, writer: asyncio.StreamWriter) -> None:
    report = Report(
        recorder.accepted,
        dict(recorder.discarded),
        recorder.headers_cut,
        recorder.recording,
        recorder.headers_untrusted,
    )
    if writer.transport.get_write_buffer_size() == 0:  # main is slow: the next report says it all anyway
        writer.write(encode(report))


def _end_with(task: "asyncio.Task[None]") -> None:
    """A worker without its recorder or its reports is of no use; main starts another."""
    log.critical("worker_ended", exc_info=task.exception())
    os._exit(1)


def main() -> None:
    parser = argparse.ArgumentParser(description="A worker of tracker-pixel; only tracker-pixel starts it.")
    parser.add_argument("--listener", type=int, required=True)
    parser.add_argument("--control", type=int, required=True)
    arguments = parser.parse_args()
    listener = socket.socket(fileno=arguments.listener)
    control = socket.socket(fileno=arguments.control)
    listener.setblocking(False)
    control.setblocking(False)
    uvloop.run(serve(listener, control))


if __name__ == "__main__":
    main()
