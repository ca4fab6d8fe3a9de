"""What strangers send: odd but valid requests, floods of connections, and messages to the topic.

None of it may cost another visitor's visit, stop a service, or take more than a bounded amount of memory.

1. `OddVisitors` send requests that are valid although hardly any client sends them. Each is a visit like any other.
2. A `Flood` is many connections at once that send what they are given and never read an answer.
3. `MESSAGES` are what somebody else who may publish to the topic could publish. Where such a message is well formed,
   its visits have the address STRANGER_IP, so that its lines can be told from ours.
"""

import base64
import gzip
import itertools
import json
import random
import selectors
import socket
import time
import zlib
from collections.abc import Callable

from tests.fake_aws.queues import Sent

from .verdict import STRANGER_IP
from .wire import DEADLINE, LOOPBACK, Connection, Reply

STRANGER = "Stranger"
"""An attribute that every message of a stranger has here; storage ignores attributes that it does not know."""

ODD_VISITOR = 1_000  # its number in the referrers; those of a load's visitors are small
SPLIT_SECONDS = 0.01  # between two writes, so that they usually arrive as two reads
PUSH_SECONDS = 10.0  # at most, for a flood to send all it has
STALLED_SECONDS = 1.5  # after which a server that takes nothing is not waited for; connecting is tried again after 1 s
MIB = 1 << 20


def _get(visit: bytes, *lines: bytes, start: bytes = b"GET /track HTTP/1.1", body: bytes = b"") -> bytes:
    return b"\r\n".join([start, b"Host: pixel.example", visit, *lines, b"", body])


def _with_body(visit: bytes, body: bytes, *lines: bytes) -> bytes:
    return _get(visit, *lines, b"Content-Length: %d" % len(body), body=body)


NextVisit = Callable[[], bytes]
"""The header lines of one more visit: a referrer never used before, and the load's user agent."""

ODD_VISITS: dict[str, Callable[[NextVisit], bytes]] = {
    "plain": lambda visit: _get(visit()),
    "two at once": lambda visit: _get(visit()) + _get(visit()),
    "HTTP/1.0": lambda visit: _get(visit(), start=b"GET /track HTTP/1.0"),
    "Connection: close": lambda visit: _get(visit(), b"Connection: close"),
    "Content-Length: 0": lambda visit: _with_body(visit(), b""),
    "UTF-8 in a header": lambda visit: _get(visit(), "Cookie: ü".encode()),
    "Latin-1 in a header": lambda visit: _get(visit(), "Cookie: ü".encode("latin-1")),
    "UTF-8 in the query": lambda visit: _get(visit(), start="GET /track?t=Über HTTP/1.1".encode()),
    "Latin-1 in the query": lambda visit: _get(visit(), start="GET /track?t=Über HTTP/1.1".encode("latin-1")),
    "a cookie of 12 KiB": lambda visit: _get(visit(), b"Cookie: " + b"c" * 12_288),
    "two user agents": lambda visit: _get(visit(), b"User-Agent: another"),
    "two referrers": lambda visit: _get(visit(), b"Referer: https://another.example/"),
    "Upgrade: h2c": lambda visit: (
        _get(visit(), b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABkAAQAAP__")
        + _get(visit())
    ),
    "a body": lambda visit: _with_body(visit(), b"abcdef"),
    "a chunked body": lambda visit: _get(visit(), b"Transfer-Encoding: chunked", body=b"6\r\nabcdef\r\n0\r\n\r\n"),
    "a gzip body": lambda visit: _with_body(visit(), gzip.compress(b"abcdef"), b"Content-Encoding: gzip"),
    "a gzip body that does not decode": lambda visit: _with_body(visit(), b"abcdef", b"Content-Encoding: gzip"),
    "a deflate body that does not decode": lambda visit: _with_body(visit(), b"abcdef", b"Content-Encoding: deflate"),
    "an unknown coding": lambda visit: _with_body(visit(), b"abcdef", b"Content-Encoding: gzip, snow"),
}


class OddVisitors:
    """Visitors with valid but odd requests, each on a connection of its own; `answered` are the referrers."""

    def __init__(self, port: int) -> None:
        self.answered: set[str] = set()
        self._port = port
        self._numbers = itertools.count()

    def visit(self, shape: str, *, half_close: bool = False, split_at: float | None = None) -> None:
        """Send one of ODD_VISITS, and fail unless every visit in it is answered with the GIF.

        With `half_close` the visitor closes its sending half right behind the request. `split_at`, a share of the
        request's bytes, sends it in two writes.
        """
        referrers: list[str] = []

        def next_visit() -> bytes:
            referrers.append(self.next_referrer())
            return _lines_of(referrers[-1])

        request = ODD_VISITS[shape](next_visit)
        replies: list[Reply] = []
        try:
            with Connection(self._port, timeout=DEADLINE) as connection:
                if split_at is not None:
                    cut = int(len(request) * split_at)
                    connection.send(request[:cut])
                    time.sleep(SPLIT_SECONDS)
                    request = request[cut:]
                connection.send(request)
                if half_close:
                    connection.end()
                for referrer in referrers:
                    replies.append(connection.read_reply())
                    if replies[-1].is_gif:
                        self.answered.add(referrer)
        except OSError as error:
            how = f"half_close={half_close} split_at={split_at}"
            raise AssertionError(f"a visitor with {shape}, {how}, got only {replies} of its GIFs") from error
        assert all(reply.is_gif for reply in replies), f"a visitor with {shape} got {replies}"

    def next_referrer(self) -> str:
        """A referrer that no visit had before."""
        return f"https://site.example/{ODD_VISITOR}/{next(self._numbers)}"


def _lines_of(referrer: str) -> bytes:
    return f"Referer: {referrer}\r\nUser-Agent: load".encode()


# -- floods


class Flood:
    """Many connections at once. Each sends what it is given, as far as the server takes it, and then stays open.

    Nothing is ever read. A server that refuses or closes some of the connections is free to do so.
    """

    def __init__(self, port: int, contents: list[bytes]) -> None:
        self._sockets: list[socket.socket] = []
        with selectors.DefaultSelector() as selector:
            for content in contents:
                connection = socket.socket()
                self._sockets.append(connection)
                connection.setblocking(False)
                connection.connect_ex((LOOPBACK, port))  # goes on by itself; the first send tells how it ended
                selector.register(connection, selectors.EVENT_WRITE, memoryview(content))
            self._push(selector)

    def close(self) -> None:
        for connection in self._sockets:
            connection.close()

    def _push(self, selector: selectors.BaseSelector) -> None:
        deadline = time.monotonic() + PUSH_SECONDS
        while selector.get_map() and time.monotonic() < deadline:
            ready = selector.select(STALLED_SECONDS)
            if not ready:
                return
            for key, _ in ready:
                connection, rest = key.fileobj, key.data
                assert isinstance(connection, socket.socket)
                try:
                    rest = rest[connection.send(rest) :]
                except BlockingIOError:
                    continue
                except OSError:
                    rest = b""  # closed by the server
                if rest:
                    selector.modify(connection, selectors.EVENT_WRITE, rest)
                else:
                    selector.unregister(connection)


_UNFINISHED = b"Host: a\r\n" + b"".join(b"X-%d: %s\r\n" % (number, b"h" * 7_990) for number in range(115))


def unfinished_headers() -> list[bytes]:
    """Requests to the public port whose headers go on and on, or whose request line does."""
    return [b"GET /track HTTP/1.1\r\n" + _UNFINISHED] * 300 + [b"GET /track?" + b"q" * MIB] * 10


def odd_bodies(visitors: OddVisitors) -> list[bytes]:
    """Requests to the public port with bodies that are costly to decode or have no end, and answers that pile up."""
    visits = (_lines_of(visitors.next_referrer()) for _ in itertools.count())
    bombs = [(b"gzip", 31), (b"deflate", 15)]
    contents = [
        _with_body(next(visits), _bomb(window), b"Content-Encoding: " + coding) for coding, window in bombs * 20
    ]
    for _ in range(20):
        chunk = b"1;" + b"e" * 4_000 + b"\r\nx\r\n"
        contents.append(_get(next(visits), b"Transfer-Encoding: chunked", body=chunk * 100))
        contents.append(_get(next(visits), b"Content-Length: 100000000", body=b"x" * MIB))
        contents.append(b"HEAD /track HTTP/1.1\r\nHost: a\r\n\r\n" * 2_000)
    return contents


def _bomb(window: int, mebibytes: int = 1_024) -> bytes:
    """About 1 MB that inflates to 1 GiB. The first MiB is compressed once; its repetition is valid, too."""
    deflater = zlib.compressobj(9, zlib.DEFLATED, window)
    first = deflater.compress(bytes(MIB)) + deflater.flush(zlib.Z_FULL_FLUSH)
    again = deflater.compress(bytes(MIB)) + deflater.flush(zlib.Z_FULL_FLUSH)
    return first + again * (mebibytes - 1)


def admin_requests() -> list[bytes]:
    """Requests to an admin port: unfinished ones, large ones, and scrapes whose answers nobody reads."""
    return [
        *[b"GET /metrics HTTP/1.1\r\n" + _UNFINISHED] * 150,
        *[b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n" * 200] * 20,
        *[b"GET /readyz HTTP/1.1\r\nHost: a\r\nContent-Length: 100000000\r\n\r\n" + b"x" * MIB] * 20,
        *[b"GET /metrics HTTP/1.1\r\nHost: a"] * 500,
    ]


# -- messages

Message = tuple[str, dict[str, str]]
"""Body and attributes."""


def _span(lines: bytes, start: int = 0, **attributes: str) -> Message:
    """A well-formed span of a journal of its own, but for what `attributes` say otherwise."""
    named = {
        "Type": "Visit",
        "Journal": f"{random.getrandbits(128):032x}",
        "Start": str(start),
        "Visits": str(lines.count(b"\n")),
        "Encoding": "identity" if len(lines) < 1_000 else "zlib+base64url",
        "Crc32": f"{zlib.crc32(lines):08x}",
        **attributes,
    }
    body = base64.urlsafe_b64encode(zlib.compress(lines)) if named["Encoding"] == "zlib+base64url" else lines
    return body.decode("ascii"), named


def _line(referrer: str = "https://stranger.example/", ip: str = STRANGER_IP) -> bytes:
    visited_at = "2026-01-01T00:00:00.000000+00:00"
    visit = {"Referer": referrer, "UserAgent": None, "IpAddress": ip, "VisitedAt": visited_at}
    return json.dumps(visit, separators=(",", ":")).encode() + b"\n"


def _repeated(line: bytes, size: int = 8 * MIB) -> bytes:
    return line * (size // len(line))


GAP_BYTES = 100
LARGEST = 10**18 - 1  # of 18 digits


def forged_end_markers() -> list[Message]:
    """So many that the sum of their ends does not fit into 63 bits."""
    return [("\n", {**_span(b"", LARGEST)[1], "Closed": "true"}) for _ in range(10)]


def gap() -> Message:
    """A span behind GAP_BYTES of its journal that never come."""
    return _span(_line(), GAP_BYTES)


MESSAGES: dict[str, Callable[[], Message]] = {
    "absurd offset": lambda: _span(_line(), LARGEST - 500),
    "8 MiB of lines": lambda: _span(_repeated(_line("a" * 2_000))),
    "8 MiB of small lines, the last of them no visit": lambda: _span(
        _repeated(_line(""), 8 * MIB - 1_000) + _line(ip="nowhere")
    ),
    "one line of 8 MiB": lambda: _span(_line("|" * (8 * MIB - 1_000))),
    "64 MiB of lines": lambda: _span(_repeated(_line("a" * 2_000), 64 * MIB)),
    "deep nesting": lambda: ("[" * 100_000, {"Type": "Visit"}),
    "no visit": lambda: ("no visit at all", {"Type": "Visit"}),
    "wrong checksum": lambda: _span(_line(), Crc32="00000000"),
    "unknown encoding": lambda: _span(_line(), Encoding="brotli"),
    "a visit of a legacy .NET service": lambda: (_line().decode(), {"Type": "Visit"}),
}


def altered_copy(sent: Sent) -> Message:
    """The message of the same span of the same journal with other bytes, as a copy of a running pixel may send it."""
    body = sent.body.encode()
    attributes = {name: attribute.value for name, attribute in sent.attributes.items()}
    if attributes["Encoding"] == "zlib+base64url":
        body = zlib.decompress(base64.urlsafe_b64decode(body))
    altered = body.replace(b"127.0.0.1", STRANGER_IP.encode())
    assert len(altered) == len(body)
    return _span(altered, Start=attributes["Start"], Journal=attributes["Journal"])


def is_ours(sent: Sent) -> bool:
    """Whether our pixel published a message."""
    return STRANGER not in sent.attributes
