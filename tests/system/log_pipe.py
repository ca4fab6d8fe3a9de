"""The output of a process as a log driver has it: a pipe with a reader, who may stall."""

import os
import select
import threading
from pathlib import Path

POLL_SECONDS = 0.05
LEFT_SECONDS = 5.0  # for what is left in a pipe


class LogPipe:
    """A named pipe whose reader copies everything into a file, until the last writer has closed its end."""

    def __init__(self, pipe: Path, copy: Path) -> None:
        self._pipe = pipe
        self._copy = copy
        os.mkfifo(pipe)
        copy.touch()
        self._read_end = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)  # without the flag, open waits for a writer
        self.write_end = os.open(pipe, os.O_WRONLY)
        self._reading = threading.Event()
        self._reading.set()
        self._stalled = threading.Event()
        self._reader = threading.Thread(target=self._read, name="log-reader", daemon=True)

    def start(self) -> None:
        """Read, now that the process has its own copy of the write end."""
        os.close(self.write_end)
        self._reader.start()

    def stall(self) -> None:
        """Read nothing more, and fill the pipe: the next byte that the process writes does not fit."""
        self._stalled.clear()
        self._reading.clear()
        self._stalled.wait()
        if not self._reader.is_alive():
            return
        # Opened again, because O_NONBLOCK on the process's own description would hold for the process, too.
        filler = os.open(self._pipe, os.O_WRONLY | os.O_NONBLOCK)
        try:
            for size in (4_096, 1):
                while True:
                    try:
                        os.write(filler, b"\n" * size)
                    except BlockingIOError:
                        break
        finally:
            os.close(filler)

    def resume(self) -> None:
        self._reading.set()

    def close(self) -> None:
        """Read what is left. All writers must be gone."""
        self.resume()
        self._reader.join(LEFT_SECONDS)
        os.close(self._read_end)
        self._pipe.unlink()

    def _read(self) -> None:
        try:
            with self._copy.open("ab", buffering=0) as copy:
                while True:
                    if not self._reading.is_set():
                        self._stalled.set()
                        self._reading.wait()
                    if select.select([self._read_end], [], [], POLL_SECONDS)[0]:
                        if not (data := os.read(self._read_end, 65_536)):
                            return
                        copy.write(data)
        finally:
            self._stalled.set()
