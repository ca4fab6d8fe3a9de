"""The names of a visit log's files: made and recognised by one module."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tracker import visit_log_files as files

NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "visits.log"


def test_closed_logs_are_listed_in_the_order_of_their_times_compressed_or_not(log: Path) -> None:
    names = [files.closed_log_path(log, NOON + timedelta(microseconds=step)) for step in (2, 0, 1)]
    names[1] = files.compressed_path(names[1])
    for name in names:
        name.write_text("a line\n")
    assert files.closed_logs(log) == [names[1], names[2], names[0]]
    assert [files.is_compressed(file) for file in files.closed_logs(log)] == [True, False, False]
    assert files.closed_at(log, names[1]) == NOON


@pytest.mark.parametrize("suffix", ["", ".gz", ".xz", ".bz2", ".zst"])
def test_a_closed_log_is_known_by_one_name_however_it_is_compressed(log: Path, suffix: str) -> None:
    ours, dated, numbered = (
        log.with_name(name + suffix)
        for name in ("visits.log.20261124T120000.000000Z", "visits.log-20261124", "visits.log.1")
    )
    for name in (ours, dated, numbered):
        name.write_text("a line\n")
    assert (files.closed_logs(log), files.logs_of_logrotate(log), files.numbered_logs(log)) == (
        [ours],
        [dated],
        [numbered],
    )
    assert files.closed_name(dated) == "visits.log-20261124"
    assert dated in files.forms(dated) == files.forms(log.with_name("visits.log-20261124"))
    assert files.closed_at(log, ours) == NOON


def test_a_reserved_name_is_an_empty_file_and_no_closed_log(log: Path) -> None:
    reserved = files.closed_log_path(log, NOON)
    reserved.touch()
    assert files.closed_logs(log) == []
    assert files.closed_or_reserved(log) == [reserved]


def test_every_other_file_beside_the_log_is_no_closed_log(log: Path) -> None:
    closed = files.compressed_path(files.closed_log_path(log, NOON))
    others = [log, files.partial_path(closed), files.torn_copy_path(log), log.with_name("visits.log.1")]
    others += [files.ledger_path(log), files.lock_path(log), files.damaged_ledger_path(files.ledger_path(log))]
    files.ledger_directory(log).mkdir()
    for other in others:
        other.write_text("something\n")
    assert files.closed_logs(log) == []


def test_torn_copies_and_incomplete_compressions_are_recognised_by_their_names(log: Path) -> None:
    torn, part = files.torn_copy_path(log), files.partial_path(files.compressed_path(files.closed_log_path(log, NOON)))
    torn.touch()
    assert files.torn_copies(log) == [torn]
    assert (files.is_torn_copy(torn.name), files.is_torn_copy(part.name)) == (True, False)
    assert (files.is_partial(part.name), files.is_partial(torn.name)) == (True, False)
