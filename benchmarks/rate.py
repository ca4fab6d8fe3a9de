"""A client that sends at a constant rate, whatever the answers do.

`python -m benchmarks.rate PORT RATE SECONDS [PID ...]` prints one line of JSON.

1. Each connection is answered once. If PIDs are given, they are the workers of the server, and each gets as many
   connections as the others: all but one are stopped (SIGSTOP) while that one accepts its share. Otherwise a few of
   the workers accept all of a little load.
2. Every request has a planned time, and its latency counts from there, not from when it was sent. So if the server
   stalls, the requests that had to wait meanwhile have a long latency (no coordinated omission). A request waits for a
   free connection. The requests are those of the mix `mixed` of `benchmarks.visitors`.
"""

import gc
import json
import os
import select
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import msgspec

from benchmarks.visitors import requests

CONNECTIONS = 64  # the number of workers must divide it
WARM_UP = CONNECTIONS  # requests before the first one that is measured
# A sleep may last that much too long, so the client polls without sleeping just before a request is due.
SPIN_SECONDS = 0.0003


class Latencies(msgspec.Struct, frozen=True):
    """The latencies of the answers, in seconds: half, 99 % and 99.9 % of them did not take longer."""

    p50: float
    p99: float
    p999: float


def send_at(port: int, rate: float, seconds: float, workers: Sequence[int]) -> Latencies:
    mix = requests("mixed", host="127.0.0.1")
    sockets: list[socket.socket] = []
    for worker in workers or [0]:
        with _stopped([pid for pid in workers if pid != worker]):
            made = [socket.create_connection(("127.0.0.1", port)) for _ in range(CONNECTIONS // max(1, len(workers)))]
            answer_bytes = max(_answer_bytes(each, mix[0]) for each in made)
            sockets += made
    poll = select.epoll()
    for each in sockets:
        each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        each.setblocking(False)
        poll.register(each, select.EPOLLIN)
    by_number = {each.fileno(): each for each in sockets}
    free = deque(sockets)
    due_at: dict[int, float] = {}
    partial = dict.fromkeys(by_number, 0)
    latencies: list[float] = []
    total = int(rate * seconds)
    began = time.perf_counter()
    sent = 0
    while len(latencies) < total:
        now = time.perf_counter()
        while sent < total and free and (due := began + sent / rate) <= now:
            each = free.popleft()
            due_at[each.fileno()] = due
            each.send(mix[sent % len(mix)])
            sent += 1
        left = began + sent / rate - time.perf_counter() if sent < total and free else 1.0
        ready = poll.poll(max(0.0, left - SPIN_SECONDS))
        now = time.perf_counter()
        for number, _ in ready:
            each = by_number[number]
            partial[number] += len(each.recv(65536))
            if partial[number] >= answer_bytes:
                partial[number] = 0
                latencies.append(now - due_at[number])
                free.append(each)
            elif not partial[number] or now - due_at[number] > 30:
                raise ConnectionError("the server closed a connection, or does not answer")
    for each in sockets:
        each.close()
    latencies.sort()
    return Latencies(*(latencies[total * thousandths // 1000] for thousandths in (500, 990, 999)))


def _answer_bytes(connection: socket.socket, request: bytes) -> int:
    """The length of an answer in bytes. All answers have the same length."""
    connection.send(request)
    answer = b""
    while b"\r\n\r\n" not in answer:
        answer += connection.recv(65536)
    head, _, _ = answer.partition(b"\r\n\r\n")
    if b" 200 " not in head.partition(b"\r\n")[0]:
        raise ConnectionError(f"expected 200, got {head[:40]!r}")
    sizes = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    length = len(head) + 4 + int(sizes[0].partition(b":")[2])
    while len(answer) < length:
        answer += connection.recv(65536)
    return length


@contextmanager
def _stopped(pids: Sequence[int]) -> Iterator[None]:
    """The processes do not run during the context."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


if __name__ == "__main__":
    gc.disable()
    port, rate, seconds, *workers = sys.argv[1:]
    found = send_at(int(port), float(rate), float(seconds), [int(worker) for worker in workers])
    print(json.dumps(msgspec.to_builtins(found)))
