"""The first steps of a service process.

A service may be started with descriptors 0, 1 or 2 closed, with a standard error that nobody reads, or with signals
that its parent has blocked. It may get a signal before it has a handler. So the entry points call these functions
before they import modules that take long to load:

1. Descriptors 0, 1 and 2 that are closed are opened, so that no socket gets one of these numbers.
2. Standard error is replaced by a stream that never blocks.
3. The signals that a service acts on are blocked until it has handlers for them. Workers ignore them instead.
4. The C library is told to give freed memory back to the system.
5. The garbage collector is turned off, until `imports_done`.
"""

import contextlib
import gc
import os
import signal
import sys

from tracker import standard_error

# The signals that a service acts on. They are blocked until it has handlers, because the system keeps blocked signals.
# A signal without a handler would end the process, or would be lost if it is process 1 of a container.
SIGNALS = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP})

_PR_SET_PDEATHSIG = 1  # prctl(2)

# mallopt(3): its parameters and our values; see docs/adr/0032 and 0048. By default each thread has a heap of its own,
# and glibc raises the size from which blocks are mapped, up to 32 MiB. Such blocks then leave holes in the heaps, which
# shrink at their ends only. But each page that the system gives anew costs a page fault. So a span, which has 1 MiB,
# and an append of storage, which has up to 3 MiB, stay in the heap, and this memory is kept for the next ones.
_MALLOPT = {
    -8: 1,  # M_ARENA_MAX: one heap for all threads
    -3: 1 << 22,  # M_MMAP_THRESHOLD: blocks from this size on are mapped, and given back when they are freed
    -1: 1 << 23,  # M_TRIM_THRESHOLD: so much free memory may stay at the end of the heap
}


def prepare_service() -> None:
    """Prepare the process that an operator or a supervisor has started."""
    gc.disable()
    _open_standard_descriptors()
    standard_error.install()
    _give_back_freed_memory()
    # SIG_SETMASK unblocks all others. If the parent had blocked SIGCHLD, main would not learn that a worker has ended.
    signal.pthread_sigmask(signal.SIG_SETMASK, SIGNALS)


def imports_done() -> None:
    """Turn the garbage collector on if it is off. It never looks at what exists now: modules stay until the end.

    Imports leave nearly no garbage, but make so many objects that the collector would look through them all again and
    again, for a fifth of the time. Without it the process is half a megabyte larger.
    """
    if not gc.isenabled():
        gc.freeze()
        gc.enable()


def prepare_worker(main: int) -> None:
    """Prepare a worker of the process `main`. Ends this process if `main` has ended already.

    A worker ignores the signals of a whole group or unit: main receives them too and stops its workers in order.
    """
    gc.disable()
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    standard_error.install()
    _give_back_freed_memory()
    # The kernel kills this process when its parent ends, even if this process is stopped or its loop hangs. Otherwise
    # it would keep the listening socket open, and the next start would find the address in use.
    _call_c_library("prctl", _PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != main:
        sys.exit(0)


def _open_standard_descriptors() -> None:
    """Open /dev/null as each of the descriptors 0, 1 and 2 that is closed.

    Otherwise the next socket would get that number, and everything that the process prints would be sent on the socket.
    The system always gives the lowest free number, so each open() below gets the number that is missing.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)


def _give_back_freed_memory() -> None:
    """Set the allocator of the C library; only glibc has these settings. An operator's own `MALLOC_` settings win."""
    if not any(name.startswith("MALLOC_") for name in os.environ):
        for parameter, value in _MALLOPT.items():
            _call_c_library("mallopt", parameter, value)


def _call_c_library(function: str, *arguments: int) -> None:
    """Call a function of the C library. Linux only. A sandbox may forbid it, which is no error."""
    if sys.platform == "linux":
        with contextlib.suppress(ImportError, OSError, AttributeError, MemoryError):
            import ctypes

            getattr(ctypes.CDLL(None), function)(*arguments)
