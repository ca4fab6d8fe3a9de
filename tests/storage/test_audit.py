"""`tracker audit` names every gap, and whatever in the log storage did not write."""

import asyncio
import gzip
import os
import re
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest

from tests.storage.rig import A, B, close, delivery, lines, logged, offset_of, open_rig, span
from tracker.cli import main
from tracker.core.message import pack
from tracker.storage import ledger_reader
from tracker.storage.ledger_reader import Account, Gap
from tracker.visit_log_files import ledger_path

HOUR_MS = 3_600_000
C = "c" * 32


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "visits.log"


@pytest.fixture
def config(tmp_path: Path, path: Path) -> Path:
    file = tmp_path / "storage.yaml"
    file.write_text(f"sqs: {{queue: visits}}\nlog: {{path: {path}}}\n")
    return file


def now_ms() -> int:
    return int(time.time() * 1000)


def accounts_of(path: Path) -> list[Account]:
    with ledger_reader.open_copy(ledger_path(path)) as copy:
        return list(copy.accounts())


def audit(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    status = main(["audit", *map(str, arguments)])
    said = capsys.readouterr()
    return status, said.out + said.err


async def store_with_gaps(path: Path) -> None:
    """A is complete and closed; B lacks lines 2 to 5 since two hours; C its tail since ten minutes."""
    old, late = now_ms() - 2 * HOUR_MS, now_ms() - HOUR_MS // 6
    async with open_rig(path) as rig:
        await rig.write(span(A, 0, 4), close(A, 4))
        await rig.write(span(B, 0, 2, sent_ms=old - 1))
        await rig.write(span(B, 5, 6, sent_ms=old))
        await rig.write(span(B, 6, 8, sent_ms=now_ms()))
        await rig.write(span(C, 0, 3, sent_ms=late), close(C, 5, sent_ms=late))
        await rig.call(rig.ledger.checkpoint)


async def test_gaps_are_named_with_their_offsets_visits_and_age(
    path: Path, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    await store_with_gaps(path)
    status, said = audit(capsys, "--config", config)
    assert status == 1
    assert A not in said  # closed and complete
    missing = offset_of(B, 5) - offset_of(B, 2)
    assert f"journal {B}: open, {offset_of(B, 8) - missing} bytes stored, latest message 20" in said
    assert f"  missing [{offset_of(B, 2)}, {offset_of(B, 5)}): {missing} bytes, about 3 visits, noticed at 20" in said
    assert f"journal {C}: closed at {offset_of(C, 5)}, {offset_of(C, 3)} bytes stored" in said
    assert f"  missing [{offset_of(C, 3)}, {offset_of(C, 5)}): " in said
    assert "3 journals, 1 of them closed and complete" in said
    assert f"MISSING: {missing} bytes in 1 gaps, about 3 visits, for longer than 3600 s" in said


async def test_a_gap_counts_once_it_is_older_than_the_grace(
    path: Path, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    await store_with_gaps(path)
    assert audit(capsys, "--config", config, "--grace", 86_400)[0] == 0
    status, said = audit(capsys, "--config", config, "--grace", 0)
    assert status == 1
    assert "in 2 gaps, about 5 visits" in said


async def test_a_gap_that_is_filled_is_none(path: Path, config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    await store_with_gaps(path)
    async with open_rig(path) as rig:
        await rig.write(span(B, 1, 7))  # pending yet, and counted
    status, said = audit(capsys, "--config", config)
    assert status == 0
    assert "nothing has been missing for longer than 3600 s" in said
    assert "in progress" in said


async def test_forgotten_gaps_are_shown_and_not_counted_and_their_bytes_stay_known(
    path: Path, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    await store_with_gaps(path)
    status, said = audit(capsys, "--config", config, "--forget", B)
    assert status == 0
    assert "its gaps are given up" in said
    before = logged(path)
    async with open_rig(path) as rig:
        assert await rig.call(rig.ledger.gaps) == (offset_of(C, 5) - offset_of(C, 3), 1)
        await rig.write(span(B, 5, 8))
    assert logged(path) == before
    status, said = audit(capsys, "--config", config, "--forget", "d" * 32)
    assert status == 3
    assert f"knows no journal {'d' * 32}" in said


async def test_silent_journals_that_are_open_or_have_gaps_are_given_up_at_once(
    path: Path, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    day = 24 * HOUR_MS
    async with open_rig(path) as rig:
        await rig.write(span(A, 0, 1, sent_ms=now_ms() - 40 * day), close(A, 1, sent_ms=now_ms() - 40 * day))
        await rig.write(span(B, 0, 1, sent_ms=now_ms() - 40 * day))  # as `format: single` leaves every journal
        await rig.write(span(C, 2, 3, sent_ms=now_ms() - 31 * day))
        await rig.write(span("d" * 32, 2, 3, sent_ms=now_ms() - 29 * day))
        await rig.write(span("e" * 32, 0, 1, sent_ms=now_ms()))
        status, said = await asyncio.to_thread(audit, capsys, "--config", config, "--forget-silent", 30)
        assert status == 1
        assert said.startswith("2 journals given up that were silent for 30 days\n")
        assert {each.journal for each in accounts_of(path) if each.given_up} == {B, C}
        assert await rig.call(rig.ledger.gaps) == (offset_of("d" * 32, 2), 1)
        later = now_ms() + 200 * day
        await rig.write(span("e" * 32, 1, 2, sent_ms=later))
        await rig.call(rig.ledger.checkpoint)
    assert [each.journal for each in accounts_of(path) if each.latest_ms < later] == ["d" * 32]


@pytest.mark.parametrize("option", ["--forget-silent", "--grace"])
@pytest.mark.parametrize("number", ["-1", "nan", "inf", "soon"])
def test_a_time_that_is_no_number_is_a_usage_error(
    config: Path, option: str, number: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["audit", "--config", str(config), f"{option}={number}"])
    assert f"expected a number, 0 or more, found '{number}'" in capsys.readouterr().err


async def test_more_days_than_there_have_been_give_no_journal_up(
    path: Path, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    await store_with_gaps(path)
    assert audit(capsys, "--config", config, "--forget-silent", 1e300)[1].startswith("0 journals given up")


async def test_wrong_sums_of_the_ledger_are_named(path: Path, config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    await store_with_gaps(path)
    assert "SUMS" not in audit(capsys, "--config", config)[1]
    with closing(sqlite3.connect(ledger_path(path))) as db:
        db.execute("UPDATE journal SET stored = stored + 1 WHERE id = ?", (A,))
        db.commit()
    status, said = audit(capsys, "--config", config, "--grace", 86_400)
    assert status == 1
    assert f"SUMS: journal {A}: the ledger has {offset_of(A, 4) + 1} bytes up to {offset_of(A, 4)}, a count" in said


async def test_all_lists_complete_journals_too(path: Path, config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    await store_with_gaps(path)
    assert f"journal {A}: closed at {offset_of(A, 4)}" in audit(capsys, "--config", config, "--all")[1]


async def test_the_ledger_is_read_while_storage_writes(
    path: Path, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with open_rig(path) as rig:
        for number in range(20):
            await rig.write(span(A, number, number + 1))
            status, said = await asyncio.to_thread(audit, capsys, "--config", config, "--log", path)
            assert status == 0, said
            [account] = accounts_of(path)
            assert account.stored_bytes == offset_of(A, number + 1)
            assert account.gaps == ()


async def test_a_missing_beginning_and_overlapping_intervals_are_told_exactly(path: Path) -> None:
    async with open_rig(path) as rig:
        await rig.write(span(A, 3, 4, sent_ms=7))
        await rig.write(span(A, 6, 7, sent_ms=9))
        await rig.write(span(A, 2, 5, sent_ms=8))
    [account] = accounts_of(path)
    assert account.gaps == (Gap(0, offset_of(A, 2), 7), Gap(offset_of(A, 5), offset_of(A, 6), 9))


async def test_the_log_itself_is_checked(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    await store_with_gaps(path)
    status, said = audit(capsys, "--log", path, "--grace", 86_400)
    assert status == 0
    assert f"{path}: 12 lines of visits" in said


LEGACY_LINE = b"2023-12-10T22:22:43.7936205+00:00|https://localhost:7058/index.html||192.168.1.1\r\n"
OURS = b"2023-12-10T22:22:43.793620+00:00|null|null|192.168.1.1\n"


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (OURS + b"2023-12-10T22:22", "TORN: the last 16 bytes, from 55, are no whole line"),
        (OURS + b"hello\n" + OURS, "FOREIGN: line 2, byte 55: not a line of four columns: b'hello\\n'"),
        (OURS + b"\n", "FOREIGN: line 2, byte 55"),
        (OURS.replace(b"null", b"\x1b[2J", 1), "FOREIGN: line 1, byte 0: not as storage writes it"),
        (OURS.replace(b"192.168.1.1", b"visitor"), "FOREIGN: line 1, byte 0: the last column is not an IP address"),
        (b"x" * 300_000, "FOREIGN: line 1, byte 0"),
        (b"hello\n" * 15, "and 5 more lines that are FOREIGN"),
    ],
    ids=["torn", "foreign", "blank", "escape", "no address", "endless", "many"],
)
def test_what_storage_does_not_write_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], data: bytes, words: str
) -> None:
    file = tmp_path / "some.log"
    file.write_bytes(data)
    status, said = audit(capsys, "--log", file)
    assert status == 1
    assert words in said
    assert "\x1b" not in said


def test_lines_of_the_legacy_services_and_gzipped_files_are_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "visits.log.20261124T120000.000000Z.gz"
    file.write_bytes(gzip.compress(LEGACY_LINE + OURS))
    status, said = audit(capsys, "--log", file)
    assert (status, said) == (0, f"{file}: 2 lines of visits, 1 of them in the form of the legacy .NET services\n")
    file.write_bytes(file.read_bytes()[:-9])
    status, said = audit(capsys, "--log", file)
    assert status == 1
    assert "TORN: its compressed data ends too early" in said


@pytest.mark.parametrize("change", [b"", OURS], ids=["cut", "grown"])
async def test_a_length_that_the_ledger_does_not_know_is_named(
    path: Path, capsys: pytest.CaptureFixture[str], change: bytes
) -> None:
    await store_with_gaps(path)
    with path.open("ab") as file:
        file.write(change)
    if not change:
        os.truncate(path, len(path.read_bytes().splitlines(keepends=True)[0]))
    status, said = audit(capsys, "--log", path, "--grace", 86_400)
    assert status == 1
    assert re.search(r"LENGTH: \d+ bytes, the ledger knows \d+ to \d+", said)


def test_what_is_not_there_is_said(tmp_path: Path, config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, said = audit(capsys, "--config", config)
    assert status == 3
    assert "does not exist: storage creates it" in said
    status, said = audit(capsys, "--config", tmp_path / "none.yaml")
    assert status == 78
    assert "none.yaml: cannot be read" in said
    status, said = audit(capsys, "--log", tmp_path / "none.log")
    assert status == 3
    assert "none.log: cannot be read: No such file" in said


async def test_a_broken_or_foreign_ledger_is_said(path: Path, config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ledger_path(path).parent.mkdir()
    ledger_path(path).write_bytes(b"no database at all" * 100)
    status, said = audit(capsys, "--config", config)
    assert status == 3
    assert "is damaged: file is not a database. Start once with --accept-log" in said
    ledger_path(path).write_bytes(b"")
    assert "ledger.sqlite is empty" in audit(capsys, "--config", config)[1]
    ledger_path(path).unlink()
    ledger_path(path).mkdir()
    assert "cannot be read: it is not a regular file" in audit(capsys, "--config", config)[1]


async def test_bytes_beyond_an_end_marker_are_stored_and_no_gap(path: Path) -> None:
    async with open_rig(path) as rig:
        message = pack(A, 0, lines(A, 0, 4), compress=False)
        await rig.write(close(A, 2), delivery(message.body, message.attributes))
    [account] = accounts_of(path)
    assert (account.gaps, account.closed_end) == ((), offset_of(A, 2))


async def test_several_storages_are_audited_together(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    configs = [tmp_path / f"storage-{shard}.yaml" for shard in range(3)]
    logs = [tmp_path / f"visits-{shard}.log" for shard in range(3)]
    for config, log in zip(configs, logs, strict=True):
        config.write_text(f"sqs: {{queue: visits}}\nlog: {{path: {log}}}\n")
    for log, name in zip(logs, (A, B, C), strict=True):
        async with open_rig(log) as rig:
            await rig.write(span(name, 0, 4), close(name, 4))
            await rig.call(rig.ledger.checkpoint)
    status, said = audit(capsys, "--config", *configs, "--log", *logs)
    assert status == 0, said
    assert said.count("1 journals, 1 of them closed and complete") == 3
    assert all(f"{log}: 4 lines of visits" in said for log in logs)

    async with open_rig(logs[1]) as rig:  # a part of A that nobody else has, and of C what another storage has
        await rig.write(span(A, 4, 6), span(C, 2, 4))
    status, said = audit(capsys, "--config", configs[0], "--config", *configs[1:])
    assert status == 1
    assert f"DIVIDED: parts of journal {A} are stored by more than one storage: {logs[0]}, {logs[1]}" in said
    size = offset_of(C, 4) - offset_of(C, 2)
    assert f"TWICE: {size} bytes of journal {C} are stored by more than one storage: {logs[1]}, {logs[2]}" in said
    assert B not in said.replace(str(tmp_path), "")


async def test_a_ledger_that_is_missing_hides_nothing_of_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    configs = [tmp_path / f"storage-{shard}.yaml" for shard in range(2)]
    logs = [tmp_path / f"visits-{shard}.log" for shard in range(2)]
    for config, log in zip(configs, logs, strict=True):
        config.write_text(f"sqs: {{queue: visits}}\nlog: {{path: {log}}}\n")
    async with open_rig(logs[1]) as rig:
        await rig.write(span(A, 0, 2), close(A, 2))
        await rig.call(rig.ledger.checkpoint)
    status, said = audit(capsys, "--config", *configs)
    assert status == 3
    assert f"{ledger_path(logs[0])} does not exist" in said
    assert "1 journals, 1 of them closed and complete" in said
    async with open_rig(logs[1]) as rig:
        await rig.write(span(B, 2, 4, sent_ms=now_ms() - 2 * HOUR_MS))
        await rig.call(rig.ledger.checkpoint)
    assert audit(capsys, "--config", *configs, "--grace", 0)[0] == 1


def test_two_storages_with_one_log_are_named(
    tmp_path: Path, config: Path, path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other.yaml"
    other.write_text(f"sqs: {{queue: visits-1}}\nlog: {{path: {path}}}\n")
    status, said = audit(capsys, "--config", config, other)
    assert status == 2
    assert f"{config} and {other} have the same log.path {path}; expected a log of its own for each storage" in said


async def test_a_journal_is_given_up_in_whichever_ledger_knows_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    configs = [tmp_path / f"storage-{shard}.yaml" for shard in range(2)]
    logs = [tmp_path / f"visits-{shard}.log" for shard in range(2)]
    for config, log, name in zip(configs, logs, (A, B), strict=True):
        config.write_text(f"sqs: {{queue: visits}}\nlog: {{path: {log}}}\n")
        async with open_rig(log) as rig:
            await rig.write(span(name, 2, 4))
            await rig.call(rig.ledger.checkpoint)
    status, _ = audit(capsys, "--config", *configs, "--grace", 0, "--forget", A, "--forget", B)
    assert status == 0
    status, said = audit(capsys, "--config", *configs, "--forget", C)
    assert status == 3
    assert f"knows no journal {C}" in said
