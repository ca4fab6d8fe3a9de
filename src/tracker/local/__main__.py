"""`python -m tracker.local run` (what `make run` starts) and `python -m tracker.local broker` (`make run-aws`)."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tracker import exit_status
from tracker.local import broker, runner

DEMO_PORT = 8000


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one of the two commands until Ctrl-C; its exit status."""
    parser = argparse.ArgumentParser(prog="python -m tracker.local", description=__doc__)
    exit_status.add_version(parser)
    commands = parser.add_subparsers(dest="command", required=True)

    run = commands.add_parser("run", help="the whole system on this machine, until Ctrl-C")
    exit_status.add_version(run)
    run.add_argument("--pixel-config", type=Path, default=Path("config/pixel.yaml"), metavar="FILE")
    run.add_argument("--storage-config", type=Path, default=Path("config/storage.yaml"), metavar="FILE")
    run.add_argument("--broker-port", type=int, default=broker.PORT, metavar="PORT")
    run.add_argument("--demo-port", type=int, default=DEMO_PORT, metavar="PORT")

    alone = commands.add_parser("broker", help="the local SNS and SQS alone, until Ctrl-C")
    exit_status.add_version(alone)
    alone.add_argument("--port", type=int, default=broker.PORT)
    alone.add_argument("--until-stdin-closes", action="store_true", help="end with the process that holds stdin open")

    options = parser.parse_args(arguments)
    return exit_status.status_of(lambda: _run(options), "error", failed=exit_status.CRASH)


def _run(options: argparse.Namespace) -> int:
    if options.command == "broker":
        broker.serve(options.port, until_stdin_closes=options.until_stdin_closes)
        return exit_status.OK
    return runner.run(
        runner.Options(
            pixel_config=options.pixel_config,
            storage_config=options.storage_config,
            broker_port=options.broker_port,
            demo_port=options.demo_port,
        )
    )


if __name__ == "__main__":
    sys.exit(main())
