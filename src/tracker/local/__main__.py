"""The commands of `python -m tracker.local`.

`run` is what `make run` starts, `broker` what `make run-aws` starts. `copy` copies the local bucket into a folder.
"""

import sys

from tracker.start import prepare_service

if __name__ == "__main__":
    prepare_service()  # before the other imports, which take long: Ctrl-C may be pressed meanwhile

import argparse
import io
import os
from collections.abc import Sequence
from pathlib import Path

DEMO_PORT = 8000
ARCHIVE_PORT = 8083


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; its exit status."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a path may have what the terminal's encoding has not
    from tracker import exit_status
    from tracker.local import broker

    parser = argparse.ArgumentParser(prog="python -m tracker.local", description=__doc__)
    exit_status.add_version(parser)
    commands = parser.add_subparsers(dest="command", required=True)

    run = commands.add_parser("run", help="the whole system on this machine, until Ctrl-C")
    exit_status.add_version(run)
    run.add_argument("--pixel-config", type=Path, default=Path("config/pixel.yaml"), metavar="FILE")
    run.add_argument("--storage-config", type=Path, default=Path("config/storage.yaml"), metavar="FILE")
    run.add_argument("--broker-port", type=int, default=broker.PORT, metavar="PORT")
    run.add_argument("--demo-port", type=int, default=DEMO_PORT, metavar="PORT")
    run.add_argument("--archive", action="store_true", help="also write closed logs to a local bucket, as Parquet")
    run.add_argument("--archive-port", type=int, default=ARCHIVE_PORT, metavar="PORT", help="of the archive's health")
    run.add_argument(
        "--port-offset",
        type=_offset,
        default=0,
        metavar="N",
        help="add N to every port, and keep the data in a folder of its own (var/offset-N)",
    )

    alone = commands.add_parser("broker", help="the local SNS and SQS alone, until Ctrl-C")
    exit_status.add_version(alone)
    alone.add_argument("--port", type=int, default=broker.PORT)
    alone.add_argument("--bucket", metavar="NAME", help="create this bucket of S3, too")

    copy = commands.add_parser("copy", help="copy the objects of the local bucket into a folder, to read them there")
    exit_status.add_version(copy)
    copy.add_argument("--port", type=int, default=broker.PORT, help="of the local broker")
    copy.add_argument("folder", type=Path, metavar="FOLDER")

    options = parser.parse_args(arguments)
    return exit_status.status_of(lambda: _run(options), "error", failed=exit_status.CRASH)


def _offset(text: str) -> int:
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"expected a number from 0 on, got {text}")
    return number


def _run(options: argparse.Namespace) -> int:
    from tracker.local import broker
    from tracker.local.environment import make_local

    make_local(os.environ, broker.REGION)
    if options.command == "broker":
        broker.serve(options.port, options.bucket)
        return 0
    if options.command == "copy":
        from tracker.local import local_archive

        copied = local_archive.copy(broker.endpoint(options.port), options.folder)
        print(f"{copied} objects copied to {options.folder}")
        return 0
    from tracker.local import plan, runner

    chosen = plan.Options(
        pixel_config=options.pixel_config,
        storage_config=options.storage_config,
        broker_port=options.broker_port,
        demo_port=options.demo_port,
        archive_port=options.archive_port,
        archive=options.archive,
        port_offset=options.port_offset,
    )
    return runner.run(plan.Plan(chosen, os.environ))


if __name__ == "__main__":
    sys.exit(main())
