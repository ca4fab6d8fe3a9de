"""The doctor sees in the files of an outbox that SNS has accepted the canary."""

from pathlib import Path

import pytest

from tracker.operations.canary import OutboxWatcher
from tracker.operations.canary_findings import Trace, findings_of

TOKEN = "0123456789abcdef"


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    """A journal whose second segment holds the canary from offset 200 to 250."""
    folder = tmp_path / ("a" * 32)
    folder.mkdir()
    (folder / f"{0:020d}").write_bytes(b"x" * 99 + b"\n")
    canary = f'{{"UserAgent":"tracker-doctor {TOKEN}"}}'.encode().ljust(49) + b"\n"
    (folder / f"{100:020d}").write_bytes(b"y" * 99 + b"\n" + canary + b"z" * 9 + b"\n")
    (folder / "lock").touch()
    return folder


@pytest.mark.parametrize(("published", "accepted"), [(0, False), (200, False), (249, False), (250, True), (260, True)])
async def test_it_is_accepted_once_the_published_offset_is_behind_it(
    journal: Path, published: int, accepted: bool
) -> None:
    (journal / "published").write_text(f"{published:020d}")
    assert await OutboxWatcher(journal.parent, TOKEN).is_seen() is accepted


async def test_it_is_not_before_anything_was_published(journal: Path) -> None:
    assert not await OutboxWatcher(journal.parent, TOKEN).is_seen()


async def test_a_journal_that_is_wholly_published_and_gone_took_it_along(journal: Path) -> None:
    (journal / "published").write_text(f"{0:020d}")
    watching = OutboxWatcher(journal.parent, TOKEN)
    assert not await watching.is_seen()
    for file in journal.iterdir():
        file.unlink()
    journal.rmdir()
    assert await watching.is_seen()


async def test_another_journal_and_a_line_without_its_end_are_not_it(journal: Path) -> None:
    (journal / "published").write_text(f"{10_000:020d}")
    assert not await OutboxWatcher(journal.parent, "f" * 16).is_seen()
    segment = journal / f"{100:020d}"
    segment.write_bytes(segment.read_bytes()[:120])
    assert not await OutboxWatcher(journal.parent, TOKEN).is_seen()


@pytest.mark.parametrize("direct", [True, False])
def test_it_says_whether_it_passed_the_proxies_in_front(direct: bool) -> None:
    seen = Trace(TOKEN, 0.0, answered=0.1, accepted=0.2, received=0.3, line=0.4, ip="192.0.2.1")
    *_, last = findings_of(seen, followed=True, direct=direct)
    assert "logged with the address 192.0.2.1" in last.what
    assert ("it went to the pixel directly" in last.what) is direct
