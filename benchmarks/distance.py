"""Puts a server far away: `python -m benchmarks.distance PORT SERVER_PORT SECONDS` listens on PORT and relays.

Every answer is held back for SECONDS, as if it came over a line with that round-trip time. There may be one request at
a time on a connection, as botocore sends them.
"""

import asyncio
import sys
from functools import partial

import uvloop


async def _relay(
    port: int, seconds: float, client_reader: asyncio.StreamReader, client_writer: asyncio.StreamWriter
) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    async with asyncio.TaskGroup() as both:
        both.create_task(_copy(client_reader, writer, 0.0))
        both.create_task(_copy(reader, client_writer, seconds))


async def _copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter, seconds: float) -> None:
    try:
        while data := await source.read(1 << 16):
            await asyncio.sleep(seconds)
            sink.write(data)
    except ConnectionError:
        pass  # one side has ended; the other one is told by the close
    finally:
        sink.close()


async def _serve(port: int, server_port: int, seconds: float) -> None:
    server = await asyncio.start_server(partial(_relay, server_port, seconds), "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(_serve(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])))
