"""`tracker archive`: closed logs become Parquet objects on S3. One pass, or with `--follow` passes for ever.

The archiver is imported late, because it imports Arrow, which is missing where the extra `archive` is not installed.
"""

import argparse
import asyncio
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tracker import exit_status, lifecycle, telemetry
from tracker.admin import AdminServer
from tracker.archive import require_extra
from tracker.aws import bucket_and_prefix, open_bucket
from tracker.config import StorageConfig, load_storage
from tracker.errors import UsageError
from tracker.logs import setup_logging

if TYPE_CHECKING:
    from tracker.archive.archiver import Pass

PAUSE_SECONDS = 10.0  # between two passes; a pass without a new closed log lists one folder


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="storage's configuration")
    parser.add_argument("--follow", action="store_true", help="archive each log soon after it is closed, until stopped")
    parser.add_argument(
        "--admin",
        type=_address,
        metavar="HOST:PORT",
        help="with --follow: serve /healthz, /readyz and /metrics here; default: nowhere",
    )


def run(options: argparse.Namespace) -> int:
    if options.admin and not options.follow:
        raise UsageError("--admin: expected --follow too, because a single pass has nothing to serve")
    require_extra()
    config = load_storage(options.config, os.environ)
    bucket_and_prefix(config.archive)
    setup_logging(config.logging.level, config.logging.format)
    os.umask(0o027)
    if options.follow:
        return lifecycle.run(lambda: _follow(config, options.admin), f"{options.config}: ")
    done = asyncio.run(_once(config))
    print(f"{done.archived} closed logs archived, {done.waiting} waiting", file=sys.stderr)
    if done.conflicts:
        return exit_status.FOUND
    return exit_status.COULD_NOT_LOOK if done.problems else exit_status.OK


async def _once(config: StorageConfig) -> "Pass":
    from tracker.archive.archiver import Archiver

    async with open_bucket(config.archive) as bucket:
        return await Archiver(Path(config.log.path), bucket, config.archive).run_once()


async def _follow(config: StorageConfig, admin: tuple[str, int] | None) -> None:
    from tracker.archive.archiver import Archiver, Pass

    stop = lifecycle.install_stop_signals().requested
    last = Pass(problems=["no pass has ended yet"])

    def ready() -> tuple[bool, dict[str, Any]]:
        return not last.problems, {"waiting": last.waiting, "problems": last.problems[:10]}

    server = None
    if admin is not None:
        server = AdminServer(host=admin[0], port=admin[1], ready=ready, registry=telemetry.ARCHIVE)
        await server.start(stop)
    try:
        async with open_bucket(config.archive) as bucket:
            archiver = Archiver(Path(config.log.path), bucket, config.archive)

            async def one_pass() -> None:
                nonlocal last
                last = await archiver.run_once()

            while await lifecycle.ends_before(stop, one_pass()):
                if await lifecycle.wait_for_event(stop, PAUSE_SECONDS):
                    break
    finally:
        if server is not None:
            await server.stop()


def _address(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isdecimal() or not 0 < int(port) < 65_536:
        raise argparse.ArgumentTypeError(f"expected HOST:PORT, as 127.0.0.1:8083, got {text!r}")
    return host.strip("[]"), int(port)
