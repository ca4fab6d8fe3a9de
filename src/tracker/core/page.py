"""The page of a visit: the Referer header, or the page that the pixel's own address names.

In mails, feeds and READMEs there is no Referer, or only the reader's. There the pixel's address can name the page:
``GET /track?page=newsletter%2F2026-11``. The value is read as a form is (the URL standard's
application/x-www-form-urlencoded): pairs are separated by ``&`` alone, ``+`` is a space, ``%XX`` is a byte, and ``%``
before anything else is itself.

A page may hold secrets: an access token in its query, a password before the host, a name in its path. `reduced_page`
removes them before the visit is recorded.
"""

import re
from functools import lru_cache
from typing import Literal
from urllib.parse import unquote_to_bytes

from tracker.core.visit import header_text

_CACHED_BYTES = 256  # a longer value is not kept, so the cache takes at most two megabytes


class NamedPage:
    """Finds the first non-empty value of `parameter` in a query. The name may be written with ``%XX``, too."""

    def __init__(self, parameter: str) -> None:
        # The time of both expressions grows linearly with the query: visitors may send thousands of pairs.
        name = "".join(f"(?:{re.escape(char)}|%{ord(char):02x}|%{ord(char):02X})" for char in parameter)
        self._first = re.compile(rf"\?{name}=([^& ]++)".encode()).match
        self._other = re.compile(rf"&{name}=([^& ]++)".encode()).search

    def find(self, request_line: bytes, at: int) -> str | None:
        """The page, form-decoded, as UTF-8 or else as ISO-8859-1 like a header; None if the query names none.

        `at` is where the target's query begins with ``?``, if there is one. It ends at a space or with the line.
        """
        found = self._first(request_line, at)
        if found is None and request_line.startswith(b"?", at):
            end = request_line.find(b" ", at)
            found = self._other(request_line, at, end if end >= 0 else len(request_line))
        if found is None:
            return None
        value = found[1]
        return _cached(value) if len(value) <= _CACHED_BYTES else _decoded(value)


def _decoded(value: bytes) -> str:
    return header_text(unquote_to_bytes(value.replace(b"+", b" ")).decode("utf-8", "surrogateescape"))


_cached = lru_cache(maxsize=1024)(_decoded)

# What stands before the path of a URL: what leads to the host (group 1), user and password, the host with its port
# (group 2). Then comes the path (group 3). Browsers read a backslash as a slash, and the addresses ``https:host`` and
# ``https:///host`` as ``https://host``.
_URL = re.compile(
    r"""[\x00-\x20]*+ ( (?:https?|wss?|ftp):[/\\]* | (?:[a-z][a-z0-9+.-]*:)?[/\\]{2} | file: )
        (?: [^/\\?\#]* @ )? ( [^/\\?\#@]* ) ( [^?\#]* )""",
    re.VERBOSE | re.IGNORECASE,
)

# URLs without a host. What follows the scheme may be anything: an address, a number, a whole document.
_OPAQUE = re.compile(r"[\x00-\x20]*+((?:about|blob|cid|data|filesystem|javascript|mailto|sms|tel|view-source):)", re.I)

_QUERY = re.compile(r"[?#].*", re.DOTALL)

# What browsers remove from a URL before they read it: without this, ``ht<tab>tps://user:password@host`` were a name.
_REMOVED = {ord(char): None for char in "\t\n\r"}


def reduced_page(page: str, keep: Literal["no_query", "origin"], *, is_named: bool) -> str:
    """What is kept of a page with `privacy.referrer`; empty if nothing is.

    - Of a URL: all but user, password, query and fragment; with `origin`, what stands before its path, and a slash.
    - Of a URL that has no host (``data:``, ``mailto:``): its scheme.
    - Of a name (`is_named`): all before the first ``?`` or ``#``. The owner of the page has chosen it.
    - Of a Referer that is no URL: the same; with `origin`, nothing.
    """
    page = page.translate(_REMOVED)
    if (opaque := _OPAQUE.match(page)) is not None:
        return opaque[1]
    if (url := _URL.match(page)) is not None:
        leading, host, path = url.groups()
        return f"{leading}{host}/" if keep == "origin" else f"{leading}{host}{path}"
    if keep == "origin" and not is_named:
        return ""
    return _QUERY.sub("", page)
