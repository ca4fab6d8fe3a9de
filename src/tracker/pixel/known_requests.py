"""Requests that were seen before: most of their bytes need not be matched again.

A browser sends the same headers with each request, and so do all visitors with this browser and this language. Only few
values differ: the query, `Referer`, `Cookie`, and what proxies add, such as the client's address (`VARYING`).

1. `find` cuts the varying values out of a read, and its request line unless that has no query. What is left of it, with
   the names, is the key.
2. If the key is known, an earlier read with this key was one whole, plain request. This read differs from it only in
   what was cut out. Two short expressions check that this is plain. Then the whole read is plain.
3. If the key is not known, the fast path matches the whole read. Of every LEARN_EVERY such reads one is remembered
   (`learn`). So reads that never repeat cost little, and displace few of those that do.
4. While less than a third of the lookups succeed, only one of LOOK_UP_EVERY reads is looked up.

Why step 2 is right: a cut begins after the last line that begins with a certain name, and ends at the end of this line.
So the key shows where each value was cut out, and two reads with one key have the same lines except for these values.
The fast path's expression accepts every plain value of these headers, because none of them is special. How it matches
one line does not depend on the values of others.
"""

import re

VARYING = (
    "referer cookie x-forwarded-for forwarded x-real-ip x-client-ip true-client-ip cf-connecting-ip cf-ray "
    "cf-ipcountry cloudfront-viewer-address cloudfront-viewer-country fastly-client-ip fly-client-ip fly-request-id "
    "x-amzn-trace-id x-amz-cf-id x-request-id x-correlation-id x-cloud-trace-context traceparent tracestate"
)
"""Headers whose values differ between visitors or between requests."""

SPELLINGS = 8
"""Values are cut out behind this many names at most; `Referer` and `referer` are two. Each costs 0.2 microseconds."""

LEARN_EVERY = 8
LOOK_UP_EVERY = 16
PATIENCE = 256
"""After so many lookups without success most reads are not looked up. A success makes up for two without."""

KNOWN_BYTES = 4 << 20
"""The memory for what is known, at most: about 2,000 requests of browsers."""

_ENTRY_BYTES = 600  # of one known request besides its key, roughly

Fields = list[str | None]
"""The named page, then the wanted headers in the order of their names; None for what is missing."""

# What is known of a request: its fields, None for the named page and for those that vary. And for each field that
# varies, its index, and the index of its value among those that were cut out.
_Known = tuple[Fields, list[tuple[int, int]]]


class KnownRequests:
    """What is known of plain requests for `path`. `request_line` and `value` are the patterns of plain ones."""

    def __init__(self, *, path: str, request_line: str, value: str, wanted: list[str]) -> None:
        self._wanted = [name.lower().encode() for name in wanted]
        self._no_query = f"GET {path} HTTP/1.1\r\n".encode()
        self._plain_line = re.compile(request_line.encode()).fullmatch
        self._plain_values = re.compile(rf"(?:{value}(?:\r\n{value})*)?".encode()).fullmatch
        self._varying = re.compile(rf"\r\n(?:{'|'.join(VARYING.split())}): ".encode(), re.IGNORECASE).findall
        self._spellings: list[bytes] = []  # each with the line end before it: b"\r\nReferer: "
        self._recent: dict[bytes, _Known] = {}
        self._older: dict[bytes, _Known] = {}  # what was recent until KNOWN_BYTES / 2 had been remembered since
        self._recent_bytes = 0
        self._reads = self._misses = 0
        self._failures = 0  # lookups without success, less twice those with success; at most PATIENCE
        self.learning = False

    def find(self, read: bytes) -> Fields | None:
        """The fields of a read that is one plain request; None if this is not known.

        The first field is None; the caller finds the named page. If the read is not known, `learning` says whether to
        call `learn` if it turns out to be one plain request.
        """
        self.learning = False
        if self._failures >= PATIENCE:
            self._reads += 1
            if self._reads % LOOK_UP_EVERY:
                return None
        key, line, values = self._cut(read)
        known = self._recent.get(key)
        if known is None and (known := self._older.get(key)) is not None:
            self._remember(key, known)
        if (
            known is None
            or (line is not None and not self._plain_line(line))
            or not self._plain_values(b"\r\n".join(values))
        ):
            self._failures = min(PATIENCE, self._failures + 1)
            self._misses += 1
            self.learning = self._misses % LEARN_EVERY == 1
            return None
        if self._failures:
            self._failures = max(0, self._failures - 2)
        fields, cuts = known
        fields = fields.copy()
        for field, cut in cuts:
            fields[field] = values[cut].decode()
        return fields

    def learn(self, read: bytes, fields: Fields) -> None:
        """Remember that `read` is one plain request with these fields."""
        new = [name for name in dict.fromkeys(self._varying(read)) if name not in self._spellings]
        self._spellings = [*self._spellings, *new][:SPELLINGS]  # what is known keeps its order of cuts
        names = [name[2:-2].lower() for name in self._spellings if name in read]
        cuts = [(field, names.index(name)) for field, name in enumerate(self._wanted, 1) if name in names]
        varying = {0, *(field for field, _ in cuts)}
        fixed = [None if field in varying else value for field, value in enumerate(fields)]
        self._remember(self._cut(read)[0], (fixed, cuts))

    def _remember(self, key: bytes, known: _Known) -> None:
        size = 2 * len(key) + _ENTRY_BYTES  # the fields are parts of the key
        self._recent_bytes += size
        if self._recent_bytes > KNOWN_BYTES // 2:
            self._recent, self._older, self._recent_bytes = {}, self._recent, size
        self._recent[key] = known

    def _cut(self, read: bytes) -> tuple[bytes, bytes | None, list[bytes]]:
        """The key of a read, and what was cut out: the request line (None: it has no query) and the varying values."""
        line, rest = None, read
        values: list[bytes] = []
        for name in self._spellings:
            before, found, after = rest.rpartition(name)
            if found:
                value, line_end, after = after.partition(b"\r\n")
                values.append(value)
                rest = b"".join((before, found, line_end, after))
        if not rest.startswith(self._no_query):
            # The key begins with a newline then. So no request has the key of one without a query and a line before it.
            line, _, rest = rest.partition(b"\r")
        return rest, line, values
