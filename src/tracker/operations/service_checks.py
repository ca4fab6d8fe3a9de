"""What the running services say of themselves, on their admin listeners."""

import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from tracker.config import Admin, Http, PixelConfig, SqsConfig, StorageAdmin, StorageConfig
from tracker.core.client_ip import is_known_header
from tracker.listening import EVERY_ADDRESS
from tracker.operations.findings import Finding, fault, ok, warning

ANSWER_SECONDS = 5.0
SHORT_VISIBILITY = 30  # seconds
UNTRUSTED_SHARE = 0.5  # of the visits: visitors forge such headers too, but not most of them
LOST_REASONS = {
    "outbox_full": "raise outbox.max_bytes, and see why SNS does not accept (the pixel's log, publish_failing)",
    "outbox_io": "see the pixel's log (outbox_io): the disk is full, failing or read-only",
    "refused": "see refused.ndjson in outbox.dir, and the pixel's log (span_refused)",
    "damaged": "nothing after a power cut, whose loss outbox.fsync_interval bounds; otherwise see the pixel's log "
    "(lines_damaged) and look for a failing disk or bad memory",
}


class Metrics:
    """One look at /metrics."""

    def __init__(self, text: str) -> None:
        self._samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]

    def total(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples, of those with these labels; 0 for one that is not there."""
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
    """Where this machine reaches a listener, which may be bound to all its addresses."""
    host = {EVERY_ADDRESS: "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


async def check_pixel(config: PixelConfig) -> AsyncIterator[Finding]:
    try:
        status, body = await fetch(config.admin, "/readyz")
        metrics = Metrics((await fetch(config.admin, "/metrics"))[1])
    except (aiohttp.ClientError, OSError) as error:
        yield _down("pixel", config.admin, error, "visitors are not answered")
        return
    judged = (*_judge_pixel(status, _json(body)), *judge_pixel_metrics(metrics, config), *judge_client_ip(config.http))
    for finding in judged:
        yield finding
    for finding in _exposed("pixel", config.admin):
        yield finding


async def check_storage(config: StorageConfig) -> AsyncIterator[Finding]:
    try:
        status, body = await fetch(config.admin, "/readyz")
        metrics = Metrics((await fetch(config.admin, "/metrics"))[1])
    except (aiohttp.ClientError, OSError) as error:
        yield _down("storage", config.admin, error, "visits wait in the queue, for as long as its retention")
        return
    detail = _json(body)
    if status != 200:
        yield fault(
            "storage",
            f"it cannot write: {detail.get('log')}",
            why="visits wait in the queue, for as long as its retention",
            mend="make room on the disk of log.path; storage goes on by itself within a second",
        )
    if detail.get("queue", "ok") != "ok":
        yield fault(
            "storage",
            f"it cannot read the queue: {detail.get('queue')}",
            why="visits wait in the queue, for as long as its retention",
            mend="see to sqs.queue, the role or keys that storage runs with (StoragePolicy), and the network",
        )
    elif status == 200:
        yield ok("storage", "runs, reads the queue and can write")
    yield judge_visibility(config.sqs)
    for finding in judge_storage_metrics(metrics):
        yield finding
    for finding in _exposed("storage", config.admin):
        yield finding


def _judge_pixel(status: int, detail: dict[str, Any]) -> Iterator[Finding]:
    if status != 200:
        yield fault(
            "pixel",
            "it is not ready: it drains" if detail.get("draining") else "it is not ready: no worker answers",
            why="visitors are not answered",
            mend="read its log: journalctl -u tracker-pixel",
        )
    else:
        yield ok("pixel", f"answers; worker processes: {detail.get('workers')}")
    if not detail.get("recording", True):
        yield fault(
            "pixel",
            "it does not record: visits are answered and discarded",
            why="they are lost, counted by reason in tracker_pixel_visits_discarded_total",
            mend="see outbox.dir: is it full (outbox.max_bytes), is its disk full, failing or read-only?",
        )
    if trouble := detail.get("trouble"):
        yield fault(
            "pixel",
            f"it cannot publish: {trouble}",
            why="visits are kept in the outbox until it is full",
            mend="see to sns.topic_arn, the role or keys that the pixel runs with (PixelPolicy), and the network",
        )
    if detail.get("outbox", {}).get("nearly_full"):
        yield warning(
            "pixel",
            f"the outbox holds {detail['outbox']['bytes']} bytes, more than 80 % of outbox.max_bytes",
            why="when it is full, visits are answered and discarded (outbox_full)",
            mend="see why SNS does not accept; raise outbox.max_bytes as far as the disk goes",
        )


def judge_pixel_metrics(metrics: Metrics, config: PixelConfig) -> Iterator[Finding]:
    for reason, mend in LOST_REASONS.items():
        if count := metrics.total("tracker_pixel_visits_discarded_total", reason=reason):
            yield warning(
                "pixel",
                f"{count:.0f} visits were discarded since its start: {reason}",
                why="they were answered and are in no log",
                mend=mend,
            )
    untrusted = metrics.total("tracker_pixel_headers_untrusted_total")
    visits = metrics.total("tracker_pixel_visits_accepted_total")
    if untrusted > visits * UNTRUSTED_SHARE:
        header = config.http.client_ip_header
        yield fault(
            "client IP",
            f"{untrusted:.0f} of {visits:.0f} visits came with {header} from peers that are not trusted",
            why="a proxy in front is not in http.trusted_proxies: its address stands in the log for every visitor's",
            mend="add the proxy's addresses to http.trusted_proxies (docs/deployment.md has the ranges)",
        )
    elif visits:
        yield ok("client IP", "no sign of a proxy that is not trusted")


def judge_client_ip(config: Http) -> Iterator[Finding]:
    """Whether the header that names the visitor can be read in one way only."""
    if config.trusted_proxies and not is_known_header(config.client_ip_header):
        yield warning(
            "client IP",
            f"it is not known how {config.client_ip_header} writes an IPv6 address with a port",
            why="without brackets the port is taken for the end of the address: 2001:db8::9:443 is a valid address",
            mend="look at the header of an IPv6 visitor: it must have no port, or brackets as in [2001:db8::9]:443; "
            "else have the proxy write X-Forwarded-For",
        )


def judge_visibility(config: SqsConfig) -> Finding:
    """Whether a held message can be extended in time. A slow fsync does not matter: it runs in a thread of its own."""
    timeout = config.visibility_timeout
    if timeout >= SHORT_VISIBILITY:
        return ok("visibility", f"{timeout} s")
    return warning(
        "visibility",
        f"sqs.visibility_timeout is {timeout} s",
        why="an outage of SQS of a few seconds makes a message visible again before it is deleted: it is delivered "
        "twice, which is cut but paid for, and comes nearer to the dead-letter queue each time",
        mend=f"set sqs.visibility_timeout to {SHORT_VISIBILITY}",
    )


def judge_storage_metrics(metrics: Metrics) -> Iterator[Finding]:
    if missing := metrics.total("tracker_storage_missing_bytes"):
        yield warning(
            "storage",
            f"{missing:.0f} bytes of {metrics.total('tracker_storage_gapped_journals'):.0f} journals are in no line, "
            "though later ones are",
            why="their messages are still on their way, in the dead-letter queue, or lost between SNS and SQS",
            mend="look again in a minute; redrive the dead-letter queue; tracker audit --config FILE names the offsets",
        )
    if count := metrics.total("tracker_storage_messages_malformed_total"):
        yield warning(
            "storage",
            f"{count:.0f} times a message could not be read since its start",
            why="such messages are left to the dead-letter queue; nothing of them is in the log",
            mend="read why in its log (message_malformed); is something else publishing with Type = Visit?",
        )
    if count := metrics.total("tracker_storage_messages_conflicting_total"):
        yield fault(
            "storage",
            f"{count:.0f} times a message had other bytes than those stored for the same range of its journal",
            why="two copies of one outbox are published, or somebody forges messages; nothing of these is in the log",
            mend="find the second copy (a restored snapshot or image of a running pixel) and give it an empty "
            "outbox.dir; storage's log (message_conflicting) names the journal",
        )


def _exposed(service: str, admin: Admin | StorageAdmin) -> Iterator[Finding]:
    if admin.host not in ("127.0.0.1", "::1", "localhost"):
        yield warning(
            service,
            f"its admin listener is on {admin.host}:{admin.port}",
            why="metrics and the words of errors are there for whoever reaches that port",
            mend="admin.host: 127.0.0.1, unless a firewall or a network policy lets nobody but Prometheus in",
        )


def _down(service: str, admin: Admin | StorageAdmin, error: Exception, why: str) -> Finding:
    unit = f"tracker-{service}"
    return fault(
        service,
        f"nothing answers on its admin listener {admin.host}:{admin.port}: {type(error).__name__}",
        why=why,
        mend=f"systemctl start {unit}; journalctl -u {unit} says why it ended; is admin.port the running one's?",
    )


def _json(body: str) -> dict[str, Any]:
    try:
        document = json.loads(body)
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}
