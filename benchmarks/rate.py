"""A client that sends at a constant rate, whatever the answers do: `python -m benchmarks.rate HOST PORT RATE SECONDS`.

Every request has a planned time, and its latency counts from there, not from when it was sent. So if the server stalls,
the requests that had to wait meanwhile have a long latency (no coordinated omission). A request waits for a free
connection. The result is one line of JSON.
"""

import gc
import json
import select
import socket
import sys
import time
from collections import deque

import msgspec

from benchmarks.sample import REFERRER, USER_AGENT

CONNECTIONS = 64
SPIN_SECONDS = (
    0.0003  # a sleep may last that much too long, so the client polls without sleeping just before a request is due
)

REQUEST = (
    f"GET /track HTTP/1.1\r\nHost: 127.0.0.1\r\nUser-Agent: {USER_AGENT.format(131)}\r\n"
    f"Referer: {REFERRER.format(42)}\r\n\r\n"
).encode()


class Latencies(msgspec.Struct, frozen=True):
    """The latencies of `requests` answers, in seconds."""

    requests: int
    p50: float
    p99: float
    max: float


def send_at(host: str, port: int, rate: float, seconds: float) -> Latencies:
    sockets = [socket.create_connection((host, port)) for _ in range(CONNECTIONS)]
    poll = select.epoll()
    for each in sockets:
        each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        each.setblocking(False)
        poll.register(each, select.EPOLLIN)
    by_number = {each.fileno(): each for each in sockets}
    answer_bytes = _answer_bytes(sockets[0])
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
            each.send(REQUEST)
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
    return Latencies(total, latencies[total // 2], latencies[total * 99 // 100], latencies[-1])


def _answer_bytes(connection: socket.socket) -> int:
    """The length of an answer in bytes. All answers have the same length."""
    connection.setblocking(True)
    connection.send(REQUEST)
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
    connection.setblocking(False)
    return length


if __name__ == "__main__":
    gc.disable()
    host, port, rate, seconds = sys.argv[1:]
    print(json.dumps(msgspec.to_builtins(send_at(host, int(port), float(rate), float(seconds)))))
