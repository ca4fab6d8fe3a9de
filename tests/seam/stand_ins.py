"""What stands in for the functions of `os`, for `open` and for `sqlite3.connect`, and leads to the seam.

A call that would fail by itself, for a name that is there or is not, is let through: it changes nothing.
"""

import builtins
import io
import os
import sqlite3
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import aiofiles.threadpool
import pytest

from tests.seam.disk import Commit, Create, Effect, Rename, Truncate, Unlink

if TYPE_CHECKING:
    from tests.seam.seam import Seam

# Calls that change files and that no code here makes: they are refused until the seam knows them.
UNKNOWN = "copy_file_range mkfifo mknod posix_fallocate pwritev removexattr sendfile setxattr splice symlink writev"


def stand_in(seam: "Seam", patch: pytest.MonkeyPatch) -> None:
    """Put all of them in place."""
    for functions in (_descriptors(seam), _names(seam)):
        for name, function in functions.items():
            patch.setattr(os, name, function)
    for real in {os.fsync, getattr(os, "fdatasync", os.fsync)}:
        for module, name in _holders(real):
            patch.setattr(module, name, _sync(seam, real))
    real_open = io.open

    def open_file(file: Any, mode: str = "r", buffering: int = -1, *arguments: Any, **options: Any) -> Any:
        if not set(mode) & set("wax+") or seam.below(file) is None:
            return real_open(file, mode, buffering, *arguments, **options)
        return _open_file(seam, file, mode, buffering, *arguments, **options)

    for module, name in ((io, "open"), (builtins, "open"), (aiofiles.threadpool, "sync_open")):
        patch.setattr(module, name, open_file)
    patch.setattr(sqlite3, "connect", _connect(seam, sqlite3.connect))
    for name in UNKNOWN.split():
        if hasattr(os, name):
            patch.setattr(os, name, _refuse(seam, name, getattr(os, name)))


def _holders(function: Any) -> list[tuple[Any, str]]:
    """Where a function of `os` is: some modules have imported it by name."""
    modules = [module for name, module in list(sys.modules.items()) if name == "os" or name.startswith("tracker.")]
    return [(module, name) for module in modules for name, value in vars(module).items() if value is function]


def _sync(seam: "Seam", real: Callable[[int], None]) -> Callable[[int], None]:
    return lambda fd: seam.sync(fd, real) if fd in seam.open_files else real(fd)


def _descriptors(seam: "Seam") -> dict[str, Callable[..., Any]]:
    """The functions that open descriptors and use them."""
    from tests.seam.seam import OpenFile

    real = {name: getattr(os, name) for name in ("open", "close", "write", "pwrite", "ftruncate", "truncate", "fchmod")}

    def open_(path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        def perform() -> int:
            fd: int = real["open"](path, flags, mode, dir_fd=dir_fd)
            return fd

        if (below := seam.below(path, dir_fd)) is None:
            return perform()
        with seam.lock:
            fd = _open(seam, below, flags, perform, real["close"])
            seam.open_files[fd] = OpenFile(below, seam.node(fd), bool(flags & os.O_APPEND))
            return fd

    def close(fd: int) -> None:
        seam.open_files.pop(fd, None)
        real["close"](fd)

    def write(fd: int, data: Any) -> Any:
        if fd not in seam.open_files:
            return real["write"](fd, data)
        return seam.write("write", fd, bytes(data), None, lambda part: real["write"](fd, part))

    def pwrite(fd: int, data: Any, offset: int) -> Any:
        if fd not in seam.open_files:
            return real["pwrite"](fd, data, offset)
        return seam.write("pwrite", fd, bytes(data), offset, lambda part: real["pwrite"](fd, part, offset))

    def truncate(path: Any, length: int) -> Any:
        if (below := seam.below(path)) is None:
            return real["truncate"](path, length)
        node = seam.open_files[path].node if isinstance(path, int) else seam.node(below)
        return seam.do("truncate", below, lambda: real["truncate"](path, length), Truncate(node, length))

    def chmod(fd: int, mode: int) -> Any:
        if (below := seam.below(fd)) is None:
            return real["fchmod"](fd, mode)
        return seam.do("chmod", below, lambda: real["fchmod"](fd, mode))

    return {
        **{"open": open_, "close": close, "write": write, "pwrite": pwrite},
        **{"truncate": truncate, "ftruncate": truncate, "fchmod": chmod},
    }


def _open(seam: "Seam", path: str, flags: int, perform: Callable[[], int], close: Callable[[int], None]) -> int:
    if not flags & (os.O_WRONLY | os.O_RDWR):
        return perform()
    effects: list[Effect] = []
    node: int | None = None
    if not os.path.lexists(path):
        if not flags & os.O_CREAT:
            return perform()
        node = seam.new_node()
        effects.append(Create(*seam.entry(path), node))
    elif flags & os.O_EXCL:
        return perform()
    elif flags & os.O_TRUNC:
        effects.append(Truncate(seam.node(path), 0))
    opened: list[int] = []

    def remember() -> None:
        opened.append(perform())
        if node is not None:
            seam.name_node(opened[0], node)

    try:
        seam.do("open" if node is None else "create", path, remember, *effects)
    except OSError:
        for fd in opened:  # by a call that says it failed: nobody has the descriptor
            close(fd)
        raise
    return opened[0]


def _names(seam: "Seam") -> dict[str, Callable[..., Any]]:
    """The functions that make, change and remove names."""
    real = {name: getattr(os, name) for name in ("mkdir", "unlink", "rmdir", "rename", "link", "chmod")}

    def mkdir(path: Any, mode: int = 0o777, *, dir_fd: int | None = None) -> Any:
        def perform() -> None:
            real["mkdir"](path, mode, dir_fd=dir_fd)

        below = seam.below(path, dir_fd)
        if below is None or os.path.lexists(below) or not os.path.isdir(os.path.dirname(below)):
            return perform()
        node = seam.new_node()

        def make() -> None:
            perform()
            seam.name_node(below, node)

        return seam.do("mkdir", below, make, Create(*seam.entry(below), node, is_directory=True))

    def remove(call: str, path: Any, dir_fd: int | None) -> Any:
        def perform() -> None:
            real[call](path, dir_fd=dir_fd)

        below = seam.below(path, dir_fd)
        if below is None or not os.path.lexists(below) or (call == "rmdir" and os.listdir(below)):
            return perform()
        return seam.do(call, below, perform, Unlink(*seam.entry(below)))

    def rename(src: Any, dst: Any, *, src_dir_fd: int | None = None, dst_dir_fd: int | None = None) -> Any:
        def perform() -> None:
            real["rename"](src, dst, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)

        source, target = seam.below(src, src_dir_fd), seam.below(dst, dst_dir_fd)
        if source is None or target is None or not os.path.lexists(source):
            assert (source is None) == (target is None), "a rename across the root"
            return perform()
        return seam.do("rename", source, perform, Rename(*seam.entry(source), *seam.entry(target)))

    def link(src: Any, dst: Any, **options: Any) -> Any:
        source, target = seam.below(src), seam.below(dst)
        if source is None or target is None or os.path.lexists(target) or not os.path.lexists(source):
            return real["link"](src, dst, **options)
        effect = Create(*seam.entry(target), seam.node(source))
        return seam.do("link", target, lambda: real["link"](src, dst, **options), effect)

    def chmod(path: Any, mode: int, **options: Any) -> Any:
        if (below := seam.below(path)) is None:
            return real["chmod"](path, mode, **options)
        return seam.do("chmod", below, lambda: real["chmod"](path, mode, **options))

    def unlink(path: Any, *, dir_fd: int | None = None) -> Any:
        return remove("unlink", path, dir_fd)

    def rmdir(path: Any, *, dir_fd: int | None = None) -> Any:
        return remove("rmdir", path, dir_fd)

    return {
        **{"mkdir": mkdir, "unlink": unlink, "remove": unlink, "rmdir": rmdir},
        **{"rename": rename, "replace": rename, "link": link, "chmod": chmod},
    }


def _refuse(seam: "Seam", name: str, real: Callable[..., Any]) -> Callable[..., Any]:
    def refuse(*arguments: Any, **options: Any) -> Any:
        if any(isinstance(each, str | os.PathLike | int) and seam.below(each) for each in arguments):
            seam.violations.append(f"os.{name} changes files and is not known to the seam")
        return real(*arguments, **options)

    return refuse


class _RawFile(io.FileIO):
    """What `open` gives for a file below the root, under whatever buffers."""

    def __init__(self, seam: "Seam", path: Any, mode: str) -> None:
        self._seam = seam
        super().__init__(path, mode, opener=lambda path, flags: os.open(path, flags | os.O_CLOEXEC, 0o666))

    def write(self, data: Any) -> int:
        real = super().write
        return self._seam.write("write", self.fileno(), bytes(data), None, lambda part: real(part) or 0)

    def truncate(self, size: int | None = None) -> int:
        length = self.tell() if size is None else size
        os.ftruncate(self.fileno(), length)
        return length

    def close(self) -> None:
        if not self.closed:
            self._seam.open_files.pop(self.fileno(), None)
        super().close()


def _open_file(seam: "Seam", path: Any, mode: str, buffering: int = -1, *arguments: Any, **options: Any) -> Any:
    raw = _RawFile(seam, path, mode.replace("b", "").replace("t", ""))
    if buffering == 0:
        return raw
    buffered = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
    return buffered if "b" in mode else io.TextIOWrapper(buffered, *arguments, **options)


def _connect(seam: "Seam", real: Callable[..., sqlite3.Connection]) -> Callable[..., sqlite3.Connection]:
    def connect(database: Any, **options: Any) -> sqlite3.Connection:
        if (below := seam.below(database)) is None:
            return real(database, **options)
        with seam.lock:
            is_new = not os.path.lexists(below)
            connection = real(database, **options, factory=_connection_class(seam, below))
            if is_new:
                node = seam.new_node()
                seam.name_node(below, node)
                seam.effects.append(Create(*seam.entry(below), node))
            return connection

    return connect


def _connection_class(seam: "Seam", path: str) -> type[sqlite3.Connection]:
    class Connection(sqlite3.Connection):
        """Every statement that may write is a call; a commit is one effect."""

        def execute(self, sql: str, *arguments: Any) -> sqlite3.Cursor:
            real = super().execute
            return self._seamed(sql.split(maxsplit=1)[0].upper(), lambda: real(sql, *arguments))

        def executemany(self, sql: str, *arguments: Any) -> sqlite3.Cursor:
            real = super().executemany
            return self._seamed(sql.split(maxsplit=1)[0].upper(), lambda: real(sql, *arguments))

        def executescript(self, script: str) -> sqlite3.Cursor:
            real = super().executescript
            return self._seamed("COMMIT", lambda: real(script))

        def _seamed(self, verb: str, perform: Callable[[], sqlite3.Cursor]) -> sqlite3.Cursor:
            if verb in ("SELECT", "PRAGMA", "ROLLBACK"):
                return perform()
            if verb == "BEGIN":
                return seam.do("begin", path, perform)
            if verb != "COMMIT" and self.in_transaction:
                return seam.do("statement", path, perform)

            def commit() -> sqlite3.Cursor:
                cursor = perform()
                seam.effects.append(Commit(seam.node(path), self.serialize()))
                return cursor

            return seam.do("commit", path, commit)

    return Connection
