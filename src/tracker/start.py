"""What a process of a service does before anything else, so that no odd start harms it.

A service may be started with descriptors 0, 1 or 2 closed, with a standard error that nobody reads, with signals that
its parent has blocked, or with a signal sent before it can act on it. The entry points call these functions before they
import what takes long to load.
"""

import contextlib
import os
import signal
import sys

from tracker import standard_error

# The signals that a service acts on. Until it can, they wait: blocked signals are kept, also for process 1 of a
# container, which otherwise never receives a signal that it has no handler for.
SIGNALS = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP})

_PR_SET_PDEATHSIG = 1  # prctl(2)


def prepare_service() -> None:
    """For the process that an operator or a supervisor has started."""
    _open_standard_descriptors()
    standard_error.install()
    # Not in addition to what the parent has blocked: with SIGCHLD blocked, main would not learn that a worker ended.
    signal.pthread_sigmask(signal.SIG_SETMASK, SIGNALS)


def prepare_worker(main: int) -> None:
    """For a worker of the process `main`. Ends the process if `main` is gone already.

    A signal to the whole group or unit is for main, which then tells its workers in the right order.
    """
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    standard_error.install()
    _die_with_parent()
    if os.getppid() != main:
        sys.exit(0)


def _open_standard_descriptors() -> None:
    """Open /dev/null as each of the descriptors 0, 1 and 2 that is closed.

    Otherwise the next socket gets that number, and its owner and whoever prints both write to it. The lowest free
    number is given first, so an earlier one is open when a later one is looked at.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            os.set_inheritable(opened, True)


def _die_with_parent() -> None:
    """Let the kernel kill this process when its parent ends, even if this process is stopped or its loop hangs.

    Otherwise it would keep the listening socket open, and the next start would find the address in use. Linux only.
    """
    if sys.platform == "linux":
        # An interpreter without ctypes, or a sandbox that forbids it, is no reason not to serve.
        with contextlib.suppress(ImportError, OSError, AttributeError, MemoryError):
            import ctypes

            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
