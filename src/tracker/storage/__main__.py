"""`python -m tracker.storage`, also installed as `tracker-storage`."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from tracker import lifecycle, telemetry
from tracker.config import load_storage
from tracker.errors import ConfigurationError
from tracker.storage.service import serve


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the service; the exit status: 0 clean stop, 2 usage, 78 configuration, other for trouble."""
    parser = argparse.ArgumentParser(
        prog="tracker-storage", description="From SQS into the visit log, each visit once."
    )
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="the configuration, YAML")
    parser.add_argument("--check", action="store_true", help="validate the configuration and exit")
    parser.add_argument(
        "--accept-log", action="store_true", help="go on with the log as it is, where it differs from the ledger"
    )
    options = parser.parse_args(arguments)
    try:
        config = load_storage(options.config, os.environ)
    except ConfigurationError as error:
        print(error, file=sys.stderr)
        return lifecycle.EXIT_CONFIGURATION
    if options.check:
        print(f"{options.config}: OK")
        return 0
    telemetry.setup_logging(config.logging.level, config.logging.format)
    return lifecycle.run(lambda: serve(config, accept_log=options.accept_log))


if __name__ == "__main__":
    sys.exit(main())
