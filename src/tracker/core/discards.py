"""Why visits are given up and requests refused: every reason there is, for the counts, the metrics and the glossary."""

NOT_RECORDED = ("outbox_full", "outbox_io", "privacy", "rate_limited", "no_address")
"""The visitor had the GIF, the visit went nowhere."""

NOT_PUBLISHED = ("refused", "damaged")
"""The visit was in the outbox, and no message will carry it."""

REFUSED_STATUSES = (400, 404, 405, 408, 414, 431, 500)
"""With which statuses a request on the public port is refused."""

TOO_MANY, NOT_READING = "too_many", "not_reading"
REFUSED_CONNECTIONS = (TOO_MANY, NOT_READING)
"""Why a connection is closed without an answer: a worker has no place for it, or its visitor does not read."""
