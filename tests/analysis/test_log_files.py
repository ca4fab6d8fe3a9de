"""Whole lines of every file, once, whatever happens to the files meanwhile."""

import bz2
import gzip
import io
import lzma
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from backports import zstd

from tests.analysis.golden import LINES
from tracker import cli
from tracker.analysis import log_files
from tracker.analysis.log_files import LONGEST_LINE, LogFiles, open_logs
from tracker.errors import TrackerError

LINE = LINES[0]


def all_of(logs: LogFiles) -> bytes:
    blocks = []
    while (block := logs.next_block()) is not None:
        blocks.append(block)
    return b"".join(blocks)


def test_rotated_and_gzipped_files_are_read_in_the_order_named(tmp_path: Path) -> None:
    oldest, older, current = (tmp_path / name for name in ("v.log.20261123T000000Z.gz", "v.log.1", "v.log"))
    oldest.write_bytes(gzip.compress(LINES[0]) + gzip.compress(LINES[1]))  # two members are one file
    older.write_bytes(gzip.compress(LINES[2]))  # known by its content
    current.write_bytes(LINES[3])
    with open_logs([str(path) for path in (oldest, older, current)]) as logs:
        assert all_of(logs) == b"".join(LINES[:4])
        assert (logs.lines, logs.malformed, logs.unfinished) == (4, 0, 0)
        assert logs.bytes_read == logs.size == sum(path.stat().st_size for path in (oldest, older, current))


def test_lines_longer_than_a_chunk_and_lines_over_the_edges_of_chunks(tmp_path: Path) -> None:
    log = tmp_path / "visits.log"
    for size in range(LONGEST_LINE - 200, LONGEST_LINE + 200, 37):
        fitting = LINE.replace(b"https", b"x" * (size - len(LINE)) + b"https")
        log.write_bytes(LINE + fitting + LINE)
        with open_logs([str(log)]) as logs:
            expected = LINE + fitting + LINE if size - 1 <= LONGEST_LINE else LINE + LINE
            assert all_of(logs) == expected, size
            assert (logs.lines, logs.malformed) == (3, 0 if size - 1 <= LONGEST_LINE else 1), size
    log.write_bytes(LINE + b"y" * (5 * LONGEST_LINE + 7) + b"\n" + LINE + b"z" * 3 * LONGEST_LINE)
    with open_logs([str(log)]) as logs:
        assert all_of(logs) == LINE + LINE
        assert (logs.lines, logs.malformed, logs.unfinished) == (3, 1, 1)


def test_a_log_that_is_being_written_is_read_as_it_was_when_it_was_opened(tmp_path: Path) -> None:
    log = tmp_path / "visits.log"
    log.write_bytes(LINES[0] + LINES[1][:-1])
    with open_logs([str(log)]) as logs:
        with log.open("ab") as file:
            file.write(b"\n" + LINES[2] * 10_000)
        log.rename(tmp_path / "visits.log.20261124T000000Z")
        log.write_bytes(LINES[3])
        assert all_of(logs) == LINES[0]
        assert (logs.unfinished, logs.malformed) == (1, 0)


def test_an_empty_file_stays_empty_though_it_grows(tmp_path: Path) -> None:
    log = tmp_path / "visits.log"
    log.touch()
    with open_logs([str(log)]) as logs:
        log.write_bytes(LINE)
        assert all_of(logs) == b""


def test_a_compressed_file_without_its_end_is_read_to_its_last_whole_line(tmp_path: Path) -> None:
    log = tmp_path / "visits.log.gz"
    lines = b"".join(LINE.replace(b"/a", b"/%d" % number) for number in range(50_000))
    packed = gzip.compress(lines)
    log.write_bytes(packed[: len(packed) // 2])
    with open_logs([str(log)]) as logs:
        read = all_of(logs)
        assert read.endswith(b"\n")
        assert lines.startswith(read)
        assert len(read) > len(lines) // 4
        assert (logs.malformed, logs.unfinished) == (0, 0)
        assert logs.problems == [
            f"{log}: its compressed data ends too early; read up to the last whole line before; "
            f"tracker audit --log {log} shows where"
        ]


def test_a_damaged_compressed_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    log = tmp_path / "visits.log.gz"
    packed = bytearray(gzip.compress(os.urandom(10_000).hex().encode()))
    packed[5000:5100] = bytes(100)
    log.write_bytes(packed)
    with open_logs([str(log)]) as logs, pytest.raises(TrackerError, match=r"visits\.log\.gz: cannot be read"):
        all_of(logs)


def test_a_shells_pattern_names_more_than_logs(tmp_path: Path) -> None:
    for name in ("visits.log", "visits.log.1", "visits.log.torn-20261124T000000Z"):
        (tmp_path / name).write_bytes(LINE.replace(b"/a", b"/" + name.encode()))
    (tmp_path / "visits.log.1.gz").write_bytes(gzip.compress((tmp_path / "visits.log.1").read_bytes()))
    (tmp_path / "visits.log.2.gz.part").write_bytes(b"half")
    (tmp_path / "visits.log.d").mkdir()
    (tmp_path / "visits.log.link").symlink_to("visits.log")
    names = sorted(str(path) for path in tmp_path.glob("visits.log*"))
    with open_logs(names) as logs:
        assert [Path(file.name).name for file in logs.files] == ["visits.log", "visits.log.1"]
        assert [reason.rpartition("/")[2] for reason in logs.skipped] == [
            "visits.log.1.gz: the same log is given without .gz",
            "visits.log.2.gz.part: a compressed copy that is not complete",
            "visits.log.d: the directory of a ledger",
            "visits.log.link: the same file as another one given",
            "visits.log.torn-20261124T000000Z: a copy of a torn append; its visits were delivered again",
        ]
        assert all_of(logs).count(b"\n") == 2
        assert "not read: " + logs.skipped[0] in logs.notes


def test_a_file_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "here").touch()
    with pytest.raises(TrackerError, match=r"missing: No such file"):
        open_logs([str(tmp_path / "here"), str(tmp_path / "missing")])


def test_standard_input_is_read_to_its_end() -> None:
    code = (
        "from tracker.analysis.log_files import open_logs\n"
        "with open_logs(['-']) as logs:\n"
        "    assert logs.size is None\n"
        "    print(len(logs.next_block()), logs.next_block(), logs.unfinished)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], input=LINE * 3 + b"half", stdout=subprocess.PIPE, check=True, timeout=30
    )
    assert done.stdout.split() == [b"%d" % (3 * len(LINE)), b"None", b"1"]


def test_threads_share_the_lines_between_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_files, "LONGEST_LINE", 1000)
    log = tmp_path / "visits.log"
    lines = [LINE.replace(b"/a", b"/%d" % number) for number in range(2000)]
    log.write_bytes(b"".join(lines))
    taken: list[list[bytes]] = [[], [], []]
    with open_logs([str(log)]) as logs:

        def take(mine: list[bytes]) -> None:
            while (block := logs.next_block()) is not None:
                mine.extend(io.BytesIO(block))

        threads = [threading.Thread(target=take, args=(mine,)) for mine in taken]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert logs.lines == 2000
    assert sorted(line for mine in taken for line in mine) == sorted(lines)


SPOILED = {
    "half.gz": gzip.compress(LINE * 5000 + os.urandom(2000).hex().encode())[:-900],
    "half.xz": lzma.compress(LINE * 5000 + os.urandom(2000).hex().encode())[:-900],
    "half.bz2": bz2.compress(LINE * 5000, 1)[:-30],  # its blocks of 100 kB are read one by one
    "half.zst": zstd.compress(LINE * 5000 + os.urandom(2000).hex().encode())[:-900],
    "junk.gz": gzip.compress(LINE) + b"junk",
    "utf16": (LINE * 3).decode().encode("utf-16"),
    "malformed": b"what is this\n" * 3,
    "letter": b"Dear Sir,\nno visit here\n",
}


@pytest.mark.parametrize("name", SPOILED)
def test_what_cannot_be_read_whole_has_a_status_and_is_named(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log, good = tmp_path / name, tmp_path / "visits.log"
    log.write_bytes(SPOILED[name])
    good.write_bytes(LINE)
    for command in (["report"], ["export", "--to", "csv"]):
        assert cli.main([*command, str(good), str(log)]) == 3
        said = capsys.readouterr().err
        assert f"{log}: " in said
        assert f"tracker audit --log {log}" in said
    assert cli.main(["audit", "--log", str(log)]) == 1


@pytest.mark.parametrize("pack", [gzip.compress, lzma.compress, bz2.compress, zstd.compress])
def test_every_usual_compression_is_read(
    pack: Callable[[bytes], bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "visits.log.1"
    log.write_bytes(pack(LINE * 3))
    assert cli.main(["report", str(log)]) == 0
    assert "3 visits" in capsys.readouterr().out
    assert cli.main(["audit", "--log", str(log)]) == 0


def test_a_directory_is_an_error_unless_it_is_a_ledgers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "visits.log.d").mkdir()
    (tmp_path / "visits.log.1.gz.part").write_bytes(b"half")
    (tmp_path / "visits.log").write_bytes(LINE)
    (tmp_path / "logs").mkdir()
    assert cli.main(["report", str(tmp_path / "logs"), str(tmp_path / "visits.log")]) == 3
    assert f"{tmp_path / 'logs'}: Is a directory" in capsys.readouterr().err
    names = sorted(str(path) for path in tmp_path.glob("visits.log*"))
    assert cli.main(["report", *names]) == 0


def test_audit_skips_what_a_report_skips(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "visits.log").write_bytes(LINE)
    (tmp_path / "visits.log.torn-20261124T000000Z").write_bytes(b"torn")
    (tmp_path / "visits.log.1.gz.part").write_bytes(b"half")
    (tmp_path / "visits.log.d").mkdir()
    assert cli.main(["audit", "--log", *sorted(str(path) for path in tmp_path.glob("visits.log*"))]) == 0
    assert capsys.readouterr().out.count("not read: ") == 3


def test_an_end_before_the_beginning_is_a_usage_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "visits.log").write_bytes(LINE)
    for words in (
        ["--since", "2026-11-25", "--until", "2026-11-24"],
        ["--since", "2026-11-25", "--until", "2026-11-25T00:00"],
    ):
        assert cli.main(["report", str(tmp_path / "visits.log"), *words]) == 2
        assert "--since" in capsys.readouterr().err
