"""The recogniser of the fast path: which reads are nothing but whole, plain requests for the pixel.

A plain request gets the same answer as from the fallback. tests/pixel/test_fast_path_and_fallback.py compares the two.
"""

import re

READ_BYTES = 8_190
"""A longer read is not plain. It is the limit of a request line too, so no line of a plain request can be over it."""

PIPELINED = 16
"""More requests in one read are not plain. So many of one connection are answered at once."""

HEADERS = 64
"""More of them are not plain; the fallback allows 128."""

# Headers that change how a request or its connection is treated, by their beginnings.
_ODD = "connection content- etag max-forwards proxy-connection sec-websocket server transfer-encoding"

# How most headers of browsers begin; tried first, for speed alone.
_COMMON = r"(?:[Aa]ccept|[Ss]ec-(?:ch-|[Ff]etch-))"

_NAME = r"[0-9A-Za-z-]"
_VALUE = r"(?! )[ -~]++(?<! )"


class FastPath:
    """Recognises `GET <path>[?query] HTTP/1.1` with a `Host` and headers in printable ASCII, none of them odd.

    `wanted` are the headers to read, in any case; one of them, or a `Host`, that is there twice is not plain.
    """

    def __init__(self, path: str, wanted: list[str]) -> None:
        names = list(dict.fromkeys(name.lower() for name in ("Host", *wanted)))
        self.groups = tuple(names.index(name.lower()) + 1 for name in wanted)
        # (?(1)(?!)) fails where group 1 is set: the header has been there.
        once = [f"{_any_case(name)}: (?({group})(?!))({_VALUE})" for group, name in enumerate(names, 1)]
        others = [*map(_any_case, _ODD.split()), *(f"{_any_case(name)}:" for name in names)]
        lines = [*once, _any_case("connection: keep-alive")]
        if not any(re.match(_COMMON, name) for name in names):
            lines.insert(0, f"{_COMMON}{_NAME}*+: {_VALUE}")
            others.append(_COMMON)
        # No line is matched by two of them: what does not match must not be tried in 2^64 ways.
        lines.append(f"(?!{'|'.join(others)}){_NAME}++: {_VALUE}")
        target = re.escape(path) + r"(?:\?[!-~]*+)?"
        if any(name.startswith(odd) for odd in _ODD.split() for name in names):
            target = "(?!)"  # a header to read is an odd one: nothing is plain
        headers = rf"(?:(?:{'|'.join(lines)})\r\n){{1,{HEADERS}}}(?(1)|(?!))"
        self._match = re.compile(rf"GET {target} HTTP/1\.1\r\n{headers}\r\n").match

    def find(self, read: bytes) -> list[re.Match[str]]:
        """The requests that make up `read`, in order; none if there is anything else in it."""
        length = len(read)
        if length > READ_BYTES:
            return []
        text = read.decode("latin-1")
        requests: list[re.Match[str]] = []
        end = 0
        while end < length:
            request = self._match(text, end)
            if request is None or len(requests) == PIPELINED:
                return []
            requests.append(request)
            end = request.end()
        return requests


def _any_case(text: str) -> str:
    return "".join(f"[{char.upper()}{char}]" if char.isalpha() else char for char in text)
