"""The canary: one visit of the doctor's own, followed from the answer to its line, and the time of each hop.

It is known by its user agent, `tracker-doctor/<version> <token>`; reports leave it out. It is followed by what the
services leave behind anyway: its bytes in a journal, the offset that the publisher noted, the messages storage has
counted, and the line. So it needs no special path, and proves the one that visitors take.
"""

import asyncio
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from tracker import __version__
from tracker.config import PixelConfig, StorageConfig
from tracker.core.message import JOURNAL_ID
from tracker.core.visit import CANARY_AGENT
from tracker.operations.findings import Finding, fault, ok, unknown
from tracker.operations.service_checks import Metrics, address, fetch
from tracker.pixel.journal import PUBLISHED

LOOK_SECONDS = 0.02
TAIL_BYTES = 1 << 20  # of a segment, in which the canary is looked for
RECEIVED = "tracker_storage_messages_received_total"


@dataclass
class Flight:
    """When the canary was where, by the monotonic clock; None where it was not seen."""

    token: str
    sent: float
    answered: float | None = None
    accepted: float | None = None
    received: float | None = None
    line: float | None = None
    ip: str = ""
    unseen: dict[str, str] = field(default_factory=dict)  # hops that cannot be watched from here, and why


async def fly(pixel: PixelConfig, storage: StorageConfig | None, *, url: str | None, within: float) -> list[Finding]:
    """Send a canary and follow it for at most `within` seconds; one finding a hop."""
    token = secrets.token_hex(8)
    watchers: list[_Watcher] = [_Outbox(Path(pixel.outbox.dir), token)]
    if storage is not None:
        watchers += [_Received(storage), _Log(Path(storage.log.path), token)]
    for watcher in watchers:
        await watcher.prepare()
    flight = Flight(token, time.monotonic())
    url = url or f"{address(pixel.http.host, pixel.http.port)}{pixel.http.path}"
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=within)) as session,
            session.get(url, headers={"User-Agent": f"{CANARY_AGENT}{__version__} {token}"}) as reply,
        ):
            body, kind = await reply.read(), reply.headers.get("Content-Type", "")
            status = reply.status
    except (aiohttp.ClientError, OSError) as error:
        return [_no_gif(url, f"{type(error).__name__}: {error}")]
    if status != 200 or not body.startswith(b"GIF89a"):
        return [_no_gif(url, f"{status} {kind}")]
    flight.answered = time.monotonic()
    await asyncio.gather(*(watcher.watch(flight, flight.answered + within) for watcher in watchers))
    return list(_hops(flight, within, followed=storage is not None))


class _Watcher:
    """Waits for one trace of the canary."""

    hop: str

    async def prepare(self) -> None:
        """What has to be known before the canary is sent."""

    async def look(self) -> bool:
        """Whether the trace is there."""
        raise NotImplementedError  # each kind looks for a trace of its own

    async def watch(self, flight: Flight, until: float) -> None:
        try:
            while time.monotonic() < until:
                if await self.look():
                    setattr(flight, self.hop, time.monotonic())
                    self.tell(flight)
                    return
                await asyncio.sleep(LOOK_SECONDS)
        except (OSError, aiohttp.ClientError) as error:
            flight.unseen[self.hop] = f"{error}"

    def tell(self, flight: Flight) -> None:
        """What the trace says besides."""


class _Outbox(_Watcher):
    """SNS has accepted it once the publisher's noted offset in its journal is behind it, or the journal is gone."""

    hop = "accepted"

    def __init__(self, directory: Path, token: str) -> None:
        self._directory = directory
        self._token = token.encode()
        self._journal: Path | None = None
        self._end = 0

    async def look(self) -> bool:
        return await asyncio.to_thread(self._look)

    def _look(self) -> bool:
        if self._journal is None:
            self._find()
            if self._journal is None:
                return False
        try:
            return int((self._journal / PUBLISHED).read_bytes() or b"0") >= self._end
        except FileNotFoundError:
            return not self._journal.exists()

    def _find(self) -> None:
        for journal in self._directory.iterdir():
            if not JOURNAL_ID.fullmatch(journal.name):
                continue
            try:
                segment = max(file for file in journal.iterdir() if file.name.isdecimal())
                size = segment.stat().st_size
                with segment.open("rb") as file:
                    tail = max(0, size - TAIL_BYTES)
                    file.seek(tail)
                    data = file.read(TAIL_BYTES * 2)
            except (FileNotFoundError, ValueError):
                continue  # published and removed while we looked
            if (at := data.find(self._token)) >= 0 and (newline := data.find(b"\n", at)) >= 0:
                self._journal, self._end = journal, int(segment.name) + tail + newline + 1


class _Received(_Watcher):
    """The first message that storage counts after the canary: on a busy queue perhaps not yet the canary's own."""

    hop = "received"

    def __init__(self, config: StorageConfig) -> None:
        self._admin = config.admin
        self._before = 0.0

    async def prepare(self) -> None:
        try:
            self._before = await self._count()
        except (OSError, aiohttp.ClientError):
            pass  # the watch will say so

    async def look(self) -> bool:
        return await self._count() > self._before

    async def _count(self) -> float:
        return Metrics((await fetch(self._admin, "/metrics"))[1]).total(RECEIVED)


class _Log(_Watcher):
    """The line, in what the log has grown by; in a new log from its begin."""

    hop = "line"

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
            pass  # not there yet, or not for us: the watch will say so

    async def look(self) -> bool:
        return await asyncio.to_thread(self._look)

    def _look(self) -> bool:
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

    def tell(self, flight: Flight) -> None:
        flight.ip = self._found.decode("ascii", "backslashreplace").rpartition("|")[2]


def _hops(flight: Flight, within: float, *, followed: bool) -> list[Finding]:
    assert flight.answered is not None
    findings = [ok("canary", f"answered with the GIF after {_ms(flight.answered - flight.sent)}")]
    hops: list[tuple[str, str, Callable[[], Finding]]] = [
        ("accepted", "accepted by SNS", _not_accepted),
        ("received", "received by storage from SQS", _not_received),
        ("line", "a line of the visit log", _no_line),
    ]
    before = flight.answered
    for hop, words, missing in hops if followed else hops[:1]:
        at = getattr(flight, hop)
        if at is not None:
            at = max(at, before)
            findings.append(ok("canary", f"{words} after {_ms(at - before)}"))
            before = at
        elif hop in flight.unseen:
            findings.append(
                unknown("canary", f"{words}: cannot be seen from here: {flight.unseen[hop]}", fix=_AS_THE_USER)
            )
        elif flight.line is None:
            findings.append(missing())
            break
    if flight.line is not None:
        total = _ms(flight.line - flight.sent)
        findings.append(ok("canary", f"from the request to its line {total}, logged with the address {flight.ip}"))
    elif not followed and flight.accepted is not None:
        findings.append(_on_the_other_host(flight.token))
    return findings


_AS_THE_USER = "run the doctor where the service runs, as its user: sudo -u tracker tracker doctor …"


def _no_gif(url: str, what: str) -> Finding:
    return fault(
        "canary",
        f"no GIF from {url}: {what}",
        why="visitors are answered no better",
        fix="is the pixel running, is the URL right (http.path), does what is in front of it let it through?",
    )


def _not_accepted() -> Finding:
    return fault(
        "canary",
        "answered, but SNS did not accept it in time (or it was not recorded)",
        why="visits wait in the outbox, or are discarded",
        fix="see what the pixel says above; a rate limit or a privacy signal discards a canary too",
    )


def _not_received() -> Finding:
    return fault(
        "canary",
        "accepted by SNS, but storage received nothing in time",
        why="SNS or SQS holds it, delivers it elsewhere, or to nobody",
        fix="see subscription, filter and policy above; does anything else read this queue?",
    )


def _no_line() -> Finding:
    return fault(
        "canary",
        "no line of it in the visit log in time",
        why="it is in the queue, or storage cannot write, or writes another log than log.path",
        fix="see what storage says above; is this the configuration that it runs with?",
    )


def _on_the_other_host(token: str) -> Finding:
    return ok("canary", f"without --storage its line is not looked for; on storage's host: grep -c {token} <log.path>")


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms"
