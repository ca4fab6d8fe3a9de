"""What the pixel counts by name: why visits are discarded, requests refused and connections closed, and odd headers."""

NOT_RECORDED = ("outbox_full", "outbox_io", "privacy", "rate_limited", "no_address")
"""Discarded by a worker: the visitor got the GIF, and no line was appended to a journal."""

NOT_PUBLISHED = ("refused", "damaged")
"""Discarded by the publisher: the line was in a journal, and no message carries it."""

HEADERS_CUT, HEADERS_UNTRUSTED, HEADERS_MISSING = HEADERS = ("headers_cut", "headers_untrusted", "headers_missing")
"""A referrer or user agent was cut. A client IP header was ignored. A trusted proxy named no client."""

REFUSED_STATUSES = (400, 404, 405, 408, 414, 431, 500)
"""The statuses with which a request on the public port is refused."""

TOO_MANY, NOT_READING = "too_many", "not_reading"
REFUSED_CONNECTIONS = (TOO_MANY, NOT_READING)
"""Why a connection is closed: the worker has too many of them, or the visitor does not read the answers."""
