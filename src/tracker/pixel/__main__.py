"""`tracker-pixel`, `python -m tracker.pixel`: answers GET /track and publishes the visits to SNS."""

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from tracker.start import prepare_service


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status.

    Without `arguments` it uses those of this process, and prepares the process first.
    """
    if arguments is None:
        prepare_service()
    # These imports take long. The process must be prepared before, because a signal may arrive meanwhile.
    from tracker.aws import read_settings
    from tracker.config import PixelConfig, load_pixel
    from tracker.lifecycle import run_command
    from tracker.pixel import service

    def load(path: Path, environ: Mapping[str, str]) -> PixelConfig:
        return load_pixel(path, environ, read_settings())

    parser = argparse.ArgumentParser(prog="tracker-pixel", description="Answers GET /track, publishes visits to SNS.")
    return run_command(
        parser,
        arguments,
        load,
        lambda config, options: service.run(config, lambda: load(options.config, os.environ)),
    )


if __name__ == "__main__":
    sys.exit(main())
