"""Checks of the running services, by /readyz and /metrics of their admin listeners."""

import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from tracker.config import Admin, Http, PixelConfig, SqsConfig, StorageAdmin, StorageConfig
from tracker.listening import EVERY_ADDRESS
from tracker.operations.client_ip_checks import judge_client_ip
from tracker.operations.findings import Finding, fault, ok, warning

ANSWER_SECONDS = 5.0
SHORT_VISIBILITY = 30  # seconds
VISITS_WAIT = "visits wait in the queue, at most for its retention"
LOST_REASONS = {
    "outbox_full": "raise outbox.max_bytes; the pixel's log says why SNS does not accept (publish_failed)",
    "outbox_io": "read the pixel's log (recording_failed): the disk is full, failing or read-only",
    "refused": "see refused.ndjson in outbox.dir, and the pixel's log (span_refused)",
    "damaged": "after a power cut there is nothing to do: outbox.fsync_interval bounds the loss; otherwise read the "
    "pixel's log (lines_damaged) and look for a failing disk or bad memory",
}


class Metrics:
    """The samples of one answer of /metrics. Raises aiohttp.ClientError if it is none: another program answers."""

    def __init__(self, text: str) -> None:
        try:
            self._samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
        except ValueError as error:
            raise aiohttp.ClientError("another program answers there") from error

    def total(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples with these labels; 0 when there is none."""
        return sum(
            sample.value for sample in self._samples if sample.name == name and labels.items() <= sample.labels.items()
        )


async def fetch(admin: Admin | StorageAdmin, path: str) -> tuple[int, str]:
    """Status and body; raises aiohttp.ClientError, OSError or TimeoutError."""
    url = f"{address(admin.host, admin.port)}{path}"
    async with (
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=ANSWER_SECONDS)) as session,
        session.get(url) as reply,
    ):
        return reply.status, await reply.text()


def address(host: str, port: int) -> str:
    """The URL by which this machine reaches a listener, also a listener on all addresses."""
    host = {EVERY_ADDRESS: "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


async def check_pixel(config: PixelConfig) -> AsyncIterator[Finding]:
    try:
        status, body = await fetch(config.admin, "/readyz")
        metrics = Metrics((await fetch(config.admin, "/metrics"))[1])
    except (aiohttp.ClientError, OSError) as error:
        yield _not_answering("pixel", config.admin, error, "visitors are not answered")
        return
    judged = (
        *_judge_pixel(status, _json(body)),
        *judge_pixel_metrics(metrics),
        *_judge_client_ip(metrics, config.http),
    )
    for finding in judged:
        yield finding
    for finding in _exposed("pixel", config.admin):
        yield finding


async def check_storage(config: StorageConfig) -> AsyncIterator[Finding]:
    try:
        status, body = await fetch(config.admin, "/readyz")
        metrics = Metrics((await fetch(config.admin, "/metrics"))[1])
    except (aiohttp.ClientError, OSError) as error:
        yield _not_answering("storage", config.admin, error, VISITS_WAIT)
        return
    detail = _json(body)
    if status != 200:
        yield fault(
            "storage",
            f"it cannot write: {detail.get('log')}",
            why=VISITS_WAIT,
            fix="free space on the disk of log.path; storage continues by itself within a second",
        )
    if detail.get("queue", "ok") != "ok":
        yield fault(
            "storage",
            f"it cannot read the queue: {detail.get('queue')}",
            why=VISITS_WAIT,
            fix="check sqs.queue, the role or keys that storage runs with (StoragePolicy), and the network",
        )
    elif status == 200:
        yield ok("storage", "runs, reads the queue and can write")
    yield judge_visibility(config.sqs)
    yield judge_polling(config.sqs)
    for finding in judge_storage_metrics(metrics):
        yield finding
    for finding in _exposed("storage", config.admin):
        yield finding


def _judge_pixel(status: int, detail: dict[str, Any]) -> Iterator[Finding]:
    if status != 200:
        yield fault(
            "pixel",
            "it is not ready: it is stopping" if detail.get("draining") else "it is not ready: no worker answers",
            why="visitors are not answered",
            fix="read its log: journalctl -u tracker-pixel",
        )
    else:
        yield ok("pixel", f"answers; worker processes: {detail.get('workers')}")
    if not detail.get("recording", True):
        free = detail.get("outbox", {}).get("disk_free_bytes")
        room = f"; {free} bytes are free on the disk of outbox.dir" if free is not None else ""
        yield fault(
            "pixel",
            f"it does not record: visits are answered and discarded{room}",
            why="they are lost, and counted by reason in tracker_pixel_visits_discarded_total",
            fix="check outbox.dir: it is full (outbox.max_bytes), or its disk is full, failing or read-only",
        )
    if error := detail.get("publish_error"):
        yield fault(
            "pixel",
            f"it cannot publish: {error}",
            why="visits are kept in the outbox until it is full",
            fix="check sns.topic_arn, the role or keys that the pixel runs with (PixelPolicy), and the network",
        )
    if detail.get("outbox", {}).get("nearly_full"):
        yield warning(
            "pixel",
            f"the outbox holds {detail['outbox']['bytes']} bytes, more than 80 % of outbox.max_bytes",
            why="when it is full, visits are answered and discarded (outbox_full)",
            fix="find out why SNS does not accept; raise outbox.max_bytes as far as the disk allows",
        )


def judge_pixel_metrics(metrics: Metrics) -> Iterator[Finding]:
    for reason, fix in LOST_REASONS.items():
        if count := metrics.total("tracker_pixel_visits_discarded_total", reason=reason):
            yield warning(
                "pixel",
                f"{count:.0f} visits were discarded since its start: {reason}",
                why="they were answered, but they are not in the visit log",
                fix=fix,
            )


def _judge_client_ip(metrics: Metrics, config: Http) -> Iterator[Finding]:
    return judge_client_ip(
        config,
        visits=metrics.total("tracker_pixel_visits_accepted_total"),
        untrusted=metrics.total("tracker_pixel_headers_untrusted_total"),
        unnamed=metrics.total("tracker_pixel_headers_missing_total"),
    )


def judge_visibility(config: SqsConfig) -> Finding:
    """Whether storage can extend messages in flight in time. A slow fsync, in its own thread, does not delay that."""
    timeout = config.visibility_timeout
    if timeout >= SHORT_VISIBILITY:
        return ok("visibility", f"{timeout} s")
    return warning(
        "visibility",
        f"sqs.visibility_timeout is {timeout} s",
        why="if SQS cannot be reached for some seconds, messages become visible and are delivered again. Their visits "
        "are not stored twice, but each delivery costs money and counts towards maxReceiveCount",
        fix=f"set sqs.visibility_timeout to {SHORT_VISIBILITY}",
    )


def judge_polling(config: SqsConfig) -> Finding:
    if config.wait_time:
        return ok("polling", f"waits up to {config.wait_time} s for messages")
    return warning(
        "polling",
        "sqs.wait_time is 0: storage polls without waiting",
        why="SQS charges each receive, also an empty one, and a poll without a wait asks only some of its servers",
        fix="set sqs.wait_time to 10",
    )


def judge_storage_metrics(metrics: Metrics) -> Iterator[Finding]:
    if missing := metrics.total("tracker_storage_missing_bytes"):
        yield warning(
            "storage",
            f"{missing:.0f} bytes of {metrics.total('tracker_storage_gapped_journals'):.0f} journals are not stored, "
            "but later bytes of them are",
            why="their messages are still in SNS or SQS, in the dead-letter queue, or lost between the two",
            fix="run the doctor again in a minute; redrive the dead-letter queue; tracker audit names the offsets",
        )
    if count := metrics.total("tracker_storage_messages_malformed_total"):
        yield warning(
            "storage",
            f"{count:.0f} times since its start it received a message that it could not read",
            why="such messages are left to the dead-letter queue and are not in the visit log",
            fix="storage's log says why (message_malformed); look for another publisher with Type = Visit",
        )
    if count := metrics.total("tracker_storage_messages_conflicting_total"):
        yield fault(
            "storage",
            f"{count:.0f} messages had other bytes than those stored for the same range of their journal",
            why="two copies of one outbox are published, or somebody forges messages; these messages are not stored",
            fix="find the second copy (a restored snapshot or image of a running pixel) and give it an empty "
            "outbox.dir; storage's log (conflict_found) names the journal",
        )


def _exposed(service: str, admin: Admin | StorageAdmin) -> Iterator[Finding]:
    if admin.host not in ("127.0.0.1", "::1", "localhost"):
        yield warning(
            service,
            f"its admin listener is on {admin.host}:{admin.port}",
            why="everybody who can connect to that port can read the metrics and the texts of errors",
            fix="set admin.host to 127.0.0.1, unless a firewall or a network policy lets only Prometheus in",
        )


def _not_answering(service: str, admin: Admin | StorageAdmin, error: Exception, why: str) -> Finding:
    unit = f"tracker-{service}"
    return fault(
        service,
        f"nothing answers on its admin listener {admin.host}:{admin.port}: {type(error).__name__}",
        why=why,
        fix=f"systemctl start {unit}; journalctl -u {unit} says why it ended; check admin.port",
    )


def _json(body: str) -> dict[str, Any]:
    try:
        document = json.loads(body)
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}
