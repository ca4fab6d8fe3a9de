"""`tracker import --published` brings back what SNS had accepted, as far as the outbox still holds it."""

from pathlib import Path

import pytest

from tests.fake_aws.in_memory import FakeTopic
from tests.pixel.journals import journal_with, line
from tests.storage.rig import delivery, logged, open_rig
from tracker import cli
from tracker.core.message import Message, pack
from tracker.operations.bring_back import bring_back
from tracker.operations.republishing import Import
from tracker.pixel import outbox_files
from tracker.pixel.outbox import Outbox
from tracker.storage.ledger_reader import open_copy
from tracker.visit_log_files import ledger_path


async def imported(*paths: Path) -> tuple[Import, list[Message]]:
    topic, done = FakeTopic(), Import()
    await bring_back(paths, topic, done, published=True)
    return done, topic.accepted


async def test_the_outbox_of_a_running_pixel_is_read_from_its_oldest_segment_without_an_end_marker(
    tmp_path: Path,
) -> None:
    running = Outbox(tmp_path)
    running.open()
    lines = [line(each) for each in range(40)]
    journal = journal_with(tmp_path, *lines, segment_bytes=1_024)
    outbox_files.segment_path(journal.path, 0).unlink()  # published, and removed as the publisher does it
    first, *_, last = outbox_files.segments(journal.path)
    outbox_files.write_committed_offset(journal.path, last)
    with outbox_files.segment_path(journal.path, last).open("ab") as segment:
        segment.write(b'{"Referer":"not answered yet')
    for path in (tmp_path, journal.path):
        done, accepted = await imported(path)
        assert (done.exit_status, {each.journal for each in accepted}) == (0, {journal.path.name})
        assert [each.start for each in accepted] == [first, *(each.end for each in accepted[:-1])]
        assert accepted[-1].end == len(b"".join(lines))
        assert not [each for each in accepted if "Closed" in each.attributes]
    journal.close()
    running.close()


async def test_a_gap_and_a_lost_tail_are_closed_and_nothing_is_stored_twice(tmp_path: Path) -> None:
    outbox, log = tmp_path / "outbox", tmp_path / "visits.log"
    outbox.mkdir()
    lines = [line(each) for each in range(30)]
    journal = journal_with(outbox, *lines)
    outbox_files.write_committed_offset(journal.path, len(b"".join(lines)))
    async with open_rig(log) as rig:
        for first, end in ((0, 5), (12, 20)):  # what is between them, and what follows, did not reach the queue
            data = b"".join(lines[first:end])
            message = pack(journal.path.name, len(b"".join(lines[:first])), data, compress=True)
            await rig.write(delivery(message.body, message.attributes))
        for _ in range(2):
            _, accepted = await imported(outbox)
            await rig.write(*(delivery(each.body, each.attributes) for each in accepted))
        await rig.call(rig.ledger.checkpoint)
    journal.close()
    assert sorted(logged(log)) == sorted(f"https://example.org/{each}" for each in range(30))
    with open_copy(ledger_path(log)) as copy:
        [account] = copy.accounts()
    assert (account.gaps, account.closed_end, account.stored_bytes) == ((), None, len(b"".join(lines)))


async def test_what_is_no_outbox_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    done, accepted = await imported(tmp_path / "file", tmp_path / "folder")
    assert (done.exit_status, done.unusable, done.unread, accepted) == (3, 1, 1, [])
    said = capsys.readouterr().err
    assert f"{tmp_path}/file: it cannot be read: Not a directory" in said
    assert f"{tmp_path}/folder: it holds no journal; expected an outbox, or a journal of one" in said


def test_a_segment_that_the_pixel_removes_meanwhile_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    journal_with(tmp_path, line(1)).close()
    [journal] = outbox_files.journals(tmp_path)

    def read(*_: object) -> None:
        raise FileNotFoundError(2, "No such file or directory")

    monkeypatch.setattr("tracker.pixel.segments.Segment.read", read)
    assert cli.main(["import", "--published", "--dry-run", str(tmp_path)]) == 3
    assert f"{journal}: it cannot be read to its end: " in capsys.readouterr().err
