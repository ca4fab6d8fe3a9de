"""`tracker …`: the commands for people. Each is a module of its own, imported only when it is asked for."""

import argparse
import importlib
import signal
import sys
from collections.abc import Sequence

from tracker.core.printable import printable
from tracker.errors import ConfigurationError, TrackerError
from tracker.lifecycle import EXIT_CONFIGURATION, EXIT_CRASH

# The name: the module that has `add_arguments(parser)` and `run(options) -> exit status`, and what the command does.
COMMANDS: dict[str, tuple[str, str]] = {
    "provision": ("tracker.operations.provision", "Makes or completes topic, queues, policies and subscription."),
    "doctor": ("tracker.operations.doctor", "Says what is wrong, why it matters and what mends it."),
    "redrive": ("tracker.operations.redrive", "Puts what is in the dead-letter queue back into the queue."),
    "audit": ("tracker.storage.audit", "Says what the visit log holds, and what is missing."),
    "report": ("tracker.analysis.report", "Shows the visits of log files, on the terminal or as a page."),
    "export": ("tracker.analysis.export", "Writes the visits of log files for other programs."),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; its exit status. 2 for a wrong command line, 78 for a configuration that cannot be used."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    parser = argparse.ArgumentParser(prog="tracker", description="Looks after a pixel, its storage and its log.")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, (module, summary) in COMMANDS.items():
        command = commands.add_parser(name, help=summary, description=summary)
        if words and words[0] == name:
            implementation = importlib.import_module(module)
            implementation.add_arguments(command)
            command.set_defaults(run=implementation.run)
    options = parser.parse_args(words)
    try:
        return int(options.run(options))
    except TrackerError as error:
        print(printable(f"tracker: {error}", keep="\n"), file=sys.stderr)
        return EXIT_CONFIGURATION if isinstance(error, ConfigurationError) else EXIT_CRASH
    except KeyboardInterrupt:
        return 128 + signal.SIGINT  # as a shell says it


if __name__ == "__main__":
    sys.exit(main())
