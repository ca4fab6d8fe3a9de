"""The publisher reads from the outbox what workers have answered, and nothing else."""

import errno
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.pixel.journals import TIME, journal_with, line
from tracker import files
from tracker.core.log_line import format_lines
from tracker.core.visit import encode_line, split_lines
from tracker.errors import ConfigurationError, HeldByAnother, MalformedMessage
from tracker.pixel import journal_reader, packer
from tracker.pixel import outbox as module
from tracker.pixel import span as span_module
from tracker.pixel.journal import Journal
from tracker.pixel.journal_reader import JournalReader, UnreadableJournal
from tracker.pixel.outbox import Outbox
from tracker.pixel.outbox_files import (
    bad_path,
    committed_path,
    lock_path,
    publisher_lock,
    refused_lines,
    segment_path,
    segments,
)
from tracker.pixel.span import Span, are_visits, first_span


def reader_of(journal: Journal, *, orphan: bool = False) -> JournalReader:
    if orphan:
        journal.close()
    reader = JournalReader(journal.path)
    assert reader.adopt() is orphan
    return reader


def drained(reader: JournalReader, limit: int = 1 << 20) -> list[Span]:
    spans = []
    while (span := reader.take(limit)) is not None:
        spans.append(span)
        reader.advance(span.end)
    return spans


def test_spans_are_whole_lines_up_to_the_limit_across_segments(tmp_path: Path) -> None:
    lines = [line(n) for n in range(10)]
    journal = journal_with(tmp_path, *lines, segment_bytes=len(lines[0]) * 3 + 1)
    reader = reader_of(journal)
    spans = drained(reader, len(lines[0]) * 2 + 5)
    assert b"".join(span.data for span in spans) == b"".join(lines)
    assert [span.start for span in spans] == [0, *[span.end for span in spans[:-1]]]
    assert all(span.data.endswith(b"\n") for span in spans)
    journal.close()


def test_an_incomplete_last_line_is_not_read(tmp_path: Path) -> None:
    journal = journal_with(tmp_path, line(1))
    with segment_path(journal.path, 0).open("ab") as segment:
        segment.write(line(2)[:-1])
    reader = reader_of(journal, orphan=True)
    assert [span.data for span in drained(reader)] == [line(1)]


def test_published_segments_are_removed_and_the_committed_offset_survives_a_restart(tmp_path: Path) -> None:
    lines = [line(n) for n in range(4)]
    journal = journal_with(tmp_path, *lines, segment_bytes=len(lines[0]))
    reader = reader_of(journal)
    reader.advance(len(lines[0]) * 2)
    assert segments(journal.path) == [len(lines[0]) * 2, len(lines[0]) * 3]
    again = JournalReader(journal.path)
    assert b"".join(span.data for span in drained(again)) == b"".join(lines[2:])
    journal.close()


@pytest.mark.parametrize("content", [b"", b"garbage", b"\x00" * 20, b"9" * 19])
def test_a_damaged_committed_offset_only_causes_repeats(tmp_path: Path, content: bytes) -> None:
    journal = journal_with(tmp_path, line(1))
    committed_path(journal.path).write_bytes(content)
    assert JournalReader(journal.path).committed == 0
    journal.close()


LIVE_OR_NOT = pytest.mark.parametrize("orphan", [True, False], ids=["orphan", "live"])


@LIVE_OR_NOT
def test_lines_that_are_no_visits_are_left_out_and_counted(tmp_path: Path, orphan: bool) -> None:
    damage = [b"\x00" * 300 + b"\n", b'{"half":\n', b"\n", b'"\xc3\xa9"\n', b'{"a":1}\r{}\n']
    content = [line(1), damage[0], damage[1], line(2), line(3), damage[2], damage[3], damage[4]]
    journal = journal_with(tmp_path, *content)
    reader = reader_of(journal, orphan=orphan)
    spans = drained(reader)
    assert [span.data for span in spans] == [line(1), line(2) + line(3), b""]
    assert [span.skipped for span in spans] == [0, 2, 3]
    assert spans[1].start == len(b"".join(content[:3]))
    if not orphan:
        journal.close()


@LIVE_OR_NOT
def test_damage_longer_than_a_span_hides_no_line_behind_it(tmp_path: Path, orphan: bool) -> None:
    journal = journal_with(tmp_path, b"\x00" * 5000 + b"\n", line(1), line(2))
    spans = drained(reader_of(journal, orphan=orphan), 1000)
    assert b"".join(span.data for span in spans) == line(1) + line(2)
    if not orphan:
        journal.close()


@pytest.mark.slow
def test_after_damage_to_any_byte_the_other_lines_are_published_and_storage_accepts_them(tmp_path: Path) -> None:
    lines = [line(1, "Mozilla/5.0 (é|\x7f)"), line(2), encode_line(TIME, None, None, "2001:db8::1")]
    good = b"".join(lines)
    journal = journal_with(tmp_path, good)
    reader = JournalReader(journal.path)
    chance = random.Random(5)
    path = segment_path(journal.path, 0)
    left_out = 0
    for at in range(len(good)):
        for byte in {good[at] ^ 1 << bit for bit in range(8)} | {0, 10, chance.randrange(256)}:
            path.write_bytes(good[:at] + bytes((byte,)) + good[at + 1 :])
            reader.committed = 0
            taken: list[bytes] = []
            while (span := reader.take(1 << 20)) is not None:
                assert format_lines(span.data)[1] == span.data.count(b"\n")  # raises if storage would refuse a line
                taken += split_lines(span.data)
                reader.committed = span.end
            starts = [0, len(lines[0]), len(lines[0] + lines[1]), len(good)]
            whole = [each for each, end, start in zip(lines, starts[1:], starts, strict=False) if not start <= at < end]
            # Without its newline, two lines become one.
            beside = whole if good[at : at + 1] != b"\n" else [each for each in whole if each is lines[0]][:1]
            assert set(beside) <= set(taken)
            left_out += len(taken) < 3
    assert left_out > len(good)  # most changes are noticed; the others leave lines that storage accepts
    journal.close()


@pytest.mark.parametrize("address", ["192.0.2.1", "0.0.0.0", "2001:db8::1", "::1", "::", "fe80::1:2:3", "::ffff:0:1"])
def test_lines_with_addresses_as_we_write_them_pass_the_fast_check(tmp_path: Path, address: str) -> None:
    data = encode_line(TIME, "https://example.org/", "agent", address) * 3
    assert are_visits(data)


def test_others_may_run_between_the_units_of_work_for_a_long_span(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[str] = []
    monkeypatch.setattr(span_module, "let_others_run", lambda: pauses.append("check"))
    monkeypatch.setattr(packer, "let_others_run", lambda: pauses.append("compress"))

    def publish(lines: bytes) -> None:
        packer.Packer("0" * 32).messages(first_span(0, lines, more=False), "packed")

    publish(b"".join(map(line, range(500))))
    assert pauses == []  # most spans are short
    long = b"".join(map(line, range(12_000)))
    publish(long)
    assert pauses == [*["check"] * (len(long) // (256 << 10)), "compress"]


def test_a_damaged_line_is_found_wherever_in_a_long_span_it_is() -> None:
    lines = [line(number) for number in range(3_000)]
    for at in (0, 1, 700, 1_500, 2_998, 2_999):
        damaged = [*lines[:at], lines[at].replace(b"192", b"992"), *lines[at + 1 :]]
        assert not are_visits(b"".join(damaged))
        span = first_span(0, b"".join(damaged), more=False)
        assert span.data == b"".join(lines[:at] or lines[1:])
        assert span.skipped == (at == 0)


@pytest.mark.parametrize(
    "change",
    [
        (b"192.0.2.1", b"992.0.2.1"),
        (b"192.0.2.1", b"192.0.2.01"),
        (b"192.0.2.1", b"192.0.2"),
        (b"192.0.2.1", b":::"),
        (b"192.0.2.1", b""),
        (b"11-23", b"13-23"),
        (b"11-23", b"02-30"),
        (b"+00:00", b""),
        (b"+00:00", b"+99:00"),
        (b"IpAddress", b"IpAddresz"),
        (b"VisitedAt", b"VisitedAu"),
        (b'"https', b'"\\ud800https'),
        (b'"https', b'"\x01https'),
        (b'"Referer":"', b'"Referer":["'),
        (b"null", b"5"),
    ],
)
def test_one_line_that_storage_would_refuse_is_left_out_and_its_neighbours_are_not(
    tmp_path: Path, change: tuple[bytes, bytes]
) -> None:
    damaged = line(2).replace(*change)
    assert damaged != line(2)
    with pytest.raises(MalformedMessage):
        format_lines(damaged)
    journal = journal_with(tmp_path, line(1), damaged, line(3))
    spans = drained(JournalReader(journal.path))
    assert [(span.data, span.skipped) for span in spans] == [(line(1), 0), (line(3), 1)]
    assert spans[0].more
    journal.close()


def test_a_cut_off_segment_does_not_move_the_offsets_of_the_next(tmp_path: Path) -> None:
    lines = [line(n) for n in range(4)]
    journal = journal_with(tmp_path, *lines, segment_bytes=len(lines[0]) * 2)
    os.truncate(segment_path(journal.path, 0), len(lines[0]) + 7)
    spans = drained(reader_of(journal, orphan=True))
    assert [(span.start, span.data) for span in spans] == [
        (0, lines[0]),
        (len(lines[0]) * 2, lines[2] + lines[3]),
    ]


def test_segments_that_contradict_each_other_are_unreadable(tmp_path: Path) -> None:
    journal = journal_with(tmp_path, line(1), line(2), segment_bytes=len(line(1)))
    with segment_path(journal.path, 0).open("ab") as segment:
        segment.write(line(3))
    reader = reader_of(journal, orphan=True)
    with pytest.raises(UnreadableJournal):
        reader.take(1000)
    reader.set_aside()
    assert list(tmp_path.iterdir()) == [bad_path(journal.path)]


def test_only_journals_whose_worker_is_gone_are_adopted_and_they_come_last(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path)
    outbox.open()
    live, dead = journal_with(tmp_path, line(1)), journal_with(tmp_path, line(2))
    dead.close()
    assert outbox.scan() == 1
    assert [(journal.name, journal.orphaned) for journal in outbox.journals] == [
        (live.path.name, False),
        (dead.path.name, True),
    ]
    assert outbox.waiting == len(line(1)) + len(line(2))
    assert outbox.size >= outbox.waiting
    live.close()
    assert outbox.scan() == 1
    outbox.close()


def test_a_journal_without_a_lock_is_not_adopted_while_its_worker_may_live(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = journal_with(tmp_path, line(1))
    lock_path(journal.path).unlink()
    assert not JournalReader(journal.path).adopt()
    monkeypatch.setattr(journal_reader, "ABANDONED_SECONDS", -1.0)
    assert JournalReader(journal.path).adopt()
    journal.close()


def test_what_a_crash_left_of_making_or_removing_a_journal_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / f"{'a' * 32}.new").mkdir()
    (tmp_path / ("b" * 32)).mkdir()  # the lock was removed, the directory was not
    outbox = Outbox(tmp_path)
    outbox.open()
    monkeypatch.setattr(module, "UNFINISHED_SECONDS", -1.0)
    monkeypatch.setattr(journal_reader, "ABANDONED_SECONDS", -1.0)
    outbox.scan()
    assert not (tmp_path / f"{'a' * 32}.new").exists()
    (left,) = outbox.journals
    assert left.orphaned
    assert left.take(1000) is None
    left.retire()
    assert list(tmp_path.iterdir()) == [publisher_lock(tmp_path)]
    outbox.close()


def test_only_a_journals_own_temporary_name_is_cleared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "notes.new").mkdir()
    monkeypatch.setattr(module, "UNFINISHED_SECONDS", -1.0)
    outbox = Outbox(tmp_path)
    outbox.open()
    outbox.scan()
    assert (tmp_path / "notes.new").is_dir()
    outbox.close()


def test_refused_lines_that_do_not_fit_on_the_disk_are_kept_whole_the_next_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outbox = Outbox(tmp_path)
    outbox.keep_refused(line(1))
    write = os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda fd, data: write(fd, data[:9]))
        with pytest.raises(OSError, match="short write"):
            outbox.keep_refused(line(2))
    outbox.keep_refused(line(2))
    assert refused_lines(tmp_path).read_bytes() == line(1) + line(2)


def test_the_names_of_new_directories_are_durable_up_to_the_one_that_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[Path] = []
    monkeypatch.setattr(files, "sync_directory", synced.append)
    outbox = Outbox(tmp_path / "var" / "outbox")
    outbox.open()
    assert synced == [tmp_path, tmp_path / "var"]
    outbox.close()


def test_a_new_directory_that_cannot_be_made_durable_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path) -> None:
        raise OSError(errno.EIO, "broken")

    with monkeypatch.context() as patch:
        patch.setattr(files, "sync_directory", fail)
        with pytest.raises(OSError, match="broken"):
            Outbox(tmp_path / "outbox").open()
    assert list(tmp_path.iterdir()) == []


def test_an_outbox_that_cannot_be_listed_at_first_is_opened_by_the_next_try(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path) -> list[str]:
        raise OSError(errno.EIO, "broken")

    outbox = Outbox(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(os, "listdir", fail)
        with pytest.raises(OSError, match="broken"):
            outbox.open()
    assert not outbox.is_open
    outbox.open()
    outbox.close()


def test_retiring_removes_the_lock_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = reader_of(journal_with(tmp_path, line(1), line(2), segment_bytes=1), orphan=True)
    reader.advance(len(line(1)))
    order: list[Path] = []
    unlink = os.unlink

    def note(path: Path, *arguments: object, **options: object) -> None:
        order.append(Path(path))
        unlink(path)

    monkeypatch.setattr(os, "unlink", note)
    monkeypatch.setattr(Path, "unlink", lambda self, missing_ok=False: note(self))
    reader.retire()
    journal = reader.path
    assert order == [segment_path(journal, len(line(1))), committed_path(journal), lock_path(journal)]
    assert list(tmp_path.iterdir()) == []


def test_a_second_publisher_is_refused_by_name_of_the_key(tmp_path: Path) -> None:
    first = Outbox(tmp_path)
    first.open()
    with pytest.raises(HeldByAnother, match=rf"outbox\.dir: .*process {os.getpid()}"):
        Outbox(tmp_path).open()
    first.close()
    second = Outbox(tmp_path)
    second.open()
    second.close()


def test_a_path_that_cannot_be_a_directory_is_a_configuration_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match=r"outbox\.dir"):
        Outbox(tmp_path / "file" / "outbox").open()


def test_the_lock_of_a_killed_worker_is_free(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from tracker.pixel.journal import Journal;"
        "journal = Journal.create(Path(sys.argv[1]), 1000); journal.append(b'x\\n'); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    (path,) = tmp_path.iterdir()
    assert JournalReader(path).adopt()


def test_an_orphan_has_the_same_reader_in_every_scan(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path)
    outbox.open()
    journal_with(tmp_path, line(1)).close()
    assert outbox.scan() == 1
    (reader,) = outbox.journals
    outbox.forget(reader)  # the publisher is working on it during the next scan
    assert outbox.scan() == 0
    assert outbox.journals == [reader]
    assert reader.orphaned
    reader.retire()
    assert outbox.scan() == 0
    assert outbox.journals == []
    outbox.close()


def test_one_entry_that_cannot_be_read_hides_no_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "lost+found").mkdir()
    journal_with(tmp_path, line(1)).close()
    list_directory = os.scandir

    def guarded(path: str) -> Iterator["os.DirEntry[str]"]:
        if Path(path).name == "lost+found":
            raise PermissionError(13, "Permission denied")
        return list_directory(path)

    monkeypatch.setattr(os, "scandir", guarded)
    outbox = Outbox(tmp_path)
    outbox.open()
    for _ in range(3):
        outbox.scan()
    assert [journal.orphaned for journal in outbox.journals] == [True]
    assert outbox.size >= len(line(1))
    assert len([record for record in caplog.records if "lost+found" in record.getMessage()]) == 1
    outbox.close()


def test_a_segment_removed_during_a_scan_costs_no_reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal_with(tmp_path, line(1)).close()
    outbox = Outbox(tmp_path)
    outbox.open()
    outbox.scan()
    (reader,) = outbox.journals

    def vanished(*_: object) -> int:
        raise FileNotFoundError

    for name in ("waiting", "adopt"):
        with monkeypatch.context() as patch:
            patch.setattr(JournalReader, name, vanished)
            outbox.scan()
        assert outbox.journals == [reader]
        assert reader.orphaned
    list_directory = os.scandir
    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", lambda path: vanished() if Path(path) == reader.path else list_directory(path))
        outbox.scan()
    assert outbox.journals == [reader]
    outbox.close()
