"""The fast path's recogniser: it recognises reads that consist of whole, plain requests for the pixel only.

One regular expression recognises a plain request and finds its headers. It takes 2 to 3 microseconds; aiohttp's parser
takes about 20. It may be strict, because every other request goes to the fallback.

The fallback would answer a plain request in the same way. tests/pixel/test_fast_path_and_fallback.py compares the two.
"""

import re
from functools import cache

from tracker.core.page import NamedPage
from tracker.pixel.known_requests import Fields, KnownRequests

READ_BYTES = 8_190
"""A longer read is not plain. This is also the limit of a request line, so no line of a plain request exceeds it."""

PIPELINED = 16
"""A read with more requests is not plain. At most this many requests of one connection are answered in one pass."""

HEADERS = 64
"""A request with more headers is not plain. The fallback allows 128."""

# The beginnings of headers that change the meaning of a request or its connection. A request with one is not plain.
_SPECIAL = "connection content- etag max-forwards proxy-connection sec-websocket server transfer-encoding"

# The beginnings of most headers that browsers send. This is tried first, for speed only.
_COMMON = r"(?:[Aa]ccept|[Ss]ec-(?:ch-|[Ff]etch-))"

_NAME = r"[0-9A-Za-z-]"
_VALUE = r"(?! )[ -~]++(?<! )"


class FastPath:
    """Recognises `GET <path>[?query] HTTP/1.1` with a `Host` and headers in printable ASCII, none of them special.

    `wanted` are the names of the headers to read, in any case. A request with one of them or `Host` twice is not plain.
    `named_page` finds the page that the query of a request names; None if that is not wanted.
    """

    def __init__(self, path: str, wanted: list[str], *, named_page: NamedPage | None = None) -> None:
        names = list(dict.fromkeys(name.lower() for name in ("Host", *wanted)))
        self._groups = tuple(names.index(name.lower()) + 1 for name in wanted)
        # (?(1)(?!)) fails if group 1 is set, that is, if the header was there before.
        once = [f"{_any_case(name)}: (?({group})(?!))({_VALUE})" for group, name in enumerate(names, 1)]
        others = [*map(_any_case, _SPECIAL.split()), *(f"{_any_case(name)}:" for name in names)]
        lines = [*once, _any_case("connection: keep-alive")]
        if not any(re.match(_COMMON, name) for name in names):
            lines.insert(0, f"{_COMMON}{_NAME}*+: {_VALUE}")
            others.append(_COMMON)
        # No line matches two of the alternatives. Otherwise 64 lines would be tried in 2^64 ways.
        lines.append(f"(?!{'|'.join(others)}){_NAME}++: {_VALUE}")
        request_line = rf"GET {re.escape(path)}(?:\?[!-~]*+)? HTTP/1\.1"
        if any(name.startswith(special) for special in _SPECIAL.split() for name in names):
            request_line = "(?!)"  # one of the headers to read is special: no request is plain
        headers = rf"(?:(?:{'|'.join(lines)})\r\n){{1,{HEADERS}}}(?(1)|(?!))"
        self.pattern = re.compile(rf"{request_line}\r\n{headers}\r\n")
        self._named_page = named_page.find if named_page is not None else None
        self._path_end = len(f"GET {path}")  # from the beginning of a request
        self._known = KnownRequests(path=path, request_line=request_line, value=_VALUE, wanted=wanted)

    def find(self, read: bytes) -> list[Fields]:
        """The fields of each request in `read`, in order; empty if it contains anything else.

        The first field is the named page, None if there is none. The wanted headers follow.
        """
        length = len(read)
        if length > READ_BYTES:
            return []
        if (fields := self._known.find(read)) is not None:
            if self._named_page is not None:
                fields[0] = self._named_page(read, self._path_end)
            return [fields]
        match, groups = self.pattern.match, self._groups
        text = read.decode("latin-1")
        requests: list[Fields] = []
        end = 0
        while end < length:
            request = match(text, end)
            if request is None or len(requests) == PIPELINED:
                return []
            named = self._named_page(read, end + self._path_end) if self._named_page is not None else None
            requests.append([named, *(request[group] for group in groups)])
            end = request.end()
        if self._known.learning and len(requests) == 1:
            self._known.learn(read, requests[0])
        return requests


@cache
def _any_case(text: str) -> str:
    return "".join(f"[{char.upper()}{char}]" if char.isalpha() else char for char in text)
