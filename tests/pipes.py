"""A pipe whose reader can be slow: standard error as a log driver holds it."""

import fcntl
import os
import select
from types import TracebackType
from typing import Self


class Pipe:
    """Both ends of a pipe; `writer` blocks whoever writes to it once it is full."""

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close_reader()
        os.close(self.writer)

    def fill(self) -> None:
        """Write dots until nothing more fits in."""
        self.set_blocking(False)
        for block in (b"." * 4096, b"."):
            while True:
                try:
                    os.write(self.writer, block)
                except BlockingIOError:
                    break
        self.set_blocking(True)

    def set_blocking(self, blocking: bool) -> None:
        """For everybody who shares the writer's end."""
        flags = fcntl.fcntl(self.writer, fcntl.F_GETFL) & ~os.O_NONBLOCK
        fcntl.fcntl(self.writer, fcntl.F_SETFL, flags if blocking else flags | os.O_NONBLOCK)

    def read_until(self, word: str) -> str:
        """What is read, without the dots of `fill`, until `word` was; fails when nothing comes for 20 seconds."""
        text = ""
        while word not in text:
            assert select.select([self.reader], [], [], 20)[0], f"no {word!r} in {text!r}"
            text += os.read(self.reader, 1 << 16).decode()
        return text.lstrip(".")

    def close_reader(self) -> None:
        if self.reader >= 0:
            os.close(self.reader)
        self.reader = -1
