"""A disk at a power cut: what may be left of the files when only what was synced is sure to be.

Pure: from the effects that the seam wrote down to the trees of files a next start may find. The rules are POSIX's, not
those of one kind file system: a name is durable once its directory was synced, a file's bytes once the file was.
Of what was not, each sector may be old, new, some version between, or (where the file grew) zeros or noise; the size
may be any between; each name may be there or not, each rename done or undone, in any order. After a failed fsync the
pages count as clean: what of them did not reach the disk is lost unless written again, though it still reads back.
A commit of SQLite is trusted: all of it or nothing, and durable when it returns.
"""

import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = 0  # the id of the directory under which all is
SECTOR = 64  # bytes; finer than any disk's, so that a line is torn in more places


@dataclass(frozen=True, slots=True)
class Create:
    """A name for a new file or directory (or, by a link, one more for an old file)."""

    directory: int
    name: str
    node: int
    is_directory: bool = False


@dataclass(frozen=True, slots=True)
class Unlink:
    directory: int
    name: str


@dataclass(frozen=True, slots=True)
class Rename:
    directory: int
    name: str
    to_directory: int
    to_name: str


@dataclass(frozen=True, slots=True)
class Write:
    node: int
    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Truncate:
    node: int
    size: int


@dataclass(frozen=True, slots=True)
class Sync:
    node: int
    succeeded: bool = True


@dataclass(frozen=True, slots=True)
class Commit:
    """SQLite's: `snapshot` is the whole database afterwards."""

    node: int
    snapshot: bytes


@dataclass(frozen=True, slots=True)
class Note:
    """No effect on the disk: something the world outside saw at this point."""

    what: str
    value: object


Effect = Create | Unlink | Rename | Write | Truncate | Sync | Commit | Note
Pick = Callable[[int], int]  # of so many possibilities, the one that happened; 0 is "nothing", the last is "all"
Tree = Mapping[str, bytes | None]  # path below the root -> content, None for a directory


@dataclass(slots=True)
class _File:
    durable: bytes = b""
    cached: bytes = b""  # what a read gives
    sizes: list[int] = field(default_factory=list)  # since the last sync
    versions: dict[int, list[bytes]] = field(default_factory=dict)  # of each dirty sector since the last sync

    def write(self, offset: int, data: bytes) -> None:
        before = self.cached.ljust(offset, b"\0")
        self._change(before[:offset] + data + before[offset + len(data) :], offset, offset + len(data))

    def truncate(self, size: int) -> None:
        self._change(self.cached[:size].ljust(size, b"\0"), min(size, len(self.cached)), size)
        self.versions = {sector: seen for sector, seen in self.versions.items() if sector * SECTOR < size}

    def sync(self) -> None:
        self._settle(len(self.cached), {sector: _part(self.cached, sector) for sector in self.versions})

    def lose(self, pick: Pick) -> None:
        """What is on the disk of what was dirty; nothing of it is dirty any more."""
        grown = len(self.durable)
        between = range(grown - grown % SECTOR + SECTOR, len(self.cached), SECTOR)
        sizes = sorted({len(self.durable), len(self.cached), *self.sizes, *between})
        size = sizes[pick(len(sizes))] if len(sizes) > 1 else sizes[0]
        kept: dict[int, bytes] = {}
        for sector, seen in self.versions.items():
            if sector * SECTOR < size:
                noise = [b"\xa5\n" * (SECTOR // 2)] if sector * SECTOR >= grown else []
                choices = [_part(self.durable, sector), *noise, *seen]
                kept[sector] = choices[pick(len(choices))]
        self._settle(size, kept)

    def _change(self, content: bytes, first: int, last: int) -> None:
        self.cached = content
        self.sizes.append(len(content))
        for sector in range(first // SECTOR, -(-last // SECTOR)):
            self.versions.setdefault(sector, []).append(_part(content, sector))

    def _settle(self, size: int, sectors: Mapping[int, bytes]) -> None:
        content = bytearray(self.durable[:size].ljust(size, b"\0"))
        for sector, data in sectors.items():
            begin = sector * SECTOR
            room = max(0, min(SECTOR, size - begin))
            content[begin : begin + room] = data[:room].ljust(room, b"\0")
        self.durable = bytes(content)
        self.sizes, self.versions = [], {}


@dataclass(slots=True)
class _Directory:
    durable: dict[str, int] = field(default_factory=dict)
    cached: dict[str, int] = field(default_factory=dict)
    pending: list[tuple[str | None, str | None, int]] = field(default_factory=list)  # removed name, made name, node

    def change(self, removed: str | None, made: str | None, node: int) -> None:
        _change(self.cached, removed, made, node)
        self.pending.append((removed, made, node))

    def sync(self) -> None:
        self.durable, self.pending = dict(self.cached), []

    def lose(self, pick: Pick) -> None:
        for change in self.pending:
            if pick(2):
                _change(self.durable, *change)
        self.pending = []


def _change(names: dict[str, int], removed: str | None, made: str | None, node: int) -> None:
    if removed is not None:
        names.pop(removed, None)
    if made is not None:
        names[made] = node


def _part(content: bytes, sector: int) -> bytes:
    return content[sector * SECTOR : (sector + 1) * SECTOR].ljust(SECTOR, b"\0")


class Disk:
    """The files below a root: what reads see of them, and what is on the disk."""

    def __init__(self, tree: Tree | None = None) -> None:
        """Begins with `tree`, all durable; ids are given in the order of its paths, from 1."""
        self._nodes: dict[int, _File | _Directory] = {ROOT: _Directory()}
        ids = {".": ROOT}
        for number, path in enumerate(sorted(tree or {}), start=1):
            content = (tree or {})[path]
            self._nodes[number] = _Directory() if content is None else _File(content, content)
            ids[path] = number
            parent = self._directory(ids[str(Path(path).parent)])
            parent.durable[Path(path).name] = parent.cached[Path(path).name] = number

    def replay(self, effects: Iterable[Effect], pick: Pick) -> None:
        """`pick` says what a failed fsync got through."""
        for effect in effects:
            match effect:
                case Create(directory, name, node, is_directory):
                    self._nodes.setdefault(node, _Directory() if is_directory else _File())
                    self._directory(directory).change(None, name, node)
                case Unlink(directory, name):
                    self._directory(directory).change(name, None, -1)
                case Rename(directory, name, to_directory, to_name):
                    self._rename(directory, name, to_directory, to_name)
                case Write(node, offset, data):
                    self._file(node).write(offset, data)
                case Truncate(node, size):
                    self._file(node).truncate(size)
                case Sync(node, succeeded):
                    found = self._nodes[node]
                    if succeeded:
                        found.sync()
                    elif isinstance(found, _File):  # names are in the file system's own log: they stay pending
                        found.lose(pick)
                case Commit(node, snapshot):
                    self._nodes[node] = _File(snapshot, snapshot)

    def cut(self, pick: Pick) -> Tree:
        """The tree that is left when the power goes now."""
        for node in list(self._nodes):
            self._nodes[node].lose(pick)
        return dict(self._walk(ROOT, "", durable=True))

    def read(self) -> Tree:
        """The tree as every process sees it."""
        return dict(self._walk(ROOT, "", durable=False))

    def _rename(self, directory: int, name: str, to_directory: int, to_name: str) -> None:
        node = self._directory(directory).cached[name]
        if directory == to_directory:
            self._directory(directory).change(name, to_name, node)
        else:
            self._directory(to_directory).change(None, to_name, node)
            self._directory(directory).change(name, None, -1)

    def _walk(self, directory: int, prefix: str, *, durable: bool) -> Iterator[tuple[str, bytes | None]]:
        here = self._directory(directory)
        for name, node in (here.durable if durable else here.cached).items():
            found = self._nodes[node]
            if isinstance(found, _File):
                yield prefix + name, found.durable if durable else found.cached
            else:
                yield prefix + name, None
                yield from self._walk(node, f"{prefix}{name}/", durable=durable)

    def _directory(self, node: int) -> _Directory:
        found = self._nodes[node]
        assert isinstance(found, _Directory)
        return found

    def _file(self, node: int) -> _File:
        found = self._nodes[node]
        assert isinstance(found, _File)
        return found


def after_power_cut(base: Tree, effects: Sequence[Effect], *, states: int, seed: int) -> Iterator[Tree]:
    """What may be left after these effects: every possibility where there are no more than `states`, else so many of
    them, the two extremes among them and the others drawn by `seed`."""
    picker = _Picker(random.Random(seed))

    def left() -> Tree:
        disk = Disk(base)
        disk.replay(effects, picker.pick)
        return disk.cut(picker.pick)

    every: list[Tree] = []
    while len(every) <= states:
        every.append(left())
        if not picker.next_in_order():
            yield from every
            return
    for mode in ("nothing", "all", *["drawn"] * (states - 2)):
        picker.begin(mode)
        yield left()


class _Picker:
    """Goes through all possibilities in order, as an odometer does, or picks by a mode."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self.begin("ordered")

    def begin(self, mode: str) -> None:
        self._mode = mode
        self._digits: list[int] = []
        self._bases: list[int] = []
        self._at = 0

    def pick(self, count: int) -> int:
        if self._mode != "ordered":
            return {"nothing": 0, "all": count - 1}.get(self._mode, self._rng.randrange(count))
        if self._at == len(self._digits):
            self._digits.append(0)
            self._bases.append(count)
        self._at += 1
        return self._digits[self._at - 1]

    def next_in_order(self) -> bool:
        """Turn to the next possibility; False when that was the last."""
        while self._digits and self._digits[-1] + 1 == self._bases[-1]:
            self._digits.pop()
            self._bases.pop()
        if self._digits:
            self._digits[-1] += 1
        self._at = 0
        return bool(self._digits)


def put(tree: Tree, root: Path) -> None:
    """Make these files below `root`."""
    root.mkdir(parents=True, exist_ok=True)
    for path in sorted(tree):
        content = tree[path]
        if content is None:
            (root / path).mkdir()
        else:
            (root / path).write_bytes(content)


def look(root: Path) -> Tree:
    """The files below `root`."""
    return {
        str(path.relative_to(root)): None if path.is_dir() else path.read_bytes() for path in sorted(root.rglob("*"))
    }
