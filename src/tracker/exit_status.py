"""The exit status of every command, and `--version`.

| status | of `tracker …` | of `tracker-pixel`, `tracker-storage`, `python -m tracker.local` |
|---|---|---|
| 0 | all is well | clean stop |
| 1 | the command found something: a fault, a gap, a change to make | the service failed; a supervisor starts it again |
| 2 | wrong command line | wrong command line |
| 3 | the command could not look or do its work: AWS, a file, a ledger, a permission | |
| 78 | the configuration has mistakes | the configuration has mistakes; a new start changes nothing |
| 130, 141 | Ctrl-C; the reader of the output has ended (128 + the number of the signal, as a shell reports it) | |
"""

import argparse
import os
import signal
import sys
import traceback
from collections.abc import Callable

from tracker import __version__
from tracker.core.printable import printable
from tracker.errors import ConfigurationError, TrackerError, UsageError

OK = 0
FOUND = 1
CRASH = 1
USAGE = 2
COULD_NOT_LOOK = 3
CONFIGURATION = 78  # EX_CONFIG of sysexits.h
INTERRUPTED = 128 + signal.SIGINT
BROKEN_PIPE = 128 + signal.SIGPIPE


def add_version(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--version", action="version", version=f"tracker {__version__}", help="show the version and exit"
    )


def status_of(run: Callable[[], int], prog: str, *, failed: int = COULD_NOT_LOOK) -> int:
    """Call `run`, the work of a command, which returns 0 or 1. Returns the exit status of the command.

    Errors are printed, after the name `prog`. `failed` is the status after an error that is neither a wrong command
    line nor a configuration with mistakes. A fault in the code has this status too, with a traceback, because 1 would
    mean that a command of `tracker …` has found something.
    """
    try:
        status = run()
        if sys.stdout is not None:  # it is None if the caller has closed descriptor 1
            sys.stdout.flush()  # now, while an error can still be reported
        return status
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        _drop_output()
        return BROKEN_PIPE
    except TrackerError as error:
        print_error(f"{prog}: {error}")
        if isinstance(error, UsageError):
            return USAGE
        return CONFIGURATION if isinstance(error, ConfigurationError) else failed
    except OSError as error:  # such as a full disk that the output is written to
        _drop_output()
        print_error(f"{prog}: {error}")
        return failed
    except Exception:
        traceback.print_exc()
        return failed


def print_error(text: str) -> None:
    """Print `text` on standard error. Line ends in it are kept, all other unprintable characters are escaped."""
    print(printable(text, keep="\n"), file=sys.stderr, flush=True)


def _drop_output() -> None:
    """Redirect standard output to /dev/null.

    Python writes what is left in its buffer at the end of the process. Otherwise that would fail.
    """
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError, AttributeError):
        pass  # standard output has no descriptor, so nothing is written at the end
