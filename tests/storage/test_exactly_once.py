"""Whatever overlaps, comes again, or is cut short by a crash: every visit is one line."""

import asyncio
import errno
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.seam.method import LONG
from tests.storage.rig import A, B, delivery, logged, open_rig, pages, span
from tracker.core.delivery import Delivery
from tracker.errors import StorageFull
from tracker.storage.log_file import LogFile

pytestmark = [pytest.mark.slow, pytest.mark.unmeasured]

LINES = 12
FAULTS = ("none", "checkpointed", "committed", "torn", "written", "synced", "acknowledging", "full", "short")


class Crash(Exception):
    """The process is gone: nothing after it happens, neither an acknowledgement nor a checkpoint."""


class ShortStream:
    """Writes only a share of what it is given: the disk has no room for all of it."""

    def __init__(self, inner: Any, share: float) -> None:
        self.inner = inner
        self.share = share

    async def write(self, data: bytes) -> int:
        return int(await self.inner.write(data[: int(self.share * (len(data) - 1))]))

    async def close(self) -> None:
        await self.inner.close()


class FaultyFile(LogFile):
    """The real file, with one fault before, amid or after its work."""

    def __init__(self, inner: LogFile, fault: str, share: float) -> None:
        self.__dict__.update(inner.__dict__)
        self.fault = fault
        self.share = share
        if fault == "short":
            self.stream = ShortStream(inner.stream, share)  # type: ignore[assignment]

    async def append(self, offset: int, data: bytes | bytearray) -> None:
        if self.fault == "committed":
            raise Crash
        if self.fault == "torn":
            await super().append(offset, data[: int(self.share * len(data))])
            raise Crash
        if self.fault == "full":
            raise StorageFull(f"{errno.ENOSPC}")
        await super().append(offset, data)
        if self.fault == "written":
            raise Crash

    async def sync(self) -> None:
        await super().sync()
        if self.fault == "synced":
            raise Crash


Span = tuple[str, int, int]

spans = st.tuples(st.sampled_from([A, B]), st.integers(0, LINES - 1), st.integers(1, LINES)).map(
    lambda s: (s[0], s[1], min(LINES, s[1] + s[2]))
)
legacy = st.tuples(st.just("legacy"), st.integers(0, 3), st.just(0))
rounds = st.lists(
    st.tuples(
        st.lists(st.one_of(spans, legacy), min_size=1, max_size=5),
        st.sampled_from(FAULTS),
        st.floats(0, 1),
        st.booleans(),
    ),
    max_size=8,
)


def crash() -> None:
    raise Crash


async def live(path: Path, script: list[tuple[list[Span], str, float, bool]]) -> tuple[list[Span], set[int]]:
    """Go through the script; what was acknowledged, and which messages of the legacy .NET pixel were sent."""
    acknowledged: list[Span] = []
    sent_legacy: set[int] = set()
    everything: list[Span] = [(name, 0, LINES) for name in (A, B)]
    queue: list[Span] = []
    for batch, fault, share, reopen in [*script, (everything, "none", 0.0, True)]:
        sent_legacy.update(first for name, first, _ in batch if name == "legacy")
        queue += batch
        async with open_rig(path) as rig:
            file = rig.log.file
            for step in (fault, "none") if not reopen else (fault,):
                rig.log.file = FaultyFile(file, step, share)
                rig.on_acknowledge = crash if step == "acknowledging" else lambda: None
                if step == "checkpointed":
                    await rig.call(rig.ledger.checkpoint)
                try:
                    await rig.write(*map(_delivered, queue))
                except StorageFull:
                    continue  # the same process tries again, or another does
                except Crash:
                    break
                file.ends_mid_line = rig.log.ends_mid_line
                acknowledged += queue
                queue = batch if share > 0.5 else []  # SQS may bring a deleted message again
    assert not queue
    return acknowledged, sent_legacy


def _delivered(what: Span) -> Delivery:
    name, first, last = what
    if name != "legacy":
        return span(name, first, last)
    body = f'{{"Referer":"https://legacy.example/{first}","IpAddress":"192.0.2.9","VisitedAt":"2023-12-10T22:22:43Z"}}'
    return delivery(body, {}, message_id=f"legacy-{first}")


@settings(max_examples=2_000 if LONG else 120)
@given(script=rounds)
def test_every_visit_is_one_line(script: list[tuple[list[Span], str, float, bool]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "visits.log"
        acknowledged, sent_legacy = asyncio.run(live(path, script))
        legacy_pages = [f"https://legacy.example/{number}" for number in sent_legacy]
        assert sorted(logged(path)) == sorted(pages(A, 0, LINES) + pages(B, 0, LINES) + legacy_pages)
        assert path.read_bytes().endswith(b"\n")
        assert acknowledged
