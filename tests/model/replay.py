"""The real storage code, led along a trace of the model: the same operations in the same order, the same faults, and
after each the same log and the same ledger.

Every system call and commit that the model knows is intercepted. There the code has to be where the trace is; what the
trace says next is let through, fails, or is the end of the process. Only the disk below the page cache is not real: a
power cut puts in place what the model says it leaves.
"""

import errno
import os
import shutil
import sqlite3
import zlib
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, ParamSpec, TypeVar

import pytest

from tests.model.storage_state import State, place
from tests.storage import rig
from tests.storage.rig import SENT_MS, A, Rig, delivery, open_rig
from tracker.core.delivery import Delivery
from tracker.core.log_line import format_line
from tracker.core.message import pack
from tracker.core.visit import decode_line, encode_line, visited_at_text
from tracker.errors import AppendFailed, LogChanged
from tracker.files import fdatasync
from tracker.storage import log_file, recovery, writer
from tracker.storage.ledger import Ledger
from tracker.storage.log_file import LogFile
from tracker.storage.pending import Append
from tracker.visit_log_files import ledger_directory

P = ParamSpec("P")
T = TypeVar("T")

JOURNAL = "abc"  # the letters of the model that are lines of the journal A; capitals are foreign messages


def json_line(visit: str) -> bytes:
    """Of the same length for every visit, and so is its line in the log."""
    return encode_line(visited_at_text(SENT_MS * 1000), f"https://example.org/{visit}", None, "192.0.2.1")


def log_line(visit: str) -> bytes:
    decoded = decode_line(json_line(visit))
    assert decoded is not None
    return format_line(decoded)


JSON_BYTES = len(json_line("a"))
LINE_BYTES = len(log_line("a"))
VISITS = {log_line(visit)[:-1]: visit for visit in "abc123S"}


def to_bytes(content: str) -> bytes:
    """What a content of the model is on the disk: a letter is a line without its newline, the dot that newline."""
    texts = {visit: text for text, visit in VISITS.items()} | {".": b"\n"}
    return b"".join(texts.get(byte) or bytes(1 if at % 2 else LINE_BYTES - 1) for at, byte in enumerate(content))


def to_content(data: bytes) -> str:
    content = ""
    for at in range(0, len(data), LINE_BYTES):
        text, newline = data[at : at + LINE_BYTES - 1], data[at + LINE_BYTES - 1 : at + LINE_BYTES]
        content += VISITS.get(text, "?" if any(text) else "0")
        content += {b"": "", b"\n": ".", b"\0": "0"}[newline]
    return content


def to_delivery(message: str, visits: str) -> Delivery:
    if visits.isupper():
        return delivery(json_line(visits).decode().strip(), {}, message_id=f"foreign-{visits}")
    span = pack(A, JOURNAL.index(place(visits[0])) * JSON_BYTES, b"".join(map(json_line, visits)), compress=True)
    return delivery(span.body, span.attributes, message_id=message)


class Crash(Exception):
    """The process is gone."""


class Replay:
    """Leads the code along `trace`; raises AssertionError where the two part."""

    def __init__(self, path: Path, messages: dict[str, str], trace: list[tuple[str, State]]) -> None:
        self.path = path
        self._messages = messages
        self._trace = trace
        self._at = 0
        self._recovering = False

    # -- along the trace

    @property
    def next(self) -> str:
        """What happens next; what needs nothing of the process is done on the way."""
        while self._at < len(self._trace):
            what = self._trace[self._at][0]
            if what == "somebody removes the log":
                self.path.unlink()
            elif what == "clean pages are evicted":
                self.path.write_bytes(to_bytes(self._trace[self._at][1].log.cache))
            elif not what.startswith("delete"):
                return what
            self._at += 1
        return "end"

    def go(self) -> State:
        self._at += 1
        return self._trace[self._at - 1][1]

    def reach(self, *operations: str) -> str:
        """The code is about to do one of these: what the trace makes of it. Raises Crash when it never comes to it."""
        self.compare()
        what = self.next
        if what in ("end", "SIGKILL") or what.startswith("power cut"):
            raise Crash
        assert what.startswith(operations), f"the code is at {operations}, the model at {what!r}\n{self}"
        self.go()
        return what

    def compare(self) -> None:
        """Log and ledger are what the model says they are."""
        if self._at == 0:
            return
        state = self._trace[self._at - 1][1]
        data = self.path.read_bytes() if self.path.exists() else b""
        assert to_content(data) == state.log.cache, f"the log differs\n{self}"
        stored, size, pending = self._read_ledger()
        expected = state.ledger.pending and (
            state.ledger.pending.offset // 2 * LINE_BYTES,
            len(to_bytes(state.ledger.pending.data)),
            zlib.crc32(to_bytes(state.ledger.pending.data)),
            set(map(place, state.ledger.pending.visits)),
        )
        assert (stored, size, pending) == (
            set(map(place, state.ledger.stored)),
            state.ledger.size // 2 * LINE_BYTES,
            expected,
        ), f"the ledger differs\n{self}"

    def __str__(self) -> str:
        return "\n".join(what for what, _ in self._trace[: self._at + 1])

    # -- the life of the process

    async def run(self) -> None:
        while self.next != "end":
            self.compare()
            if self.next.startswith("power cut"):
                self._cut_power(self.next, self.go())
            else:
                assert self.next.startswith("start")
                await self._live(self.go())
        self.compare()

    async def _live(self, state: State) -> None:
        self._recovering = True
        try:
            async with open_rig(self.path) as storage:
                self._recovering = False
                self.compare()
                assert state.phase != "refused", f"the code starts, the model does not\n{self}"
                storage.on_acknowledge = partial(self.reach, "acknowledge")  # type: ignore[assignment]
                storage.log.file.stream = _File(self, storage.log.file.stream)  # type: ignore[assignment]
                while self.next.startswith(("take", "checkpoint")):
                    await (self._store(storage) if self.next.startswith("take") else storage.writer.checkpoint())
            if self.next in ("stop", "SIGKILL"):
                self.go()
        except Crash:
            if self.next == "SIGKILL":
                self.go()
        except LogChanged:
            if self.next == "the log is gone":
                self.go()
            else:
                assert state.phase == "refused", f"the code does not start, the model does\n{self}"
        except AppendFailed:
            assert "fails" in self._trace[self._at - 1][0], str(self)

    async def _store(self, storage: Rig) -> None:
        messages = self.next.split()[1:]
        state = self.go()
        for message in messages:
            storage.received.put_nowait(to_delivery(message, self._messages[message]))
        batch = await storage.writer.take()
        if not batch.deliveries:
            assert state.phase == "idle", f"the code takes nothing, the model does\n{self}"
            return
        assert len(batch.deliveries) == len(state.batch), f"the code leaves another message than the model\n{self}"
        assert bytes(batch.append.data) == b"".join(map(log_line, state.new)), f"the batch differs\n{self}"
        await storage.writer.retry_while_paused(partial(storage.writer.store, batch))

    def _cut_power(self, what: str, state: State) -> None:
        if self.path.exists():
            self.path.write_bytes(to_bytes(state.log.cache))
        if what.endswith("rolls commits back"):
            shutil.rmtree(ledger_directory(self.path))
            self._saved.rename(ledger_directory(self.path))

    # -- the ledger, as any other process reads it

    @property
    def _saved(self) -> Path:
        return self.path.with_name("ledger-before")

    def _read_ledger(self) -> tuple[set[str], int, Any]:
        file = ledger_directory(self.path) / "ledger.sqlite"
        if not file.exists():
            return set(), 0, None
        db = sqlite3.connect(file)
        try:
            ((size,),) = db.execute("SELECT size FROM log").fetchall() or [(0,)]
            stored = _visits(db, "stored", "seen")
            pending = db.execute("SELECT offset, length, crc32 FROM pending").fetchone()
            return stored, size, pending and (*pending, _visits(db, "pending_range", "pending_seen"))
        finally:
            db.close()

    # -- where the code is intercepted

    def intercept(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(rig, "ThreadPoolExecutor", _Inline)
        monkeypatch.setattr(recovery, "os", _Os(ftruncate=self._ftruncate, fsync=self._fsync, pread=self._pread))
        monkeypatch.setattr(log_file, "os", _Os(ftruncate=self._ftruncate))
        monkeypatch.setattr(recovery, "fdatasync", self._fdatasync)
        monkeypatch.setattr(log_file, "fdatasync", self._fdatasync)
        monkeypatch.setattr(writer, "wait_for_event", self._wait_for_event)
        begin, check = Ledger.begin, LogFile.check_now

        def replayed_begin(ledger: Ledger, append: Append) -> None:
            self._begin(partial(begin, ledger), append)

        def replayed_check(log: LogFile, offset: int, may_be_moved: bool) -> None:
            assert self.next  # the log may have to go first
            check(log, offset, may_be_moved)

        monkeypatch.setattr(Ledger, "begin", replayed_begin)
        monkeypatch.setattr(LogFile, "check_now", replayed_check)

    def _begin(self, begin: Callable[[Append], None], append: Append) -> None:
        if self._recovering:
            what = self.reach("merge", "drop")
        else:
            what = self.reach(*(("commit",) if append.data else ("commit", "checkpoint")))
        if not what.endswith("its fsync fails"):
            return begin(append)
        shutil.copytree(ledger_directory(self.path), self._saved)
        begin(append)
        raise AppendFailed(what)

    def _pread(self, descriptor: int, count: int, offset: int) -> bytes:
        data = os.pread(descriptor, count, offset)
        if self._trace[self._at - 1][1].phase == "rewrite":
            self.reach("write again")
            os.pwrite(descriptor, bytes(count), offset)  # what is not written again is seen to be missing
        return data

    def _ftruncate(self, descriptor: int, size: int) -> None:
        self.reach("cut")
        os.ftruncate(descriptor, size)

    def _fsync(self, descriptor: int) -> None:
        if os.fstat(descriptor).st_ino == self.path.stat().st_ino:  # and not the file that keeps what is cut off
            self._sync(descriptor, "fsync")

    def _fdatasync(self, descriptor: int) -> None:
        self._sync(descriptor, "fdatasync")

    def _sync(self, descriptor: int, *operations: str) -> None:
        if self.reach(*operations).endswith("fails"):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        fdatasync(descriptor)

    async def _wait_for_event(self, event: object, seconds: float) -> bool:
        return self.reach("try again", "give back") == "give back"


class _File:
    """The log's descriptor under aiofiles, with the ways a write can end."""

    def __init__(self, replay: Replay, file: Any) -> None:
        self._replay = replay
        self._file = file

    async def write(self, data: bytes) -> int:
        what = self._replay.reach("append", "no room", "SIGKILL amid")
        if what == "append":
            return int(await self._file.write(data))
        count = int(what.split()[-2])
        part = data[: count // 2 * LINE_BYTES + count % 2 * (LINE_BYTES - 1)]
        written = int(await self._file.write(part))
        if what.startswith("SIGKILL"):
            raise Crash
        if not part:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return written

    async def close(self) -> None:
        await self._file.close()


class _Inline(ThreadPoolExecutor):
    """No thread: a trace waits for nobody, and the machine may be busy."""

    def submit(self, function: Callable[P, T], /, *arguments: P.args, **options: P.kwargs) -> Future[T]:
        future: Future[T] = Future()
        try:
            future.set_result(function(*arguments, **options))
        except BaseException as error:
            future.set_exception(error)
        return future


class _Os(ModuleType):
    """The module `os` with some of its functions replaced."""

    def __init__(self, **replaced: Callable[..., Any]) -> None:
        super().__init__("os")
        self.__dict__.update(os.__dict__, **replaced)


def _visits(db: sqlite3.Connection, ranges: str, seen: str) -> set[str]:
    """The letters of the visits that two tables of the ledger hold."""
    visits = {message_id[-1] for (message_id,) in db.execute(f"SELECT message_id FROM {seen}")}
    for journal, start, end in db.execute(f'SELECT journal, start, "end" FROM {ranges}'):
        assert (journal, start % JSON_BYTES, end % JSON_BYTES) == (A, 0, 0)
        visits.update(JOURNAL[start // JSON_BYTES : end // JSON_BYTES])
    return visits
