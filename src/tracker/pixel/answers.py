"""The answers of the public port, as bytes. Each answer is rendered at most once a second, with the new `Date`."""

import time
from email.utils import formatdate
from typing import NamedTuple

GIF = bytes.fromhex("47494638396101000100800000000000ffffff21f90401000000002c00000000010001000002024401003b")

_PLAIN = "Content-Type: text/plain\r\n"
_GIF_HEADERS = (
    "Content-Type: image/gif\r\n"
    "Cache-Control: no-cache, no-store, must-revalidate, private, max-age=0\r\n"
    "Pragma: no-cache\r\n"
    "Expires: Thu, 01 Jan 1970 00:00:00 GMT\r\n"
    "Cross-Origin-Resource-Policy: cross-origin\r\n"
    "Access-Control-Allow-Origin: *\r\n"
)


class Form(NamedTuple):
    """The properties of a request that change the form of its answer."""

    head: bool
    keep_alive: bool
    http11: bool

    @property
    def connection(self) -> str:
        # Without this header, the connection is closed in HTTP/1.0 and stays open in HTTP/1.1.
        if self.keep_alive:
            return "" if self.http11 else "Connection: keep-alive\r\n"
        return "Connection: close\r\n"


PLAIN_GET = Form(head=False, keep_alive=True, http11=True)
LAST_GET = Form(head=False, keep_alive=False, http11=True)


class Answer:
    """One answer in one form."""

    def __init__(self, status: str, headers: str, body: bytes, form: Form) -> None:
        self.status = int(status[:3])
        self.form = form
        self._head = f"HTTP/1.1 {status}\r\n{headers}Content-Length: {len(body)}\r\n{form.connection}Date: ".encode()
        self._content = b"" if form.head else body
        self._second = 0
        self._rendered = b""

    def render(self) -> bytes:
        """All bytes of the answer, with the current `Date`."""
        second = int(time.time())
        if second != self._second:
            self._second = second
            self._rendered = self._head + formatdate(second, usegmt=True).encode() + b"\r\n\r\n" + self._content
        return self._rendered


def _forms(status: str, headers: str, body: bytes = b"") -> dict[Form, Answer]:
    flags = (False, True)
    forms = [Form(head, keep_alive, http11) for head in flags for keep_alive in flags for http11 in flags]
    return {form: Answer(status, headers, body, form) for form in forms}


PIXEL = _forms("200 OK", _GIF_HEADERS, GIF)
NOT_FOUND = _forms("404 Not Found", _PLAIN)
NOT_ALLOWED = _forms("405 Method Not Allowed", f"Allow: GET, HEAD\r\n{_PLAIN}")
REFUSALS = {
    400: _forms("400 Bad Request", _PLAIN),
    408: _forms("408 Request Timeout", _PLAIN),
    414: _forms("414 URI Too Long", _PLAIN),
    431: _forms("431 Request Header Fields Too Large", _PLAIN),
    500: _forms("500 Internal Server Error", _PLAIN),
}
"""The answers to an invalid request, by status. Each is the last answer of its connection."""
