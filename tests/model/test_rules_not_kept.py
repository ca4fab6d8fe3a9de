"""Rules that the model finds necessary and the code does not keep yet. Each test here begins to fail, as an unexpected
success, when it does: then it moves to the tests of its module, and the name goes out of `replay.LACKING`.
"""

import errno
import os
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.storage.rig import A, open_rig, span
from tracker.errors import StorageFull
from tracker.files import fdatasync
from tracker.storage import visit_log
from tracker.storage.ledger import Append, Ledger


@pytest.mark.xfail(strict=True, reason="rule 2f: a power cut may bring back what was cut, and the start is refused")
async def test_the_cut_of_a_rolled_back_append_is_made_durable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "visits.log"
    synced: list[int] = []

    def recorded(descriptor: int) -> None:
        synced.append(os.fstat(descriptor).st_size)
        fdatasync(descriptor)

    class FullDisk:
        def __init__(self, file: Any) -> None:
            self.file = file

        async def write(self, data: bytes) -> int:
            await self.file.write(data[: len(data) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        async def close(self) -> None:
            await self.file.close()

    monkeypatch.setattr(visit_log, "fdatasync", recorded)
    async with open_rig(path) as rig:
        await rig.write(span(A, 0, 2))
        before = path.stat().st_size
        synced.clear()
        rig.log._file = FullDisk(rig.log._file)  # type: ignore[assignment]
        with pytest.raises(StorageFull):
            await rig.write(span(A, 2, 5))
    assert path.stat().st_size == before
    assert synced == [before]


@pytest.mark.xfail(
    strict=True, reason="rule 1a: later commits build on pages that a failed fsync left in the cache only"
)
def test_a_start_makes_durable_what_it_finds_in_the_ledger(tmp_path: Path) -> None:
    (tmp_path / "first").mkdir()
    first = Ledger(tmp_path / "first" / "ledger.sqlite")
    first.adopt(0, 1)
    first.begin(Append(data=bytearray(b"a\n"), ranges={A: [(0, 2)]}))  # its fsync failed, say, and the process died
    second_dir = shutil.copytree(tmp_path / "first", tmp_path / "second")
    first.close()
    second = Ledger(second_dir / "ledger.sqlite")
    assert second.pending is not None
    without_wal = tmp_path / "without-wal.sqlite"
    shutil.copy(second_dir / "ledger.sqlite", without_wal)  # what of it does not hang on the write-ahead log
    second.close()
    with closing(sqlite3.connect(without_wal)) as db:
        assert db.execute("SELECT length FROM pending").fetchall() == [(2,)]
