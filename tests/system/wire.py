"""A visitor's end of the wire: raw HTTP over sockets, and a load that knows exactly which of its hits were answered."""

import socket
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import count
from types import TracebackType
from typing import Self

LOOPBACK = "127.0.0.1"
DEADLINE = 30.0


def wait_for(
    condition: Callable[[], object], what: str | Callable[[], str], timeout: float = DEADLINE, pause: float = 0.1
) -> None:
    """Waits until the condition holds. Raises AssertionError, which names `what` was waited for, if it never does.

    It asks after 10 ms, and then after longer and longer pauses up to `pause` seconds: many conditions ask a process.
    """
    deadline, next_pause = time.monotonic() + timeout, 0.01
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout:g} s: {what if isinstance(what, str) else what()}")
        time.sleep(min(next_pause, pause))
        next_pause *= 1.5


@dataclass(frozen=True)
class Reply:
    """One HTTP answer, kept as it came."""

    status_line: str
    headers: tuple[tuple[str, str], ...]
    body: bytes

    @property
    def status(self) -> int:
        return int(self.status_line.split(" ", 2)[1])

    def get_all(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key.lower() == name.lower()]

    def header(self, name: str) -> str:
        """The one value of a header that must be there exactly once."""
        (value,) = self.get_all(name)
        return value

    @property
    def is_gif(self) -> bool:
        return self.status == 200 and self.body.startswith(b"GIF89a") and self.body.endswith(b";")


class Connection:
    """A client connection that is kept alive for as long as the server keeps it."""

    def __init__(self, port: int, timeout: float = 10.0) -> None:
        self._socket = socket.create_connection((LOOPBACK, port), timeout)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._received = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def end(self) -> None:
        """Close the visitor's half: nothing more is sent."""
        self._socket.shutdown(socket.SHUT_WR)

    def _more(self) -> None:
        data = self._socket.recv(65536)
        if not data:
            raise ConnectionError(f"closed by the server after {self._received!r}")
        self._received += data

    def read_reply(self, *, body: bool = True) -> Reply:
        """The next whole answer; `body=False` for the answer to a HEAD."""
        while b"\r\n\r\n" not in self._received:
            self._more()
        head, _, self._received = self._received.partition(b"\r\n\r\n")
        status_line, *lines = head.decode("ascii").split("\r\n")
        headers = tuple((name, value.strip()) for name, _, value in (line.partition(":") for line in lines))
        reply = Reply(status_line, headers, b"")
        if not body:
            return reply
        length = int(reply.header("Content-Length"))
        while len(self._received) < length:
            self._more()
        content, self._received = self._received[:length], self._received[length:]
        return Reply(status_line, headers, content)

    def closed_by_server(self) -> bool:
        """Waits for the server to close; False when it sends more or keeps the connection open."""
        try:
            return not self._received and self._socket.recv(1) == b""
        except ConnectionResetError:
            return True
        except TimeoutError:
            return False

    def get(
        self, target: str = "/track", headers: Iterable[tuple[str, str | bytes]] = (), method: str = "GET"
    ) -> Reply:
        self.send(request(target, headers, method))
        return self.read_reply(body=method != "HEAD")


def request(
    target: str = "/track",
    headers: Iterable[tuple[str, str | bytes]] = (),
    method: str = "GET",
    version: str = "HTTP/1.1",
) -> bytes:
    """The bytes of one request without a body; header values given as bytes go out as they are."""
    lines = [f"{method} {target} {version}".encode(), b"Host: pixel.example"]
    for name, value in headers:
        lines.append(name.encode("ascii") + b": " + (value if isinstance(value, bytes) else value.encode()))
    return b"\r\n".join(lines) + b"\r\n\r\n"


def get(port: int, target: str = "/track", headers: Iterable[tuple[str, str | bytes]] = ()) -> Reply:
    """One GET on a connection of its own."""
    with Connection(port) as connection:
        return connection.get(target, headers)


class Load:
    """Visitors that keep hitting the pixel, each hit with a referrer never used before.

    Only hits whose complete GIF came back are `answered`; those must be in the log. What was sent and not answered may
    or may not be there, but never twice. Connections that break are opened anew, so a load survives a restart.
    """

    def __init__(
        self, port: int, *, connections: int = 6, pause: float = 0.01, agent: str = "load", site: str = "site.example"
    ) -> None:
        """The visits of two loads in one test need two sites, to be known from each other."""
        self._port = port
        self._site = site
        self._agent = agent
        self._pause = pause
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._numbers = count()
        self._threads = [threading.Thread(target=self._visit, args=(n,), daemon=True) for n in range(connections)]
        self.answered: set[str] = set()
        self.slowest = 0.0
        self.failures = 0

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(DEADLINE)
            assert not thread.is_alive()

    def wait_answered(self, more: int) -> None:
        """Waits until so many further hits were answered."""
        wanted = len(self.answered) + more
        wait_for(lambda: len(self.answered) >= wanted, lambda: f"{wanted} answers, got {len(self.answered)}")

    def _visit(self, visitor: int) -> None:
        connection: Connection | None = None
        while not self._stop.wait(self._pause):
            referrer = f"https://{self._site}/{visitor}/{next(self._numbers)}"
            try:
                if connection is None:
                    connection = Connection(self._port)
                began = time.monotonic()
                try:
                    reply = connection.get(headers=[("Referer", referrer), ("User-Agent", self._agent)])
                finally:
                    took = time.monotonic() - began
            except OSError as error:
                self.failures += 1
                if isinstance(error, TimeoutError):
                    self._note(None, 10.0)
                if connection is not None:
                    connection.close()
                connection = None
                self._stop.wait(0.02)
            else:
                self._note(referrer if reply.is_gif else None, took)
                if "close" in reply.get_all("Connection"):
                    connection.close()
                    connection = None
        if connection is not None:
            connection.close()

    def _note(self, answered: str | None, took: float) -> None:
        with self._lock:
            self.slowest = max(self.slowest, took)
            if answered is not None:
                self.answered.add(answered)
