"""What a service says of itself: log lines and metrics. Every metric of both services is declared here, once."""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Literal

from prometheus_client import Counter, Gauge, Histogram, disable_created_metrics

disable_created_metrics()  # type: ignore[no-untyped-call]

# -- pixel ----------------------------------------------------------------------------------------------------
ACCEPTED = Counter("tracker_pixel_visits_accepted", "Visits appended to the outbox before their GIF left.")
DISCARDED = Counter("tracker_pixel_visits_discarded", "Visits given up, by reason.", ["reason"])
HEADERS_CUT = Counter("tracker_pixel_headers_cut", "Referrers and user agents cut to 2,048 characters.")
HEADERS_UNTRUSTED = Counter(
    "tracker_pixel_headers_untrusted", "Visits whose client IP header was not looked at: their peer is not trusted."
)
ADOPTED = Counter("tracker_pixel_journals_adopted", "Orphaned journals taken over by the publisher.")
PUBLISHED_VISITS = Counter("tracker_pixel_visits_published", "Visits in messages that SNS has accepted.")
PUBLISHED = Counter("tracker_pixel_messages_published", "Messages that SNS has accepted.")
PUBLISH_FAILURES = Counter("tracker_pixel_publish_failures", "Messages that SNS did not accept, each try counted.")
OUTBOX_BYTES = Gauge("tracker_pixel_outbox_bytes", "Size of the outbox directory, orphans included.")
WAITING_BYTES = Gauge("tracker_pixel_outbox_waiting_bytes", "Bytes of the outbox that SNS has not accepted yet.")
PUBLISHING = Gauge("tracker_pixel_publishing", "1 while SNS accepts messages, 0 while it does not.")
RECORDING = Gauge("tracker_pixel_recording", "1 while visits are recorded, 0 while any worker discards them.")
WORKERS = Gauge("tracker_pixel_workers", "Worker processes that answer.")
WORKER_RESTARTS = Counter("tracker_pixel_worker_restarts", "Worker processes started again after their death.")

# -- storage --------------------------------------------------------------------------------------------------
RECEIVED = Counter("tracker_storage_messages_received", "Messages received from SQS, duplicates included.")
APPENDED = Counter("tracker_storage_visits_appended", "Visits whose line is durable in the visit log.")
DUPLICATES = Counter("tracker_storage_visits_duplicate", "Visits cut because the visit log already holds them.")
MALFORMED = Counter("tracker_storage_messages_malformed", "Messages left to the dead-letter queue as unreadable.")
ACKNOWLEDGED = Counter("tracker_storage_messages_acknowledged", "Messages deleted from SQS.")
FSYNC_SECONDS = Histogram("tracker_storage_fsync_seconds", "Time of one fdatasync of the visit log, in seconds.")
LOG_BYTES = Gauge("tracker_storage_log_bytes", "Size of the visit log.")


class _Text(logging.Formatter):
    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-8s %(name)s %(message)s")

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:
        return _time(record)

    def formatMessage(self, record: logging.LogRecord) -> str:
        return _escape(super().formatMessage(record))

    def format(self, record: logging.LogRecord) -> str:
        # Only a traceback has lines of its own; indented, none of them can pass for another entry.
        return _escape(super().format(record), keep="\n").replace("\n", "\n    ")


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        event, _, detail = record.getMessage().partition(" ")
        entry = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": event,
            "detail": detail,
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry)


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")


def _escape(text: str, keep: str = "") -> str:
    """Nothing in a log line may move a terminal's cursor or look like a second line."""
    return "".join(c if c.isprintable() or c in keep else c.encode("unicode_escape").decode() for c in text)


def setup_logging(level: str, format: Literal["text", "json"]) -> None:
    """Send log lines to standard error; `level` as in the configuration."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json() if format == "json" else _Text())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for noisy in ("aiobotocore", "botocore", "aiohttp.access"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
