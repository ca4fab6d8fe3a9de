"""The journal's files follow the rules of the outbox, also when the disk fails."""

import errno
import fcntl
import os
from pathlib import Path

import pytest

from tracker.pixel import journal as module
from tracker.pixel import outbox_files
from tracker.pixel.journal import Journal
from tracker.pixel.outbox_files import lock_path, segment_path

LINE = b'{"n":1}\n'


def segments(journal: Journal) -> dict[int, bytes]:
    """The content of each segment, by the offset of its first byte."""
    starts = outbox_files.segments(journal.path)
    return {start: segment_path(journal.path, start).read_bytes() for start in starts}


def test_a_new_journal_is_locked_and_has_its_final_name(tmp_path: Path) -> None:
    journal = Journal.create(tmp_path, 1000)
    assert len(journal.path.name) == 32
    assert [path.name for path in tmp_path.iterdir()] == [journal.path.name]
    with open(lock_path(journal.path)) as lock, pytest.raises(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    journal.close()
    with open(lock_path(journal.path)) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_journal_that_cannot_be_made_leaves_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(module, "sync_directory", fail)
    with pytest.raises(OSError, match="full"):
        Journal.create(tmp_path, 1000)
    assert list(tmp_path.iterdir()) == []


def test_segments_are_named_by_the_offset_of_their_first_byte_and_split_no_line(tmp_path: Path) -> None:
    journal = Journal.create(tmp_path, 20)
    for _ in range(5):
        journal.append(LINE)
    journal.sync()
    assert segments(journal) == {0: LINE * 2, 16: LINE * 2, 32: LINE}
    journal.close()


def test_a_line_longer_than_a_segment_gets_one_of_its_own(tmp_path: Path) -> None:
    journal = Journal.create(tmp_path, 4)
    journal.append(LINE)
    journal.append(LINE)
    assert segments(journal) == {0: LINE, 8: LINE}
    journal.close()


def test_a_segment_ends_after_an_hour(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal.create(tmp_path, 1000)
    journal.append(LINE)
    assert journal.check() is None
    monkeypatch.setattr(module, "SEGMENT_SECONDS", -1.0)
    assert journal.check() is None
    journal.append(LINE)
    assert segments(journal) == {0: LINE, 8: LINE}
    journal.close()


def test_a_short_write_is_cut_back_to_the_last_whole_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal.create(tmp_path, 1000)
    journal.append(LINE)
    write = os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda fd, data: write(fd, data[:3]))
        with pytest.raises(OSError, match="short write"):
            journal.append(LINE)
    assert segments(journal) == {0: LINE}
    assert not journal.sealed
    journal.append(LINE)
    assert segments(journal) == {0: LINE * 2}
    journal.close()


@pytest.mark.parametrize("written", range(len(LINE) * 3))
@pytest.mark.parametrize("fails", [False, True], ids=["short", "error"])
def test_a_short_write_of_several_lines_keeps_the_whole_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: int, fails: bool
) -> None:
    """The publisher may read up to the last newline at any time, so no offset before it may be used again."""
    journal = Journal.create(tmp_path, 1000)
    journal.append(LINE)
    write, whole = os.write, written // len(LINE)

    def short(fd: int, data: bytes) -> int:
        count = write(fd, data[:written])
        if fails:
            raise OSError(errno.EIO, "Input/output error")
        return count

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", short)
        if whole:
            assert journal.append(LINE * 3) == whole * len(LINE)
        else:
            with pytest.raises(OSError, match="Input/output error" if fails else "short write"):
                journal.append(LINE * 3)
    assert segments(journal) == {0: LINE * (1 + whole)}
    assert journal.append(LINE) == len(LINE)
    assert journal.check() is None
    assert segments(journal) == {0: LINE * (2 + whole)}
    journal.close()


def test_an_incomplete_line_that_cannot_be_cut_off_seals_the_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal.create(tmp_path, 1000)
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, data[:3]))

    def refuse(fd: int, length: int) -> None:
        raise OSError(errno.EIO, "no")

    monkeypatch.setattr(os, "ftruncate", refuse)
    with pytest.raises(OSError, match="short write"):
        journal.append(LINE)
    assert journal.sealed
    journal.close()


@pytest.mark.parametrize("damage", ["segment unlinked", "lock unlinked", "segment replaced", "longer", "shorter"])
def test_files_that_somebody_changes_are_noticed(tmp_path: Path, damage: str) -> None:
    journal = Journal.create(tmp_path, 1000)
    journal.append(LINE)
    assert journal.check() is None
    segment = segment_path(journal.path, 0)
    match damage:
        case "segment unlinked":
            segment.unlink()
        case "lock unlinked":
            lock_path(journal.path).unlink()
        case "segment replaced":
            segment.rename(tmp_path / "elsewhere")
            segment.write_bytes(LINE)
        case "longer":
            with segment.open("ab") as file:
                file.write(b"x")
        case "shorter":
            os.truncate(segment, 3)
    expected = {"segment replaced": "was replaced", "longer": "bytes, expected", "shorter": "bytes, expected"}
    assert expected.get(damage, "cannot be found") in str(journal.check())
    journal.close()


def test_a_segment_whose_name_is_taken_seals_the_journal(tmp_path: Path) -> None:
    journal = Journal.create(tmp_path, len(LINE))
    journal.append(LINE)
    segment_path(journal.path, len(LINE)).write_bytes(b"")  # by an open that made the file and reported a failure
    with pytest.raises(FileExistsError):
        journal.append(LINE)
    assert journal.sealed
    journal.close()


def test_after_a_failed_fsync_no_other_is_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal.create(tmp_path, len(LINE))
    for _ in range(3):
        journal.append(LINE)
    tried: list[int] = []

    def fail(fd: int) -> None:
        tried.append(fd)
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(module, "fdatasync", fail)
    for _ in range(2):
        with pytest.raises(OSError, match=r"broken|failed before"):
            journal.sync()
    assert len(tried) == 1
    journal.close()
