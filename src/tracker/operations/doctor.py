"""`tracker doctor`: checks everything that a visit passes, and reports what is wrong, why it matters and how to fix it.

It changes nothing, but it sends one visit of its own, the canary. Exit status: 1 after a fault; otherwise 3 if
something could not be checked; otherwise 0, also with warnings.
"""

import argparse
import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path
from typing import TypeVar

from tracker.config import PixelConfig, StorageConfig, load_pixel, load_storage
from tracker.errors import ConfigurationError, ConfigurationUnreadable, UsageError
from tracker.operations import host_checks, service_checks
from tracker.operations.archive_checks import check_archive
from tracker.operations.arrival_checks import check_arrival
from tracker.operations.canary import trace
from tracker.operations.findings import Finding, Report, fault, ok, unknown
from tracker.operations.queue_checks import check_queue
from tracker.operations.remedies import setup_of
from tracker.operations.shard_checks import other_queues
from tracker.operations.topic_checks import check_topic, with_aws_errors

WITHIN_SECONDS = 30.0

Loaded = TypeVar("Loaded", PixelConfig, StorageConfig)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--pixel", type=Path, metavar="FILE", help="the pixel's configuration, on the host where it runs"
    )
    parser.add_argument(
        "--storage", type=Path, metavar="FILE", help="storage's configuration, on the host where it runs"
    )
    parser.add_argument(
        "--url",
        help="send the canary here, so that it passes the proxies in front of the pixel; default: the pixel itself",
    )
    parser.add_argument("--no-canary", action="store_true", help="do not send a visit of its own, the canary")
    parser.add_argument(
        "--within",
        type=float,
        default=WITHIN_SECONDS,
        metavar="SECONDS",
        help=f"how long to follow the canary, and to wait for what SNS has accepted; default: {WITHIN_SECONDS:g}",
    )


def run(options: argparse.Namespace) -> int:
    if options.pixel is None and options.storage is None:
        raise UsageError("expected --pixel FILE, --storage FILE, or both")
    report = Report()
    asyncio.run(examine(options, os.environ, report))
    report.end()
    return report.exit_status


async def examine(options: argparse.Namespace, environ: Mapping[str, str], report: Report) -> None:
    """Run every check that the given configurations allow, in the order of a visit's path."""
    pixel, storage = _configurations(options, environ, report)
    setup = setup_of(pixel, storage)
    if pixel is not None:
        await _run_checks(report, "the outbox", _as_async(host_checks.check_outbox(pixel.outbox)))
        await _run_checks(report, "the pixel", service_checks.check_pixel(pixel))
    if storage is not None:
        await _run_checks(report, "the queue", with_aws_errors(check_queue(storage.sqs, setup), "queue", setup))
    if pixel is not None:
        await _run_checks(report, "the topic", with_aws_errors(check_topic(pixel.sns, setup), "topic", setup))
    if storage is not None:
        await _run_checks(report, "the visit log", _as_async(host_checks.check_log(storage.log)))
        await _run_checks(report, "the archive", with_aws_errors(check_archive(storage), "archive"))
        await _run_checks(report, "storage", service_checks.check_storage(storage))
    if pixel is not None and storage is not None:
        arrival = check_arrival(pixel, storage, setup, options.within)
        await _run_checks(report, "what SNS has accepted", with_aws_errors(arrival, "arrival"))
    if pixel is not None and not options.no_canary:
        report.begin("following the canary")
        report.add(
            *await trace(
                pixel,
                storage,
                url=options.url,
                within=options.within,
                elsewhere=lambda journal: (
                    other_queues(journal, setup.queue["QueueArn"], setup.subscriptions) if setup.queue else ""
                ),
            )
        )


def _configurations(
    options: argparse.Namespace, environ: Mapping[str, str], report: Report
) -> tuple[PixelConfig | None, StorageConfig | None]:
    def read(load: Callable[[Path, Mapping[str, str]], Loaded], path: Path | None) -> Loaded | None:
        if path is None:
            return None
        try:
            config = load(path, environ)
        except ConfigurationUnreadable as error:
            report.add(
                unknown(
                    "configuration",
                    str(error),
                    fix="name the file that the service reads, and run the doctor as the service's user",
                )
            )
            return None
        except ConfigurationError as error:
            for mistake in str(error).splitlines():
                report.add(
                    fault(
                        "configuration",
                        mistake,
                        why="the service cannot start: it ends with exit status 78",
                        fix="correct it; config/*.reference.yaml has every key with its meaning",
                    )
                )
            return None
        report.add(ok("configuration", str(path)))
        return config

    return read(load_pixel, options.pixel), read(load_storage, options.storage)


async def _run_checks(report: Report, what: str, checks: AsyncIterator[Finding]) -> None:
    report.begin(f"checking {what}")
    async for finding in checks:
        report.add(finding)


async def _as_async(findings: Iterator[Finding]) -> AsyncIterator[Finding]:
    for finding in findings:
        yield finding
