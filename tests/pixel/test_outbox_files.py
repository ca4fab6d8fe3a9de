"""The names in an outbox, and what other programs learn from them without changing anything."""

import os
from pathlib import Path

from tracker.pixel import outbox_files
from tracker.pixel.journal import Journal
from tracker.pixel.outbox import Outbox


def test_what_is_asked_about_an_outbox_is_answered_from_its_files_alone(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path)
    outbox.open()
    journal = Journal.create(tmp_path, 1 << 20)
    journal.append(b"{}\n{}\n")
    outbox_files.write_committed_offset(journal.path, 3)
    (tmp_path / f"{'a' * 32}.new").mkdir()
    (tmp_path / f"{'b' * 32}.bad").mkdir()
    assert outbox_files.journals(tmp_path) == [journal.path]
    assert [path.name for path in outbox_files.bad_journals(tmp_path)] == [f"{'b' * 32}.bad"]
    assert outbox_files.segments(journal.path) == [0]
    assert outbox_files.committed_offset(journal.path) == 3
    assert outbox_files.waiting_bytes(journal.path) == 3
    assert outbox_files.publisher_lock(tmp_path).read_text().strip() == str(os.getpid())
    journal.close()
    outbox.close()


def test_the_names_on_disk_stay_those_that_an_earlier_run_has_used() -> None:
    outbox = Path("outbox")
    journal = outbox / ("a" * 32)
    names = {
        outbox_files.publisher_lock(outbox): "outbox/publisher.lock",
        outbox_files.refused_lines(outbox): "outbox/refused.ndjson",
        outbox_files.new_path(journal): f"{journal}.new",
        outbox_files.bad_path(journal): f"{journal}.bad",
        outbox_files.lock_path(journal): f"{journal}/lock",
        outbox_files.committed_path(journal): f"{journal}/published",
        outbox_files.segment_path(journal, 4096): f"{journal}/00000000000000004096",
    }
    assert {str(path): name for path, name in names.items()} == {name: name for name in names.values()}
