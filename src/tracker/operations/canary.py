"""The canary: a visit that the doctor sends and follows from the answer to its line, with the time of each step.

Its user agent is `tracker-doctor/<version> <token>`, so it can be recognised, and reports leave it out. The services
treat it like every other visit. The doctor sees each step by something that the services do for every visit:

1. The pixel answers with the GIF.
2. The committed offset of the journal has reached the end of the canary's line: SNS has accepted the canary.
3. Storage counts one more received message.
4. The visit log has a line with the canary's token.

Where several storages share a topic, the canary's journal may belong to another one. Then it is not followed beyond
step 2.
"""

import asyncio
import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path

import aiohttp

from tracker import __version__
from tracker.config import PixelConfig, StorageConfig
from tracker.core.visit import CANARY_AGENT
from tracker.operations.canary_findings import Trace, findings_of, no_gif
from tracker.operations.findings import Finding
from tracker.operations.service_checks import Metrics, address, fetch
from tracker.pixel.outbox_files import committed_offset, journals, segment_path, segments

POLL_SECONDS = 0.02  # between two checks of one step
TAIL_BYTES = 1 << 20  # of a segment, in which the canary is searched
RECEIVED = "tracker_storage_messages_received_total"


async def trace(
    pixel: PixelConfig,
    storage: StorageConfig | None,
    *,
    url: str | None,
    within: float,
    elsewhere: Callable[[str], str],
) -> list[Finding]:
    """Send a canary and follow it for at most `within` seconds; returns one finding a step.

    `elsewhere` says to which other queues the visits of a journal go; an empty text means to the queue of `storage`.
    """
    token = secrets.token_hex(8)
    outbox = OutboxWatcher(Path(pixel.outbox.dir), token)
    watchers: list[Watcher] = [outbox]
    if storage is not None:
        watchers += [_Received(storage), _Log(Path(storage.log.path), token)]
    for watcher in watchers:
        await watcher.prepare()
    seen = Trace(token, time.monotonic())
    direct = url is None
    url = url or f"{address(pixel.http.host, pixel.http.port)}{pixel.http.path}"
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=within)) as session,
            session.get(url, headers={"User-Agent": f"{CANARY_AGENT}{__version__} {token}"}) as reply,
        ):
            body, kind = await reply.read(), reply.headers.get("Content-Type", "")
            status = reply.status
    except (aiohttp.ClientError, OSError) as error:
        return [no_gif(url, f"{type(error).__name__}: {error}")]
    if status != 200 or not body.startswith(b"GIF89a"):
        return [no_gif(url, f"{status} {kind}")]
    seen.answered = time.monotonic()
    async with asyncio.TaskGroup() as group:
        first, *others = [group.create_task(each.watch(seen, seen.answered + within)) for each in watchers]
        await first
        if outbox.journal is not None and (queues := elsewhere(outbox.journal)):
            seen.elsewhere = f"journal {outbox.journal}, whose visits go to {queues}"
            for task in others:
                task.cancel()
    return list(findings_of(seen, followed=storage is not None, direct=direct))


class Watcher(ABC):
    """Waits until one step of the canary can be seen."""

    step: str

    async def prepare(self) -> None:
        """Note the state before the canary is sent; `is_seen` compares with it. Most steps need none."""
        return

    @abstractmethod
    async def is_seen(self) -> bool:
        """Whether the step can be seen now. Raises OSError or aiohttp.ClientError if that cannot be checked."""

    async def watch(self, seen: Trace, until: float) -> None:
        try:
            while time.monotonic() < until:
                if await self.is_seen():
                    setattr(seen, self.step, time.monotonic())
                    self.note(seen)
                    return
                await asyncio.sleep(POLL_SECONDS)
        except (OSError, aiohttp.ClientError) as error:
            seen.unseen[self.step] = f"{error}"

    def note(self, seen: Trace) -> None:
        """Note details of the step that was seen. Most steps have none."""
        return


class OutboxWatcher(Watcher):
    """SNS has accepted it when the committed offset has reached the end of its line, or its journal is removed."""

    step = "accepted"

    def __init__(self, directory: Path, token: str) -> None:
        self._directory = directory
        self._token = token.encode()
        self._journal: Path | None = None
        self._end = 0

    @property
    def journal(self) -> str | None:
        """The id of the canary's journal, once its line was seen there."""
        return self._journal.name if self._journal is not None else None

    async def is_seen(self) -> bool:
        return await asyncio.to_thread(self._check)

    def _check(self) -> bool:
        if self._journal is None:
            self._find()
            if self._journal is None:
                return False
        return committed_offset(self._journal) >= self._end or not self._journal.exists()

    def _find(self) -> None:
        for journal in journals(self._directory):
            try:
                start = max(segments(journal))
                segment = segment_path(journal, start)
                size = segment.stat().st_size
                with segment.open("rb") as file:
                    tail = max(0, size - TAIL_BYTES)
                    file.seek(tail)
                    data = file.read(TAIL_BYTES * 2)
            except (FileNotFoundError, ValueError):
                continue  # published and removed since it was listed
            if (at := data.find(self._token)) >= 0 and (newline := data.find(b"\n", at)) >= 0:
                self._journal, self._end = journal, start + tail + newline + 1


class _Received(Watcher):
    """The first message that storage receives after the canary was sent. On a busy queue it may hold earlier visits."""

    step = "received"

    def __init__(self, config: StorageConfig) -> None:
        self._admin = config.admin
        self._before = 0.0

    async def prepare(self) -> None:
        try:
            self._before = await self._count()
        except (OSError, aiohttp.ClientError):
            pass  # `watch` reports it

    async def is_seen(self) -> bool:
        return await self._count() > self._before

    async def _count(self) -> float:
        return Metrics((await fetch(self._admin, "/metrics"))[1]).total(RECEIVED)


class _Log(Watcher):
    """The line: in what was appended since the canary was sent, or anywhere in the log if it was rotated since."""

    step = "line"

    def __init__(self, path: Path, token: str) -> None:
        self._path = path
        self._token = token.encode()
        self._inode = self._offset = 0
        self._found = b""

    async def prepare(self) -> None:
        try:
            status = self._path.stat()
            self._inode, self._offset = status.st_ino, status.st_size
        except OSError:
            pass  # it does not exist yet, or may not be read: `watch` reports it

    async def is_seen(self) -> bool:
        return await asyncio.to_thread(self._check)

    def _check(self) -> bool:
        try:
            with self._path.open("rb") as log:
                status = self._path.stat()
                if status.st_ino != self._inode or status.st_size < self._offset:
                    self._inode, self._offset = status.st_ino, 0
                log.seek(self._offset)
                data = log.read()
        except FileNotFoundError:
            return False
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole)
        self._found = next((line for line in whole.splitlines() if self._token in line), b"")
        return bool(self._found)

    def note(self, seen: Trace) -> None:
        seen.ip = self._found.decode("ascii", "backslashreplace").rpartition("|")[2]
