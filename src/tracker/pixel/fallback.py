"""The fallback: reads the head of any request with aiohttp's parser, which refuses everything that is not HTTP.

aiohttp's C parser (llhttp) is given one whole head at a time and nothing else: no body, no second request, no part of a
line. So it keeps no state between two calls, and never decodes a body.

1. The head is parsed as it came.
2. If the parser refuses it, it is parsed once more with two changes, because real visitors send such heads:
   - Bytes of the query that are not printable ASCII become ``%XX``, except space, CR and LF, which end the query. The
     path is not changed, so such bytes are refused there.
   - If a header that may occur only once occurs again, its later lines are renamed. The first line is used.
3. If the parser refuses this too, the head is not HTTP.

Neither change affects where a request ends: Host, Content-Length and Transfer-Encoding are never changed.
"""

import asyncio
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from aiohttp.base_protocol import BaseProtocol
from aiohttp.http import HttpRequestParser, RawRequestMessage
from aiohttp.http_exceptions import HttpProcessingError

from tracker.core.page import NamedPage
from tracker.pixel.known_requests import Fields

_RAW = re.compile(rb"[^!-~ \r\n]")

# The headers that aiohttp refuses when they occur twice, except those that decide where a request ends.
_FIRST_COUNTS = frozenset(
    b"user-agent content-type content-location content-range etag max-forwards server".split(),
)


class Request(NamedTuple):
    """The content of a request's head."""

    method: str
    target_is_pixel: bool
    http11: bool
    keep_alive: bool
    """Whether the visitor wants the connection to stay open."""
    body: int | None
    """How many bytes of body follow; None if the head does not say."""
    fields: Fields
    """The named page; Referer, User-Agent, the client IP header (its lines joined), the signals."""


class Fallback:
    """Reads heads of requests. `ip_header` and `signals` are headers to read, with Referer and User-Agent."""

    def __init__(
        self, *, path: str, ip_header: str, signals: Sequence[str], named_page: NamedPage | None = None
    ) -> None:
        self._path = path
        self._named_page = named_page
        self._path_query = f"{path}?"
        self._ip_header = ip_header
        self._signals = signals
        self._loop = asyncio.get_running_loop()
        self._protocol = BaseProtocol(self._loop)  # the parser needs one, and uses it for bodies only

    def read(self, head: bytes) -> Request | None:
        """The request of one head, which ends with its empty line; None if it is not HTTP."""
        message = self._parse(head) or self._parse(_acceptable(head))
        if message is None or not message.path:  # CONNECT without a target has no path
            return None
        target, headers = message.path, message.headers
        return Request(
            method=message.method,
            target_is_pixel=(
                target == self._path or target.startswith(self._path_query) or message.url.path == self._path
            ),
            http11=message.version >= (1, 1),
            keep_alive=not message.should_close,
            body=None if message.method == "CONNECT" else _body(headers),
            fields=[
                self._named(target),
                headers.get("Referer"),
                headers.get("User-Agent"),
                ",".join(headers.getall(self._ip_header)) if self._ip_header in headers else None,
                *map(headers.get, self._signals),
            ],
        )

    def _named(self, target: str) -> str | None:
        if self._named_page is None:
            return None
        sent = target.encode("utf-8", "surrogateescape")  # aiohttp has decoded it in this way
        return self._named_page.find(sent, sent.find(b"?"))

    def _parse(self, head: bytes) -> RawRequestMessage | None:
        size = len(head)  # the caller has checked all limits
        parser = HttpRequestParser(
            self._protocol,
            self._loop,
            size,
            max_line_size=size,
            max_headers=size,
            max_field_size=size,
            auto_decompress=False,
        )
        try:
            messages, _, _ = parser.feed_data(head)
        except (HttpProcessingError, ValueError):  # ValueError: its URL is not valid
            return None
        return messages[0][0] if len(messages) == 1 else None


def _body(headers: Mapping[str, str]) -> int | None:
    if "Transfer-Encoding" in headers:
        return None  # the length of each chunk is sent with the chunk
    length = int(headers.get("Content-Length", 0))  # the parser has checked its digits
    # A client that waits for "100 Continue" may or may not send the body after another answer.
    return None if length and "Expect" in headers else length


def _acceptable(head: bytes) -> bytes:
    """The head with the two changes of step 2."""
    request_line, *fields = head.split(b"\r\n")
    path, mark, query = request_line.partition(b"?")
    lines = [path + mark + _RAW.sub(lambda raw: b"%%%02X" % raw[0][0], query)]
    seen = set()
    for field in fields:
        name, colon, value = field.partition(b":")
        name = name.lower()
        if name in _FIRST_COUNTS:
            if name in seen:
                field = b"x-repeated" + colon + value
            seen.add(name)
        lines.append(field)
    return b"\r\n".join(lines)
