"""`tracker import`: publishes again what was kept elsewhere: messages in files, lines in files, outboxes of lost hosts.

1. The files are read one after the other. `kept_files` finds the messages in them.
2. Up to `WINDOW` messages are published at once, to the topic. So they reach the storage that has their journals, and
   its ledger leaves out the visits that are stored already.
3. The summary says what was published, also after an error or Ctrl-C. An import that is interrupted is begun again from
   the first file: what is stored already changes nothing.

A message that says that it comes from another topic is not published: the ledgers that know it belong to that topic.

The exit status is 1 if something could not be brought back, because it is no message or because SNS refuses it, and 3
if something could not be read or SNS could not be reached.
"""

import argparse
import asyncio
import os
import sys
import time
from collections.abc import Iterable
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec

from tracker import exit_status
from tracker.aws import open_topic
from tracker.config import SnsConfig, load_pixel
from tracker.errors import TrackerError, UsageError
from tracker.lifecycle import Backoff
from tracker.operations.kept_files import read
from tracker.operations.kept_messages import Kept, Unusable
from tracker.operations.kept_outbox import read_published
from tracker.operations.republishing import AGAIN, Import, Publisher
from tracker.pixel.topic import Topic
from tracker.storage.ledger_pruning import JOURNAL_MS

CONFIG = Path("config/pixel.yaml")
WINDOW = 80  # messages: eight requests of ten, as many as are in flight at once
WINDOW_BYTES = 4 << 20
PROGRESS_SECONDS = 0.5
_OTHER_TOPIC = (
    "whose storages know what is stored of it: import it there, or with --any-topic if their logs are not read any more"
)


async def bring_back(
    paths: Iterable[Path],
    topic: Topic | None,
    done: Import,
    *,
    topic_arn: str | None = None,
    published: bool = False,
    backoff: Backoff | None = None,
) -> None:
    """Publish everything; without a topic only read and count. Raises TrackerError if SNS cannot be reached.

    Messages that come from another topic than `topic_arn` are not published; None takes those of all topics. With
    `published`, `paths` are outboxes, and what SNS has accepted of them already is published again.
    """
    publisher = Publisher(topic, done, backoff=backoff or Backoff()) if topic is not None else None
    forgotten = (datetime.now(UTC) - timedelta(milliseconds=JOURNAL_MS)).isoformat()
    progress = _Progress(done)
    window: list[tuple[str, Kept]] = []
    size = 0
    for file, each in read_published(paths) if published else read(paths):
        if progress.show():
            await asyncio.sleep(0)  # Ctrl-C ends the import here, also a dry run
        if isinstance(each, Kept) and each.topic and topic_arn not in (None, each.topic):
            each = Unusable(each.place, f"of the topic {each.topic}, {_OTHER_TOPIC}")
        if isinstance(each, Unusable):
            done.count_unusable(file, each)
            continue
        done.count(each, forgotten)
        if publisher is None:
            continue
        window.append((file, each))
        size += each.message.size
        if len(window) >= WINDOW or size >= WINDOW_BYTES:
            await publisher.publish(window)
            window, size = [], 0
    if publisher is not None:
        await publisher.publish(window)
        publisher.end()
    progress.clear()


class _Progress:
    """Shows on a terminal, twice a second, how far the import is."""

    def __init__(self, done: Import) -> None:
        self._done = done
        self._is_shown = sys.stderr.isatty()
        self._next = 0.0

    def show(self) -> bool:
        """Returns whether it was time to show it."""
        if time.monotonic() <= self._next:
            return False
        self._next = time.monotonic() + PROGRESS_SECONDS
        if self._is_shown:
            found, published = self._done.found, self._done.published
            sys.stderr.write(f"\r\x1b[K{found} messages found, {published} published")
            sys.stderr.flush()
        return True

    def clear(self) -> None:
        if self._is_shown:
            sys.stderr.write("\r\x1b[K")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "files",
        type=_path,
        nargs="+",
        metavar="FILE",
        help="files with messages of SQS or SNS, or lines of visits, compressed or not; folders of them; outboxes; "
        "- for standard input",
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help=f"the pixel's configuration; default: {CONFIG}")
    parser.add_argument("--topic-arn", metavar="ARN", help="the topic, instead of --config")
    parser.add_argument("--endpoint-url", metavar="URL", help="with --topic-arn: an SNS other than that of AWS")
    parser.add_argument(
        "--any-topic", action="store_true", help="also publish messages that say that they come from another topic"
    )
    parser.add_argument(
        "--published",
        action="store_true",
        help="the FILEs are outboxes, also of running pixels, or copies of them: publish all that they hold, also what "
        "SNS has accepted before; this closes a gap",
    )
    parser.add_argument("--dry-run", action="store_true", help="only read and count; publish nothing")


def _path(text: str) -> Path:
    if not text or "://" in text:  # an empty one, as of a variable that is not set, would mean the current folder
        raise argparse.ArgumentTypeError(f"expected a file or a folder on this machine, got {text!r}")
    return Path("/dev/stdin" if text == "-" else text)


def run(options: argparse.Namespace) -> int:
    for path in options.files:
        if not path.exists():
            raise TrackerError(f"{path} does not exist; nothing was published")
    if options.dry_run and options.config is None and options.topic_arn is None:
        return asyncio.run(_run(options, None))
    return asyncio.run(_run(options, _topic_config(options)))


def _topic_config(options: argparse.Namespace) -> SnsConfig:
    if options.topic_arn is None:
        if options.endpoint_url is not None:
            raise UsageError("--endpoint-url: expected only with --topic-arn; a configuration has sns.endpoint_url")
        return load_pixel(options.config or CONFIG, os.environ).sns
    if options.config is not None:
        raise UsageError("expected --config or --topic-arn, not both")
    try:
        return msgspec.convert({"topic_arn": options.topic_arn, "endpoint_url": options.endpoint_url}, SnsConfig)
    except msgspec.ValidationError:
        raise UsageError(
            "--topic-arn, --endpoint-url: expected arn:aws:sns:REGION:ACCOUNT:NAME, and an http or https URL"
        ) from None


async def _run(options: argparse.Namespace, config: SnsConfig | None) -> int:
    done = Import()
    topic_arn = None if config is None or options.any_topic else config.topic_arn
    try:
        async with nullcontext() if config is None or options.dry_run else open_topic(config) as topic:
            await bring_back(options.files, topic, done, topic_arn=topic_arn, published=options.published)
    except asyncio.CancelledError:
        exit_status.print_error(f"interrupted; {AGAIN}")
        raise
    finally:
        _print_summary(done, is_dry=options.dry_run)
    return done.exit_status


def _print_summary(done: Import, *, is_dry: bool) -> None:
    print(f"found: {done.found} messages with {done.found_visits} visits")
    if not is_dry:
        print(f"published: {done.published} messages with {done.published_visits} visits")
    for count, text in (
        (done.unusable, "places hold no message that storage would accept; nothing of them was published"),
        (done.refused, "messages are refused by SNS"),
        (done.unread, "files or journals could not be read to their ends"),
        (
            done.made,
            "visits had no journal. However often they are imported, they are stored once; those that were stored "
            "before the first import are stored a second time",
        ),
        (
            done.old,
            f"messages have visits older than {JOURNAL_MS // 86_400_000} days. The ledger may have forgotten their "
            "journals; if they were stored then, they are stored a second time",
        ),
    ):
        if count:
            print(f"{count} {text}")
