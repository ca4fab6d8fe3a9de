"""The seam sees every call, makes every fault, and its loop reaches them all."""

import contextlib
import errno
import fcntl
import os
import re
import shutil
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiofiles.threadpool
import pytest

from tests.pixel.test_every_call import SCENARIOS as PIXEL
from tests.pixel.test_every_call import impatient
from tests.seam import disk, faults
from tests.seam.faults import Fault
from tests.seam.method import World, live, stage, sweep
from tests.seam.seam import Seam
from tests.storage.test_every_call import SCENARIOS as STORAGE
from tracker import files

__all__ = ["impatient"]


def _open(root: Path, flags: int, name: str = "old") -> None:
    os.close(os.open(root / name, flags))


def _with(root: Path, use: Callable[[int], object]) -> None:
    fd = os.open(root / "old", os.O_RDWR)
    try:
        use(fd)
    finally:
        os.close(fd)


def _database(root: Path, *statements: str) -> None:
    db = sqlite3.connect(root / "base.sqlite", isolation_level=None)
    try:
        for statement in statements:
            db.execute(statement)
    finally:
        db.close()


def _aiofiles_open(*arguments: Any, **options: Any) -> Any:
    return vars(aiofiles.threadpool)["sync_open"](*arguments, **options)


# What the seam calls it, and a function that makes it: all calls the services make, and then some.
CALLS: list[tuple[str, Callable[[Path], object]]] = [
    ("create", lambda root: _open(root, os.O_WRONLY | os.O_CREAT | os.O_EXCL, "new")),
    ("create", lambda root: (root / "new").open("xb").close()),
    ("create", lambda root: _aiofiles_open(root / "new", "ab", buffering=0).close()),
    ("open", lambda root: _open(root, os.O_WRONLY | os.O_TRUNC)),
    ("write", lambda root: _with(root, lambda fd: os.write(fd, b"new!"))),
    ("write", lambda root: (root / "old").write_text("new!")),
    ("pwrite", lambda root: _with(root, lambda fd: os.pwrite(fd, b"new!", 2))),
    ("sync", lambda root: _with(root, os.fsync)),
    ("sync", lambda root: _with(root, lambda fd: files.fdatasync(fd))),
    ("sync", lambda root: files.sync_directory(root)),
    ("truncate", lambda root: _with(root, lambda fd: os.ftruncate(fd, 1))),
    ("truncate", lambda root: os.truncate(root / "old", 1)),
    ("rename", lambda root: (root / "old").rename(root / "new")),
    ("rename", lambda root: os.replace(root / "old", root / "new")),
    ("link", lambda root: os.link(root / "old", root / "new")),
    ("unlink", lambda root: (root / "old").unlink()),
    ("mkdir", lambda root: (root / "new").mkdir()),
    ("rmdir", lambda root: (root / "empty").rmdir()),
    ("rmdir", lambda root: shutil.rmtree(root / "empty")),
    ("chmod", lambda root: (root / "old").chmod(0o600)),
    ("chmod", lambda root: _with(root, lambda fd: os.fchmod(fd, 0o600))),
    ("begin", lambda root: _database(root, "BEGIN IMMEDIATE")),
    ("statement", lambda root: _database(root, "BEGIN IMMEDIATE", "INSERT INTO t VALUES (1)", "COMMIT")),
    ("commit", lambda root: _database(root, "BEGIN IMMEDIATE", "INSERT INTO t VALUES (1)", "COMMIT")),
    ("commit", lambda root: _database(root, "INSERT INTO t VALUES (1)")),
]
NAMED = pytest.mark.parametrize(("call", "make"), CALLS, ids=[f"{n}-{call}" for n, (call, _) in enumerate(CALLS)])


# System calls that change files or make them durable, by the seam's word; those it has none for must not come at all.
WORDS = {
    "write": "write writev",
    "pwrite": "pwrite64 pwritev pwritev2",
    "sync": "fsync fdatasync",
    "truncate": "truncate ftruncate",
    "rename": "rename renameat renameat2",
    "link": "link linkat",
    "unlink": "unlink unlinkat",
    "mkdir": "mkdir mkdirat",
    "rmdir": "rmdir",
    "chmod": "chmod fchmod fchmodat fchmodat2",
    "open": "open openat openat2 creat",
    "?": "symlink symlinkat mknod mknodat fallocate sendfile copy_file_range splice setxattr fsetxattr sync_file_range",
}
SYSCALLS = {name: word for word, names in WORDS.items() for name in names.split()}


def traced(log: str, root: str) -> Counter[str]:
    """What strace saw to change below the root while a scenario ran, as the seam names it."""
    changes: Counter[str] = Counter()
    begun: dict[str, str] = {}
    running = False
    for entry in log.splitlines():
        thread, _, rest = entry.partition(" ")
        rest = rest.strip()
        if rest.endswith("<unfinished ...>"):
            begun[thread] = rest.removesuffix("<unfinished ...>")
            continue
        if resumed := re.match(r"<\.\.\. \w+ resumed>(.*)", rest):
            rest = begun.pop(thread) + resumed[1]
        found = re.match(r"(\w+)\((.*)\)\s+= (-?\d+)", rest)
        paths = re.findall(rf'[<"]{re.escape(root)}([^>"]*)[>"]', rest)
        if found is None or not paths or found[3].startswith("-"):
            continue
        if paths[0].startswith(("begins ", "ends ")):
            running = paths[0].startswith("begins ")
            continue
        call = SYSCALLS[found[1]]
        if running and (call != "open" or re.search("O_WRONLY|O_RDWR", found[2])):
            changes[f"{call} {paths[0]}"] += 1
    return changes


@pytest.fixture
def root(tmp_path: Path) -> Path:
    found = tmp_path / "root"
    (found / "empty").mkdir(parents=True)
    (found / "old").write_bytes(b"old-content")
    _database(found, "CREATE TABLE t (n)")
    return found


def state(root: Path) -> dict[str, object]:
    """What a call can change."""
    database = sqlite3.connect(root / "base.sqlite")
    rows = database.execute("SELECT * FROM t").fetchall()
    database.close()
    modes = {str(path): path.stat().st_mode for path in root.iterdir()}
    return {**disk.look(root), "base.sqlite": None, "rows": rows, "modes": modes}


@NAMED
def test_a_call_that_fails_does_nothing(root: Path, call: str, make: Callable[[Path], object]) -> None:
    before = state(root)
    seam = Seam(root)
    with pytest.raises((OSError, sqlite3.Error)) as raised, seam.life(Fault("x", frozenset({call}), errno.EROFS)):
        make(root)
    codes = (getattr(raised.value, "errno", None), getattr(raised.value, "sqlite_errorcode", None))
    assert codes in ((errno.EROFS, None), (None, sqlite3.SQLITE_READONLY))
    assert seam.hit
    assert not [effect for effect in seam.effects if not isinstance(effect, disk.Sync) and call != "write"]
    if call != "write":  # before which the file was opened
        assert state(root) == before


@NAMED
def test_a_call_that_works_does_what_it_says_and_is_written_down(
    root: Path, call: str, make: Callable[[Path], object]
) -> None:
    seam = Seam(root)
    before = state(root)
    with seam.life():
        make(root)
    assert [each for each in seam.calls if each.startswith(call)]
    if call not in ("sync", "begin"):
        assert state(root) != before
    replayed = disk.Disk(seam.base)
    replayed.replay(seam.effects, lambda count: 0)
    ours = {path: content for path, content in disk.look(root).items() if "sqlite" not in path}
    assert {path: content for path, content in replayed.read().items() if "sqlite" not in path} == ours


LATE = [(call, make) for call, make in CALLS if call in faults.EIO_TOO_LATE.calls - {"begin", "sync"}]


@pytest.mark.parametrize(("call", "make"), LATE, ids=[f"{n}-{call}" for n, (call, _) in enumerate(LATE)])
def test_a_call_that_fails_after_its_work_has_done_it(root: Path, call: str, make: Callable[[Path], object]) -> None:
    before = state(root)
    with pytest.raises((OSError, sqlite3.Error)), Seam(root).life(Fault("x", frozenset({call}), errno.EIO, late=True)):
        make(root)
    assert state(root) != before


@pytest.mark.parametrize("call", ["write", "pwrite"])
def test_a_short_write_says_how_much_of_it_is_there(root: Path, call: str) -> None:
    written: list[int] = []
    seam = Seam(root)
    with seam.life(faults.SHORT_BY_ONE):
        arguments = (b"new!",) if call == "write" else (b"new!", 0)
        _with(root, lambda fd: written.append(getattr(os, call)(fd, *arguments)))
    assert written == [3]
    assert (root / "old").read_bytes() == b"new-content"
    assert seam.effects == [disk.Write(seam.node(str(root / "old")), 0, b"new")]


def test_buffers_write_on_after_a_short_write(root: Path) -> None:
    with Seam(root).life(faults.SHORT):
        (root / "old").write_bytes(b"all of it")
    assert (root / "old").read_bytes() == b"all of it"


def test_a_fault_that_lasts_ends_after_so_many_calls(root: Path) -> None:
    with Seam(root).life(faults.FULL_FOR_A_WHILE, 2):
        for number in range(10):
            with contextlib.suppress(OSError):
                (root / str(number)).mkdir()
    assert sorted(path.name for path in root.iterdir() if path.name.isdigit()) == ["0", "6", "7", "8", "9"]


class Toy:
    """Four files, one after the other: two calls each. `seen` is what each run left."""

    foreign: Sequence[str] = ("other",)

    def __init__(self) -> None:
        self.seen: list[tuple[dict[str, bytes | None], list[int]]] = []

    def setup(self, root: Path, world: World) -> None:
        """Nothing to set up."""

    async def run(self, root: Path, world: World) -> None:
        for number in range(4):
            with (root / str(number)).open("wb", buffering=0) as file:
                file.write(b"1234")
            world.note("made", number)

    async def check(self, root: Path, world: World) -> None:
        found = dict(disk.look(root))
        assert found.pop("other") == b"other"
        self.seen.append((found, world.all("made")))


def prefixes(torn: bytes | None) -> list[tuple[dict[str, bytes | None], list[int]]]:
    """What is left by a death at each call: at the writes with so much done; and by none."""
    left: list[tuple[dict[str, bytes | None], list[int]]] = []
    for number in range(4):
        whole: dict[str, bytes | None] = {str(n): b"1234" for n in range(number)}
        made = list(range(number))
        left += [] if torn else [(whole, made)]
        left.append(({**whole, str(number): torn or b""}, made))
    return [*left, ({str(n): b"1234" for n in range(4)}, [0, 1, 2, 3])]


def test_the_loop_kills_at_each_call_once_and_nothing_happens_after() -> None:
    toy = Toy()
    assert sweep(toy, faults.KILL, every=True) == 8
    assert toy.seen == prefixes(None)


def test_the_loop_kills_within_each_write() -> None:
    toy = Toy()
    assert sweep(toy, faults.TEAR, every=True) == 4
    assert toy.seen == prefixes(b"12")


def test_the_loop_fails_each_call_once_and_the_process_ends_by_it() -> None:
    toy = Toy()
    assert sweep(toy, faults.EIO, every=True) == 8
    assert toy.seen == prefixes(None)


def test_of_calls_that_are_alike_only_the_last_one_fails() -> None:
    toy = Toy()
    assert sweep(toy, faults.KILL, every=False) == 6
    *left, whole = prefixes(None)
    assert toy.seen == [whole, *left[:2], *left[4:]]  # the calls on the second file are those on the third


def test_a_foreign_file_that_was_touched_is_noticed() -> None:
    class Careless(Toy):
        async def run(self, root: Path, world: World) -> None:
            (root / "other").write_text("other")

    with pytest.raises(AssertionError):
        sweep(Careless(), faults.EIO)


def test_the_locks_of_the_dead_are_free() -> None:
    class Locking(Toy):
        async def run(self, root: Path, world: World) -> None:
            lock = os.open(root / "lock", os.O_RDWR | os.O_CREAT)
            fcntl.flock(lock, fcntl.LOCK_EX)
            (root / "next").mkdir()
            os.close(lock)

        async def check(self, root: Path, world: World) -> None:
            with (root / "lock").open("a") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            world.note("free")

    assert sweep(Locking(), replace(faults.KILL, calls=frozenset({"mkdir"}))) == 1


def test_an_fsync_that_is_tried_again_on_its_descriptor_is_noticed(root: Path) -> None:
    seam = Seam(root)
    with seam.life(replace(faults.EIO, calls=frozenset({"sync"}))):
        fd = os.open(root / "old", os.O_WRONLY)
        with pytest.raises(OSError, match="error"):
            os.fsync(fd)
        again = os.open(root / "old", os.O_WRONLY)
        os.fsync(again)
        assert seam.violations == []
        os.fsync(fd)
        os.close(again)
        os.close(fd)
    assert len(seam.violations) == 1


def test_a_call_that_the_seam_does_not_know_is_noticed(root: Path, tmp_path: Path) -> None:
    seam = Seam(root)
    with seam.life():
        os.symlink(root / "old", tmp_path / "elsewhere")
        os.symlink("old", root / "link")
        _with(root, lambda fd: os.writev(fd, [b"a", b"b"]))
    assert len(seam.violations) == 3  # the first one has a path below the root too


def test_what_is_elsewhere_is_let_through(root: Path, tmp_path: Path) -> None:
    seam = Seam(root)
    with seam.life(faults.EIO):
        (tmp_path / "elsewhere").write_text("x")
        (tmp_path / "elsewhere").rename(tmp_path / "there")
    assert seam.calls == []
    assert (tmp_path / "there").read_text() == "x"


@pytest.mark.parametrize("name", [*PIXEL, *STORAGE])
def test_what_was_written_down_is_what_is_on_the_disk(name: str) -> None:
    scenario = (PIXEL | STORAGE)[name]
    with stage(scenario) as (root, world, seam):
        live(scenario, root, world)
        replayed = disk.Disk(seam.base)
        replayed.replay(seam.effects, lambda count: 0)
        # Of a database that was there before, the last commits may be in SQLite's own log only.
        ours, theirs = (
            {path: content for path, content in tree.items() if "sqlite" not in path or path not in seam.base}
            for tree in (replayed.read(), disk.look(root))
        )
        assert ours == theirs


def test_strace_sees_no_change_that_the_seam_did_not_see(tmp_path: Path) -> None:
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    log = tmp_path / "strace"
    command = ["strace", "-f", "-y", "-s0", "-qq", "-o", str(log), "-e", "trace=" + ",".join(f"?{n}" for n in SYSCALLS)]
    command += [sys.executable, "-m", "tests.seam.traced", str(tmp_path)]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    if "ptrace" in done.stderr.lower():
        pytest.skip("strace may not trace here")
    assert done.returncode == 0, done.stderr
    changes = traced(log.read_text(), str(tmp_path / "root") + "/")
    seen = Counter(done.stdout.splitlines())
    for each in (changes, seen):  # what was opened before a rename has another name in each
        for call in [call for call in each if ".new" in call]:
            each[call.replace(".new", "")] += each.pop(call)
    commits = sum(seen.pop(call) for call in list(seen) if call.startswith("commit "))
    # With synchronous=FULL each commit is synced in SQLite's log before it returns.
    assert changes["sync storage/logs/visits.log.d/ledger.sqlite-wal"] >= commits > 5
    for call in list(changes):
        if "ledger.sqlite" in call:
            del changes[call]
    directory = "sync storage/logs/visits.log.d"  # SQLite syncs it too, for the names of its logs
    assert changes.pop(directory) > seen.pop(directory) > 0
    assert {call: count for call, count in seen.items() if call.split()[0] not in faults.SQL} == dict(changes)
