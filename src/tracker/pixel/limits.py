"""The limits of one connection on the public port. Together they bound its memory to less than 64 KiB.

A connection keeps either one incomplete head or the rest of one read (HEAD_BYTES at most). It also keeps the answers
that its visitor has not read: WRITE_BYTES, and the answers to PIPELINED requests.
"""

REQUEST_LINE_BYTES = 8_190
"""A longer request line is answered with 414."""

HEADER_BYTES = 16_384 + 128
"""One header line: a value of 16 KiB fits, with its name. A longer one is answered with 431."""

HEADERS_BYTES = 32_768
"""All header lines of one request together. More are answered with 431."""

HEADER_LINES = 128
"""How many header lines one request may have. More are answered with 431."""

HEAD_BYTES = REQUEST_LINE_BYTES + HEADERS_BYTES + len(b"\r\n" * 3)

BODY_BYTES = 65_536
"""A longer body is not read to its end: the answer to its head closes the connection."""

RECEIVE_BYTES = 16_384
"""The receive buffer of each connection, set on the listening socket. It bounds the size of one read.

Linux doubles this value. The longest reads that were measured had 24 KiB; without it, one read may have 250 KB.
"""

WRITE_BYTES = 4_096
"""While more bytes of answers than this are not sent yet, nothing more is read from this visitor."""

LINGER_SECONDS = 2.0
LINGER_BYTES = 1_048_576
"""After the last answer, bytes are read and dropped up to these two limits. nginx sends bodies up to 1 MiB."""


def too_large(head: bytes) -> int | None:
    """The status with which a head, or the beginning of one, is refused for its size; None if it is not too large."""
    request_line, _, fields = head.partition(b"\r\n")
    if len(request_line) > REQUEST_LINE_BYTES:
        return 414
    lines = fields.removesuffix(b"\r\n\r\n").split(b"\r\n")
    if len(lines) > HEADER_LINES or len(fields) > HEADERS_BYTES + 4 or max(map(len, lines)) > HEADER_BYTES:
        return 431
    return None
