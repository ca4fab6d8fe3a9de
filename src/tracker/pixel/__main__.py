"""`tracker-pixel`, `python -m tracker.pixel`: answers GET /track and publishes the visits to SNS."""

import argparse
import os
import sys
from pathlib import Path

from tracker.config import load_pixel
from tracker.errors import ConfigurationError
from tracker.lifecycle import EXIT_CONFIGURATION, run
from tracker.pixel import service
from tracker.telemetry import setup_logging


def main() -> int:
    parser = argparse.ArgumentParser(prog="tracker-pixel", description="Answers GET /track, publishes visits to SNS.")
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="the YAML configuration")
    parser.add_argument("--check", action="store_true", help="validate the configuration and exit")
    arguments = parser.parse_args()
    try:
        config = load_pixel(arguments.config, os.environ)
    except ConfigurationError as error:
        print(error, file=sys.stderr)
        return EXIT_CONFIGURATION
    if arguments.check:
        print(f"{arguments.config}: OK")
        return 0
    setup_logging(config.logging.level, config.logging.format)
    return run(lambda: service.run(config))


if __name__ == "__main__":
    sys.exit(main())
