"""`tracker-storage`, `python -m tracker.storage`: consumes the queue and appends the visits to the log."""

import argparse
import sys
from collections.abc import Coroutine, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tracker.start import prepare_service

if TYPE_CHECKING:
    from pathlib import Path

    from tracker.config import StorageConfig


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status.

    Without `arguments`, the command line of this process is used, and the process is prepared first.
    """
    if arguments is None:
        prepare_service()
    # Imported only now: a signal that comes during these imports must find a prepared process.
    from tracker.lifecycle import run_command

    parser = argparse.ArgumentParser(
        prog="tracker-storage", description="Receives visits from SQS and appends each one once to the visit log."
    )
    parser.add_argument(
        "--accept-log", action="store_true", help="continue with the log as it is, although it differs from the ledger"
    )
    return run_command(parser, arguments, _load, _serve)


def _load(path: "Path", environ: Mapping[str, str]) -> "StorageConfig":
    # Imported only now: a usage error, --help and --version do not need botocore, which takes longest of all to load.
    from tracker.aws import read_settings
    from tracker.config import load_storage

    return load_storage(path, environ, read_settings())


def _serve(config: "StorageConfig", options: argparse.Namespace) -> Coroutine[Any, Any, None]:
    from tracker.storage.service import serve

    return serve(config, accept_log=options.accept_log)


if __name__ == "__main__":
    sys.exit(main())
