"""`python -m tracker.local run` (what `make run` starts) and `python -m tracker.local broker` (`make run-aws`)."""

import argparse
import sys
from pathlib import Path

from tracker.core.printable import printable
from tracker.errors import ConfigurationError, TrackerError
from tracker.lifecycle import EXIT_CONFIGURATION, EXIT_CRASH
from tracker.local import broker, runner

DEMO_PORT = 8000


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tracker.local", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)

    run = commands.add_parser("run", help="the whole system on this machine, until Ctrl-C")
    run.add_argument("--pixel-config", type=Path, default=Path("config/pixel.yaml"), metavar="FILE")
    run.add_argument("--storage-config", type=Path, default=Path("config/storage.yaml"), metavar="FILE")
    run.add_argument("--broker-port", type=int, default=broker.PORT, metavar="PORT")
    run.add_argument("--demo-port", type=int, default=DEMO_PORT, metavar="PORT")

    alone = commands.add_parser("broker", help="the local SNS and SQS alone, until Ctrl-C")
    alone.add_argument("--port", type=int, default=broker.PORT)
    alone.add_argument("--until-stdin-closes", action="store_true", help="end with the process that holds stdin open")

    arguments = parser.parse_args()
    try:
        if arguments.command == "broker":
            broker.serve(arguments.port, until_stdin_closes=arguments.until_stdin_closes)
            return 0
        return runner.run(
            runner.Options(
                pixel_config=arguments.pixel_config,
                storage_config=arguments.storage_config,
                broker_port=arguments.broker_port,
                demo_port=arguments.demo_port,
            )
        )
    except TrackerError as error:
        print(printable(f"error: {error}", keep="\n"), file=sys.stderr)
        return EXIT_CONFIGURATION if isinstance(error, ConfigurationError) else EXIT_CRASH


if __name__ == "__main__":
    sys.exit(main())
