"""What may happen at a call of the seam."""

import errno
from collections.abc import Callable
from dataclasses import dataclass

WRITES = frozenset({"write", "pwrite"})
MAKES = frozenset({"create", "mkdir", "link", "rename"})
REMOVES = frozenset({"unlink", "rmdir", "truncate"})
SQL = frozenset({"begin", "statement", "commit"})
CALLS = WRITES | MAKES | REMOVES | SQL | {"open", "sync", "chmod"}


@dataclass(frozen=True)
class Fault:
    """What happens at the Nth of the calls it can befall, and at the `times` - 1 after it."""

    name: str
    calls: frozenset[str]
    error: int = 0
    times: int = 1
    late: bool = False  # the call did its work, and says that it failed
    keeps: Callable[[int], int] | None = None  # of a write: how many of so many bytes get there
    kills: bool = False  # the process dies there: before the call, or after the bytes that get there

    def __str__(self) -> str:
        return self.name


def _half(count: int) -> int:
    return max(1, count // 2)


# The statements amid a transaction are left to some: for most they are the same as its begin or its commit.
_CALLS = CALLS - {"statement"}
EIO = Fault("EIO", _CALLS, errno.EIO)
EIO_FOR_A_WHILE = Fault("EIO for a while", CALLS, errno.EIO, times=5)
EIO_TOO_LATE = Fault("EIO after the work", _CALLS - WRITES, errno.EIO, late=True)
FULL = Fault("ENOSPC", WRITES | MAKES | SQL | {"sync"}, errno.ENOSPC)
FULL_FOR_A_WHILE = Fault("ENOSPC for a while", WRITES | MAKES | SQL - {"statement"}, errno.ENOSPC, times=5)
READ_ONLY = Fault("EROFS for a while", _CALLS - {"sync"}, errno.EROFS, times=5)
SHORT = Fault("short write", WRITES, keeps=_half)
SHORT_BY_ONE = Fault("write short by one", WRITES, keeps=lambda count: max(1, count - 1))
SHORT_FOR_A_WHILE = Fault("short writes for a while", WRITES, keeps=_half, times=5)
TORN = Fault("short write that cannot be cut", frozenset({"write", "truncate"}), errno.EIO, times=2, keeps=_half)
KILL = Fault("SIGKILL", _CALLS, kills=True)
KILL_AMID = Fault("SIGKILL amid a transaction", SQL, kills=True)
TEAR = Fault("SIGKILL amid a write", WRITES, keeps=_half, kills=True)
EVERY = [
    *(KILL, KILL_AMID, TEAR, EIO, EIO_FOR_A_WHILE, EIO_TOO_LATE),
    *(FULL, FULL_FOR_A_WHILE, READ_ONLY, SHORT, SHORT_BY_ONE, SHORT_FOR_A_WHILE, TORN),
]
