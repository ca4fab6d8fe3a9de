"""`tracker …`: the commands for people. Each is a module of its own, imported only when it is called."""

import argparse
import importlib
import sys
from collections.abc import Sequence

from tracker.exit_status import add_version, status_of

# Each command: its module, which has `add_arguments(parser)` and `run(options) -> exit status`, and what it does.
COMMANDS: dict[str, tuple[str, str]] = {
    "provision": (
        "tracker.operations.provision_command",
        "Creates or completes topic, queues, policies and subscription.",
    ),
    "doctor": ("tracker.operations.doctor", "Reports what is wrong, why it matters and how to fix it."),
    "redrive": ("tracker.operations.redrive", "Moves the messages of the dead-letter queue back into the queue."),
    "import": ("tracker.operations.bring_back", "Publishes again messages that were kept elsewhere."),
    "audit": ("tracker.storage.audit", "Reports what the visit log holds, and what is missing."),
    "erase": ("tracker.operations.erase", "Removes the lines of a person from closed logs and the archive."),
    "report": ("tracker.analysis.report", "Shows the visits of log files, on the terminal or as an HTML page."),
    "archive": ("tracker.archive.command", "Writes closed logs as Parquet objects to S3, each line once."),
    "export": ("tracker.analysis.export", "Writes the visits of log files for other programs."),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Returns its exit status, one of those that `tracker.exit_status` lists."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    parser = argparse.ArgumentParser(
        prog="tracker",
        description="Commands for the operator of a tracking pixel.",
        epilog="Exit status: 0 all is well, 1 something was found, 2 wrong command line, 3 the command could not look, "
        "78 the configuration has mistakes.",
    )
    add_version(parser)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, (module, summary) in COMMANDS.items():
        command = commands.add_parser(name, help=summary, description=summary)
        add_version(command)
        if words and words[0] == name:
            implementation = importlib.import_module(module)
            implementation.add_arguments(command)
            command.set_defaults(run=implementation.run)
    options = parser.parse_args(words)
    return status_of(lambda: options.run(options), parser.prog)


if __name__ == "__main__":
    sys.exit(main())
