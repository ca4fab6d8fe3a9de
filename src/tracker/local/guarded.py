"""`python -m tracker.local.guarded MODULE …` is `python -m MODULE …` that ends with the process that started it.

1. The launcher holds the other end of the standard input, and writes nothing to it.
2. A thread waits for the end of the standard input. The system closes it when the launcher ends, even by SIGKILL.
3. Then this process and all that it started are killed: its process group, which it leads. SIGKILL is safe for the
   services, and nothing is left that could hold a port.
"""

import os
import runpy
import signal
import sys
import threading

from tracker.start import SIGNALS


def main() -> None:
    # Blocked before the thread begins. Otherwise the system could give the thread a signal that the service blocks.
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    threading.Thread(target=_kill_when_stdin_closes, daemon=True).start()
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


def _kill_when_stdin_closes() -> None:
    while os.read(0, 4096):
        pass
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    main()
