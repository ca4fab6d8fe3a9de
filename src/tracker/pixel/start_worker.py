"""The entry point of a worker process, `python -m tracker.pixel.start_worker`: prepares it and runs `worker.serve`."""

import argparse
import os
import socket
import sys

from tracker.start import prepare_worker


def main() -> int:
    parser = argparse.ArgumentParser(description="A worker of tracker-pixel; only tracker-pixel starts it.")
    for name in ("main", "listener", "control", "counts"):
        parser.add_argument(f"--{name}", type=int, required=True)
    arguments = parser.parse_args()
    prepare_worker(arguments.main)
    # These imports take long. The process is prepared before: otherwise a signal to its process group would end it.
    from tracker.lifecycle import run
    from tracker.pixel.control import Counts
    from tracker.pixel.worker import serve

    listener = socket.socket(fileno=arguments.listener)
    control = socket.socket(fileno=arguments.control)
    counts = Counts(arguments.counts)
    os.close(arguments.counts)
    listener.setblocking(False)
    control.setblocking(False)
    return run(lambda: serve(listener, control, counts))


if __name__ == "__main__":
    sys.exit(main())
