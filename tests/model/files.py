"""A file as a power cut knows it: what processes read, what the disk holds, and what a fdatasync still has to write.

Contents are texts: a visit is a letter and a dot ends its line, so that "a.b." are two lines, "a.b" is torn, and a "0"
is what is found where a page was never written.
"""

import itertools
from collections.abc import Iterator
from typing import NamedTuple


class File(NamedTuple):
    cache: str = ""
    disk: str = ""
    clean: int = 0  # what is before is taken for written; a failed fdatasync moves this though it wrote nothing

    @property
    def durable(self) -> str:
        """The visits whose lines no power cut can take."""
        lines = ((at, self.cache[at : at + 2]) for at in range(0, len(self.cache), 2))
        return "".join(line[0] for at, line in lines if len(line) == 2 and self.disk[at : at + 2] == line)

    def write(self, at: int, data: str) -> "File":
        return File(self.cache[:at] + data + self.cache[at + len(data) :], self.disk, min(self.clean, at))

    def cut(self, size: int) -> "File":
        """ftruncate: processes see it at once, the disk with the next fdatasync."""
        return File(self.cache[:size], self.disk, min(self.clean, size))

    def synced(self) -> "File":
        """fdatasync; also what the kernel may do by itself at any time."""
        found = "".join(self.cache[at] if at >= self.clean else self._on_disk(at) for at in range(len(self.cache)))
        return File(self.cache, found, len(self.cache))

    def sync_failed(self) -> "File":
        return File(self.cache, self.disk, len(self.cache))

    def evicted(self) -> "File":
        """The kernel needs the memory of the clean pages; read again, they are what the disk has."""
        found = "".join(self._on_disk(at) for at in range(self.clean))
        return File(found + self.cache[self.clean :], self.disk, self.clean)

    def after_power_cut(self) -> Iterator["File"]:
        """Every file that may be found: of any size between, each byte not synced there, lost, or as it was before."""
        small, large = sorted((len(self.cache), len(self.disk)))
        found: set[str] = set()
        for size in range(small, large + 1):
            bytes_at = (sorted({self._on_disk(at), *self.cache[max(at, self.clean) : at + 1]}) for at in range(size))
            found.update("".join(content) for content in itertools.product(*bytes_at))
        return (File(content, content, len(content)) for content in sorted(found))

    def _on_disk(self, at: int) -> str:
        return self.disk[at] if at < len(self.disk) else "0"
