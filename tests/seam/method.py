"""The SQLite method: one scenario again and again, with a fault at the first call, the second, until none is met.

A scenario sets the disk up, runs one life of a process on it, and checks afterwards, by a life without faults, that
the promise holds. To add one, write the three functions and let `sweep` have it. What the world outside saw is in
`World`, which a SIGKILL does not take; files of others lie beside ours and must not change.
"""

import asyncio
import gc
import itertools
import json
import os
import random
import re
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from tests.seam import disk
from tests.seam.faults import Fault
from tests.seam.seam import Seam
from tracker.errors import TrackerError

LONG = os.environ.get("TRACKER_SOAK") == "1"
"""Set for long runs: every fault, more seeds, more states of a power cut."""
SEED = int(os.environ.get("TRACKER_SEED", "0"))
"""Where the seeds begin; a failure names its own."""
HANG_SECONDS = 120


class World:
    """What everybody outside the process saw, in the order they saw it."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND)
        self._read: list[tuple[str, Any]] = []
        self._read_bytes = 0
        self.seam: Seam | None = None

    def note(self, what: str, value: Any = None) -> None:
        os.write(self._fd, json.dumps([what, value]).encode() + b"\n")
        if self.seam is not None:
            self.seam.note(what, value)

    def everything(self) -> list[tuple[str, Any]]:
        new = os.pread(self._fd, os.fstat(self._fd).st_size - self._read_bytes, self._read_bytes)
        self._read += [(what, value) for what, value in map(json.loads, new.splitlines())]
        self._read_bytes += len(new)
        return self._read

    def all(self, what: str) -> list[Any]:
        return [value for noted, value in self.everything() if noted == what]

    def close(self) -> None:
        os.close(self._fd)


class Inline(Executor):
    """A thread pool without threads, for what is called in turn anyway: thousands of lives wait for no switch."""

    def __init__(self, *arguments: object, **options: object) -> None:
        """As a pool is made."""

    def submit(self, function: Callable[..., Any], /, *arguments: Any, **options: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(function(*arguments, **options))
        except BaseException as error:
            future.set_exception(error)
        return future


class Scenario(Protocol):
    foreign: Sequence[str]
    """Paths of files that are not ours, in the places where they might be."""

    def setup(self, root: Path, world: World) -> None:
        """The disk before the life under test."""

    async def run(self, root: Path, world: World) -> None:
        """One life of the process; a TrackerError or OSError ends it as it would the real one."""

    async def check(self, root: Path, world: World) -> None:
        """What a next life, without faults, makes of it; asserts the promise."""


@contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


@contextmanager
def stage(scenario: Scenario) -> Iterator[tuple[Path, World, Seam]]:
    """A fresh root with the scenario set up."""
    with _folder() as folder:
        root = folder / "root"
        root.mkdir()
        world = World(folder / "world")
        try:
            scenario.setup(root, world)
            plant(scenario, root)
            yield root, world, begin(root, world)
        finally:
            world.close()


def begin(root: Path, world: World) -> Seam:
    """Put a seam before the root as it is now."""
    world.seam = seam = Seam(root)
    seam.on_failed_sync = lambda path: world.note("sync failed", path)
    return seam


def live(scenario: Scenario, root: Path, world: World, fault: Fault | None = None, at: int = 1) -> bool:
    """One life of the process; whether it met the fault."""
    seam = world.seam
    assert seam is not None
    if fault is not None and fault.kills:
        killed = _in_child(seam, world, lambda: _live(scenario, root, world, seam, fault, at))
        if killed:
            world.note("died", f"{fault} at {at}")
        return killed
    _live(scenario, root, world, seam, fault, at)
    assert seam.violations == []
    return seam.hit


def _live(scenario: Scenario, root: Path, world: World, seam: Seam, fault: Fault | None, at: int) -> None:
    try:
        with seam.life(fault, at):
            asyncio.run(scenario.run(root, world))
    except (TrackerError, OSError) as error:
        if fault is None:
            raise
        world.note("ended", repr(error))


def _in_child(seam: Seam, world: World, life: Callable[[], None]) -> bool:
    """Let a forked child live; whether it was killed. Nothing of it is left then but the files and the notes."""
    child = os.fork()
    if child == 0:
        gc.disable()  # it would copy every page of the parent
        signal.alarm(HANG_SECONDS)
        try:
            seam.expendable = True
            life()
            os._exit(0)
        except BaseException:
            world.note("broke", traceback.format_exc())
        os._exit(1)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
        return True
    assert status == 0, (status, *world.all("broke"))
    return False


def sweep(scenario: Scenario, fault: Fault, *, every: bool = LONG) -> int:
    """The fault at every call that it can befall, one a run; how many runs met it.

    A life repeats itself: it makes the same calls on the same files for each batch. Unless `every` is set, of the calls
    that are alike only the last one meets the fault.
    """
    hits = 0
    for at in itertools.count(1) if every else _last_of_each_kind(scenario, fault):
        with telling(f"{fault} at call {at}"), stage(scenario) as (root, world, _):
            hit = live(scenario, root, world, fault, at)
            verify(scenario, root, world)
            hits += hit
            if every and not hit:
                break
    return hits


def _last_of_each_kind(scenario: Scenario, fault: Fault) -> list[int]:
    """The numbers, from 1 on, of the calls of a life without faults that the fault can befall, without those alike.

    Calls are alike when they, the two before and the two behind are the same on the same files. Numbers and ids in the
    names of files do not count.
    """
    with telling("no fault"), stage(scenario) as (root, world, seam):
        live(scenario, root, world)
        calls = [call for call in seam.calls if call.partition(" ")[0] in fault.calls]
        verify(scenario, root, world)
    kinds = ["", "", *(re.sub(r"[0-9a-f]{8,}|[0-9]+", "", call) for call in calls), "", ""]
    return sorted({tuple(kinds[at - 1 : at + 4]): at for at in range(1, len(calls) + 1)}.values())


def stumble(scenario: Scenario, faults: Sequence[Fault], seed: int, lives: int = 4) -> None:
    """Several lives in a row, each with some fault at some call, drawn by `seed`."""
    rng = random.Random(seed)
    with telling(f"TRACKER_SEED={seed}"), stage(scenario) as (root, world, _):
        for _ in range(lives):
            begin(root, world)
            live(scenario, root, world, rng.choice(faults), int(rng.expovariate(0.05)) + 1)
        verify(scenario, root, world)


def cut_power(scenario: Scenario, world: World, at: int, *, states: int, seed: int) -> None:
    """The power goes after the `at`-th effect: the scenario's check on each of so many states of the disk, with a world
    that saw what was to be seen until then."""
    assert world.seam is not None
    effects = world.seam.effects[:at]
    for number, tree in enumerate(disk.after_power_cut(world.seam.base, effects, states=states, seed=seed)):
        with telling(f"TRACKER_SEED={seed}, power cut after effect {at}, state {number}"), _folder() as folder:
            disk.put(tree, folder / "root")
            after = World(folder / "world")
            for effect in effects:
                if isinstance(effect, disk.Note):
                    after.note(effect.what, effect.value)
            try:
                asyncio.run(scenario.check(folder / "root", after))
            finally:
                after.close()


def cuts(effects: Sequence[disk.Effect]) -> list[int]:
    """Where a power cut makes a difference: after every effect on the disk, and at the end."""
    return [at for at, effect in enumerate(effects) if not isinstance(effect, disk.Note)] + [len(effects)]


def verify(scenario: Scenario, root: Path, world: World) -> None:
    """The scenario's own check, and that nothing of others was touched, by any life or by the check's."""
    asyncio.run(scenario.check(root, world))
    for path in scenario.foreign:
        file = root / path
        assert file.is_file(), f"{path} is gone, and it was not ours"
        assert (file.read_text(), file.stat().st_mtime_ns, file.stat().st_mode & 0o777) == (path, 0, 0o600)


def plant(scenario: Scenario, root: Path) -> None:
    """Put the foreign files there, old enough for any sweep of what nobody uses."""
    for path in scenario.foreign:
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(path)
        file.chmod(0o600)
        for each in (file, *file.parents):
            if each != root and each.is_relative_to(root):
                os.utime(each, ns=(0, 0))


@contextmanager
def telling(where: str) -> Iterator[None]:
    """Say of a failure with what it happened, so that it can be repeated."""
    try:
        yield
    except BaseException as error:
        error.add_note(f"with {where}")
        print(f"with {where}", file=sys.stderr)
        raise
