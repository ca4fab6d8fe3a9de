"""The gauges that are read every ten seconds: a failure of one does not stop the others."""

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.metrics import value
from tests.storage.rig import A, open_rig, span
from tests.waiting import until
from tracker import telemetry
from tracker.errors import AppendFailed
from tracker.owner_thread import OwnerThread
from tracker.storage import gauges


async def test_a_ledger_that_cannot_be_read_stops_no_other_figure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gauges, "UPDATE_SECONDS", 0.01)
    looks = 0

    class Broken:
        def gaps(self) -> None:
            nonlocal looks
            looks += 1
            raise AppendFailed("it cannot be read")

    telemetry.LOG_FREE_BYTES.set(-1)
    with ThreadPoolExecutor(1) as executor:
        watching = asyncio.create_task(gauges.update(Broken(), tmp_path / "visits.log", OwnerThread(executor)))  # type: ignore[arg-type]
        await until(lambda: looks > 1 and value(telemetry.LOG_FREE_BYTES) > 0)
        watching.cancel()
        await asyncio.wait([watching])


async def test_gaps_are_shown_though_the_disk_cannot_be_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(path: object) -> None:
        raise OSError("no such disk")

    monkeypatch.setattr(gauges, "UPDATE_SECONDS", 0.01)
    monkeypatch.setattr(os, "statvfs", broken)
    async with open_rig(tmp_path / "visits.log") as rig:
        await rig.write(span(A, 2, 3))
        missing = await rig.call(rig.ledger.gaps)
        telemetry.MISSING_BYTES.set(-1)
        watching = asyncio.create_task(gauges.update(rig.ledger, tmp_path / "visits.log", rig.thread))
        await until(lambda: value(telemetry.MISSING_BYTES) >= 0)
        shown = value(telemetry.MISSING_BYTES), value(telemetry.GAPPED_JOURNALS)
        assert shown == missing
        watching.cancel()
        await asyncio.wait([watching])
