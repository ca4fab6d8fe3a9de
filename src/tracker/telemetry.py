"""Every metric of both services with its help text. `make metrics` writes the tables of docs/metrics.md from it.

Each service has a registry of its own, so `/metrics` of one does not show the metrics of the other. No label has a
value that a visitor can choose, so the number of time series is bounded.
"""

import sys
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics

from tracker import __version__
from tracker.collectors import LogLinesDropped, WeightedHistogram
from tracker.core.discards import NOT_PUBLISHED, NOT_RECORDED, REFUSED_CONNECTIONS, REFUSED_STATUSES
from tracker.processes import Processes

disable_created_metrics()  # type: ignore[no-untyped-call]

PIXEL = CollectorRegistry()
ARCHIVE = CollectorRegistry()
STORAGE = CollectorRegistry()

CALL_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
FSYNC_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5)
LATENCY_BUCKETS = (0.1, 0.2, 0.3, 0.5, 0.75, 1, 2, 5, 10, 30, 60, 300, 1_800, 7_200, 43_200, 259_200)

# -- pixel ----------------------------------------------------------------------------------------------------
HITS = Counter("tracker_pixel_hits", "GETs of the pixel that were answered with the GIF.", registry=PIXEL)
ACCEPTED = Counter(
    "tracker_pixel_visits_accepted", "Visits that were appended to the outbox before the GIF was sent.", registry=PIXEL
)
DISCARDED = Counter(
    "tracker_pixel_visits_discarded", "Visits given up, by reason (see the glossary).", ["reason"], registry=PIXEL
)
ADOPTED_VISITS = Counter(
    "tracker_pixel_visits_adopted", "Visits that an earlier run of the pixel left in the outbox.", registry=PIXEL
)
PUBLISHED_VISITS = Counter(
    "tracker_pixel_visits_published", "Visits in messages that SNS has accepted.", registry=PIXEL
)
WAITING_VISITS = Gauge(
    "tracker_pixel_visits_waiting", "Visits in the outbox that SNS has not accepted yet.", registry=PIXEL
)
HEADERS_CUT = Counter("tracker_pixel_headers_cut", "Referrers and user agents cut to 2,048 characters.", registry=PIXEL)
HEADERS_UNTRUSTED = Counter(
    "tracker_pixel_headers_untrusted",
    "Visits whose client IP header was ignored, because their peer is no trusted proxy.",
    registry=PIXEL,
)
HEADERS_MISSING = Counter(
    "tracker_pixel_headers_missing",
    "Visits through a trusted proxy that named no client, so that the proxy's address was recorded.",
    registry=PIXEL,
)
REQUESTS_REFUSED = Counter(
    "tracker_pixel_requests_refused",
    "Requests on the public port that were not answered with the GIF, by the status of the answer.",
    ["status"],
    registry=PIXEL,
)
CONNECTIONS_REFUSED = Counter(
    "tracker_pixel_connections_refused",
    "Connections of the public port that were closed: a worker had too many, or the client did not read its answers.",
    ["reason"],
    registry=PIXEL,
)
ADOPTED = Counter("tracker_pixel_journals_adopted", "Orphaned journals taken over by the publisher.", registry=PIXEL)
PUBLISHED = Counter("tracker_pixel_messages_published", "Messages that SNS has accepted.", registry=PIXEL)
PUBLISH_FAILURES = Counter(
    "tracker_pixel_publish_failures",
    "Attempts that published nothing: SNS failed, SNS refused, or the outbox could not be read.",
    ["result"],
    registry=PIXEL,
)
PUBLISH_SECONDS = Histogram(
    "tracker_pixel_publish_seconds",
    "Time of one publish, successful or not.",
    buckets=CALL_BUCKETS,
    registry=PIXEL,
)
PUBLISHING = Gauge("tracker_pixel_publishing", "1 while SNS accepts messages, 0 while it does not.", registry=PIXEL)
OUTBOX_BYTES = Gauge("tracker_pixel_outbox_bytes", "Size of the outbox directory, orphans included.", registry=PIXEL)
OUTBOX_MAX_BYTES = Gauge("tracker_pixel_outbox_max_bytes", "outbox.max_bytes of the configuration.", registry=PIXEL)
WAITING_BYTES = Gauge(
    "tracker_pixel_outbox_waiting_bytes", "Bytes of the outbox that SNS has not accepted yet.", registry=PIXEL
)
OUTBOX_AGE = Gauge(
    "tracker_pixel_outbox_age_seconds", "Age of the oldest visit that waits for SNS; 0 when none waits.", registry=PIXEL
)
OUTBOX_FREE_BYTES = Gauge(
    "tracker_pixel_outbox_disk_free_bytes", "Free bytes on the outbox's disk for the pixel's user.", registry=PIXEL
)
RECORDING = Gauge(
    "tracker_pixel_recording", "1 while visits are recorded, 0 while any worker discards them.", registry=PIXEL
)
WORKERS = Gauge("tracker_pixel_workers", "Worker processes that answer; one that hangs is not counted.", registry=PIXEL)
WORKER_RESTARTS = Counter(
    "tracker_pixel_worker_restarts",
    "Worker processes started in place of one that died, or that hung and was killed.",
    registry=PIXEL,
)
RELOADS = Counter("tracker_pixel_reloads", "Reloads of the configuration, by result.", ["result"], registry=PIXEL)

# -- storage --------------------------------------------------------------------------------------------------
RECEIVED = Counter(
    "tracker_storage_messages_received", "Messages received from SQS, duplicates included.", registry=STORAGE
)
APPENDED = Counter(
    "tracker_storage_visits_appended", "Visits whose line is durable in the visit log.", registry=STORAGE
)
DUPLICATES = Counter(
    "tracker_storage_visits_duplicate", "Visits left out because the visit log has them already.", registry=STORAGE
)
MALFORMED = Counter(
    "tracker_storage_messages_malformed",
    "Messages left to the dead-letter queue because they could not be read.",
    registry=STORAGE,
)
CONFLICTING = Counter(
    "tracker_storage_messages_conflicting",
    "Messages left to the dead-letter queue because other bytes were stored for the same range of their journal.",
    registry=STORAGE,
)
ACKNOWLEDGED = Counter("tracker_storage_messages_acknowledged", "Messages deleted from SQS.", registry=STORAGE)
IN_FLIGHT = Gauge(
    "tracker_storage_messages_in_flight",
    "Messages received, and neither deleted nor given back nor left to the queue.",
    registry=STORAGE,
)
LATENCY = WeightedHistogram(
    "tracker_storage_end_to_end_latency_seconds",
    "End-to-end latency: from a visit's answer, by the pixel's clock, to its durable line, by storage's clock.",
    LATENCY_BUCKETS,
    STORAGE,
)
FSYNC_SECONDS = Histogram(
    "tracker_storage_fsync_seconds",
    "Time of one fdatasync of the visit log.",
    buckets=FSYNC_BUCKETS,
    registry=STORAGE,
)
MISSING_BYTES = Gauge(
    "tracker_storage_missing_bytes",
    "Bytes of journals that are not stored, although later bytes are, or a journal's end marker names a later end.",
    registry=STORAGE,
)
GAPPED_JOURNALS = Gauge("tracker_storage_gapped_journals", "Journals that have such missing bytes.", registry=STORAGE)
ROTATIONS_FAILED = Counter(
    "tracker_storage_rotations_failed",
    "Rotations that failed and will be tried again: the log could not be renamed, and grows.",
    registry=STORAGE,
)
CLOSED_LOGS_REMOVED = Counter(
    "tracker_storage_closed_logs_removed", "Files of closed logs that log.rotate.keep has removed.", registry=STORAGE
)
LOG_BYTES = Gauge("tracker_storage_log_bytes", "Size of the visit log.", registry=STORAGE)
LOG_FREE_BYTES = Gauge(
    "tracker_storage_log_disk_free_bytes", "Free bytes on the visit log's disk for storage's user.", registry=STORAGE
)
WRITING = Gauge(
    "tracker_storage_writing",
    "1 while the visit log can be written, 0 while it cannot: the disk is full, or the log was moved.",
    registry=STORAGE,
)
RECEIVING = Gauge("tracker_storage_receiving", "1 while SQS can be reached, 0 while it cannot.", registry=STORAGE)

# -- the archive ----------------------------------------------------------------------------------------------
ARCHIVED_LOGS = Counter(
    "tracker_archive_logs_archived", "Closed logs of which each line is in the archive.", registry=ARCHIVE
)
ARCHIVED_VISITS = Counter("tracker_archive_visits_archived", "Visits of these closed logs.", registry=ARCHIVE)
ARCHIVED_MALFORMED = Counter(
    "tracker_archive_lines_malformed", "Lines of these closed logs that are no visits.", registry=ARCHIVE
)
ARCHIVE_REMOVED = Counter(
    "tracker_archive_logs_removed", "Closed logs removed after archive.keep_local.", registry=ARCHIVE
)
ARCHIVE_FAILURES = Counter(
    "tracker_archive_failures", "Closed logs and passes that failed. The next pass tries again.", registry=ARCHIVE
)
ARCHIVE_WAITING = Gauge("tracker_archive_logs_waiting", "Closed logs that are not archived yet.", registry=ARCHIVE)
ARCHIVE_AGE = Gauge(
    "tracker_archive_oldest_waiting_seconds",
    "Time since the rotation of the oldest closed log that is not archived; 0 when none waits.",
    registry=ARCHIVE,
)
ARCHIVE_WORKING = Gauge(
    "tracker_archive_working", "1 after a pass without a failure, 0 after one with a failure.", registry=ARCHIVE
)

# Every value of a label is created at the start, so that its counter is shown as zero before the first event.
for _reason in (*NOT_RECORDED, *NOT_PUBLISHED):
    DISCARDED.labels(_reason)
for _status in REFUSED_STATUSES:
    REQUESTS_REFUSED.labels(str(_status))
for _reason in REFUSED_CONNECTIONS:
    CONNECTIONS_REFUSED.labels(_reason)
for _result in ("failed", "refused", "unread"):
    PUBLISH_FAILURES.labels(_result)
for _result in ("applied", "refused"):
    RELOADS.labels(_result)

# -- both -----------------------------------------------------------------------------------------------------
PROCESSES = Processes()
ADMIN_CONNECTIONS_CUT = Counter(
    "tracker_admin_connections_cut",
    "Connections of the admin listener closed before their answer was sent: too slow, or the oldest of too many.",
    registry=None,
)
LOG_LINES_DROPPED = LogLinesDropped()
for _registry in (PIXEL, STORAGE, ARCHIVE):
    _registry.register(ADMIN_CONNECTIONS_CUT)
    Gauge("tracker_build_info", "1; the version is the label.", ["version"], registry=_registry).labels(
        __version__
    ).set(1)
    _registry.register(PROCESSES)
    _registry.register(LOG_LINES_DROPPED)


def total(counter: Counter) -> int:
    """The value of a counter, summed over its labels."""
    return int(sum(each.value for each in next(iter(counter.collect())).samples if each.name.endswith("_total")))


def table(registry: CollectorRegistry) -> str:
    """The table of one service for the metrics page, in the order of declaration."""
    rows = ["| metric | type | labels | what it says |", "|---|---|---|---|"]
    for family in registry.collect():
        name = f"{family.name}_total" if family.type == "counter" else family.name
        labels = sorted({label for sample in family.samples for label in sample.labels} - {"le"})
        rows.append(
            f"| `{name}` | {family.type} | {' '.join(f'`{label}`' for label in labels)} | {family.documentation} |"
        )
    return "\n".join(rows)


def page(text: str) -> str:
    """`text`, the metrics page, with new tables between its markers."""
    for name, registry in (("pixel", PIXEL), ("storage", STORAGE), ("archive", ARCHIVE)):
        begin, end = f"<!-- {name}: made by `make metrics` -->\n", f"\n<!-- {name}: end -->"
        before, _, rest = text.partition(begin)
        text = before + begin + table(registry) + end + rest.partition(end)[2]
    return text


if __name__ == "__main__":
    path = Path(sys.argv[1])
    path.write_text(page(path.read_text(encoding="utf-8")), encoding="utf-8")
