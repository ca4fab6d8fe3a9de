"""`tracker erase`: the lines of a person leave closed logs, and nothing else changes."""

import bz2
import gzip
import json
import lzma
import os
import re
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from backports import zstd

from tests.seam import faults
from tests.seam.faults import Fault
from tests.seam.method import World, sweep
from tests.storage.rig import A, logged, open_rig, pages, span
from tracker import cli
from tracker.config import Rotate
from tracker.core.erasure import Selection
from tracker.core.log_digest import begin_digest
from tracker.errors import HeldByAnother
from tracker.files import open_exclusively
from tracker.storage import erasure_log
from tracker.storage.compressor import compress
from tracker.storage.erasing import erase_lines
from tracker.visit_log_files import archiver_lock_path, archiving_path, closed_logs, erased_log_path, erasing_path

PERSON, OTHER = "203.0.113.7", "192.0.2.1"
NAME = "visits.log.20261124T120000.000000Z"


def line(ip: str, number: int = 0, agent: str = "agent") -> bytes:
    return f"2026-11-24T12:00:00.{number:06}+00:00|https://example.org/{number}|{agent}|{ip}\n".encode()


LINES = b"".join(line(PERSON if number % 3 else OTHER, number) for number in range(9))
KEPT = b"".join(line(OTHER, number) for number in range(0, 9, 3))


PACK: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".xz": lzma.compress,
    ".bz2": bz2.compress,
    ".zst": zstd.compress,
}
UNPACK: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.decompress,
    ".xz": lzma.decompress,
    ".bz2": bz2.decompress,
    ".zst": zstd.decompress,
}


@pytest.fixture
def log(tmp_path: Path) -> Path:
    (tmp_path / "storage.yaml").write_text(f"sqs: {{queue: visits}}\nlog: {{path: {tmp_path}/visits.log}}\n")
    return tmp_path / "visits.log"


def erase(log: Path, *arguments: str | Path, ip: str = PERSON) -> int:
    return cli.main(["erase", "--config", str(log.with_name("storage.yaml")), "--ip", ip, *map(str, arguments)])


def closed(log: Path, name: str = NAME, content: bytes = LINES) -> Path:
    file = log.with_name(name)
    file.write_bytes(PACK.get(file.suffix, bytes)(content))
    return file


def entries(log: Path) -> list[dict[str, Any]]:
    return [json.loads(text) for text in (log.with_name("visits.log.d") / "erased.log").read_text().splitlines()]


@pytest.mark.parametrize(
    "name",
    [NAME, f"{NAME}.gz", f"{NAME}.xz", f"{NAME}.bz2", f"{NAME}.zst", "visits.log-20261124-120000.gz", "visits.log.3"],
)
def test_the_lines_leave_the_file_and_everything_else_of_it_stays(
    log: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = closed(log, name)
    file.chmod(0o604)
    if os.geteuid() == 0:
        os.chown(file, 1234, 4321)
    os.utime(file, (1_000_000_000, 1_100_000_000))
    has_attribute = set_attribute(file)
    assert erase(log) == 0
    content = file.read_bytes()
    assert UNPACK.get(file.suffix, bytes)(content) == KEPT
    status = file.stat()
    assert (stat.S_IMODE(status.st_mode), status.st_mtime) == (0o604, 1_100_000_000)
    assert os.geteuid() != 0 or (status.st_uid, status.st_gid) == (1234, 4321)
    assert not has_attribute or os.getxattr(file, "user.kept") == b"value"
    assert f"{file}: 6 of 9 lines erased (6 by ip)" in capsys.readouterr().out
    assert [path.name for path in log.parent.iterdir() if path.suffix == ".part"] == []


def set_attribute(file: Path) -> bool:
    """Whether the file system takes extended attributes."""
    try:
        os.setxattr(file, "user.kept", b"value")
    except (OSError, AttributeError):
        return False
    return True


def test_what_was_done_is_recorded_without_the_persons_data_and_audit_reports_it(
    log: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = closed(log)
    assert erase(log, "--agent", "a secret agent", "--page", "https://example.org/0") == 0
    [entry] = entries(log)
    assert entry.pop("time").startswith("20")
    before, after = begin_digest(), begin_digest()
    before.update(LINES)
    after.update(line(OTHER, 3) + line(OTHER, 6))
    assert (entry.pop("before"), entry.pop("after")) == (before.hexdigest(), after.hexdigest())
    assert entry == {"file": str(file), "lines": 7, "ip": 6, "agent": 0, "page": 1}
    assert (log.with_name("visits.log.d") / "erased.log").stat().st_mode & 0o777 == 0o640
    assert PERSON not in (log.with_name("visits.log.d") / "erased.log").read_text()
    capsys.readouterr()


async def test_the_ledger_and_the_audit_of_the_file_hold_after_an_erasure(
    log: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with open_rig(log, rotate=Rotate(max_bytes=1)) as rig:
        await rig.write(span(A, 0, 4))
        await rig.write(span(A, 4, 6))
        [file] = closed_logs(log)
        assert erase(log, ip="192.0.2.1") == 0
        assert file.read_bytes() == b""
        await rig.write(span(A, 0, 4))  # a repeat of what was erased is not written again
        assert [page for each in (*closed_logs(log), log) for page in logged(each)] == pages(A, 4, 6)
        assert await rig.call(rig.ledger.gaps) == (0, 0)
    capsys.readouterr()
    config = str(log.with_name("storage.yaml"))
    cli.main(["audit", "--config", config, "--log", str(file), str(log)])
    said = capsys.readouterr().out
    assert "erased on request: 4 lines, in 1 changes of files" in said
    assert "nothing has been missing" in said
    assert "FOREIGN" not in said
    assert "TORN" not in said


def test_a_dry_run_counts_and_changes_nothing(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = closed(log)
    before = file.stat()
    assert erase(log, "--dry-run") == 1
    assert (file.stat().st_ino, file.stat().st_mtime_ns, file.read_bytes()) == (
        before.st_ino,
        before.st_mtime_ns,
        LINES,
    )
    assert not log.with_name("visits.log.d").exists()
    assert f"{file}: 6 of 9 lines would be erased (6 by ip)" in capsys.readouterr().out
    assert erase(log, "--dry-run", ip="198.51.100.1") == 0


def test_a_file_without_such_lines_is_not_touched(log: Path) -> None:
    file = closed(log)
    before = file.stat().st_ino
    assert erase(log, ip="198.51.100.0/24") == 0
    assert file.stat().st_ino == before
    assert not log.with_name("visits.log.d").exists()


def test_an_entry_of_which_a_full_disk_has_taken_half_does_not_spoil_the_next_one(log: Path) -> None:
    closed(log)
    log.with_name("visits.log.d").mkdir()
    erased_log_path(log).write_bytes(b'{"time": "2026')
    assert erase(log) == 0
    [entry] = erasure_log.entries(log)
    assert entry.lines == 6


def test_a_log_of_which_an_archive_may_have_a_part_is_refused_when_no_archive_is_configured(
    log: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, other = closed(log), closed(log, "visits.log.20261125T120000.000000Z.gz")
    for each in (file, other):
        archiving_path(log, each).parent.mkdir(parents=True, exist_ok=True)
    archiving_path(log, other).touch()
    archiver_lock_path(log).touch()
    assert erase(log) == 3
    said = capsys.readouterr().err
    assert f"{other}: its archiving was begun, and archive.url does not say where" in said
    assert f"remove {archiving_path(log, other)}" in said
    assert file.read_bytes() == KEPT
    assert gzip.decompress(other.read_bytes()) == LINES


def test_the_live_log_is_refused_with_the_way_to_rotate_it(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log.write_bytes(LINES)
    link = log.with_name("other-name")
    link.hardlink_to(log)
    for name in (log, link):
        assert erase(log, name) == 2
        assert "is the live log: rotate it first, with logrotate --force" in capsys.readouterr().err
    assert log.read_bytes() == LINES
    assert erase(log) == 0
    assert f"not read: {log}, the live log; to erase in it, rotate it first" in capsys.readouterr().out


async def test_a_log_that_was_moved_and_that_storage_has_not_left_yet_is_refused(
    log: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with open_rig(log) as rig:
        await rig.write(span(A, 0, 4))
        moved = log.rename(log.with_name("visits.log-20261124"))
        before = moved.read_bytes()
        assert erase(log, ip="192.0.2.1") == 3
        assert "storage may still write to it" in capsys.readouterr().err
        assert moved.read_bytes() == before
        rig.log.request_reopen()
        await rig.write(span(A, 4, 5))
        assert erase(log, ip="192.0.2.1") == 0
    assert moved.read_bytes() == b""


def test_a_file_that_the_compressor_works_on_is_refused_and_the_compressor_waits_for_an_erasure(
    log: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = closed(log)
    with open_exclusively(file):
        assert erase(log) == 3
        assert f"another process works on {file}" in capsys.readouterr().err
        with pytest.raises(HeldByAnother):
            compress(file, threading.Event())
    assert file.read_bytes() == LINES
    assert erase(log) == 0
    compress(file, threading.Event())
    assert gzip.decompress(log.with_name(f"{NAME}.gz").read_bytes()) == KEPT


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (gzip.compress(LINES)[:-9], "its compressed data ends too early; nothing was changed"),
        (gzip.compress(LINES) + b"junk", "behind its compressed data there is something else; nothing was changed"),
        (b"\x1f\x8b junk", "its compressed data ends too early; nothing was changed"),
        (lzma.compress(LINES)[:-9], "its compressed data ends too early; nothing was changed"),
        (b"\xfd7zXZ\x00 of another program\n", "its compressed data is damaged"),
    ],
    ids=["torn", "with junk", "junk", "torn xz", "xz"],
)
def test_a_file_that_cannot_be_read_is_named_and_left_as_it_is(
    log: Path, content: bytes, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    bad, good = log.with_name(f"{NAME}.gz"), closed(log, "visits.log.20261125T120000.000000Z")
    bad.write_bytes(content)
    assert erase(log) == 3
    assert f"{bad}: {said}" in capsys.readouterr().err
    assert bad.read_bytes() == content
    assert good.read_bytes() == KEPT


def test_lines_that_are_no_visits_are_kept_and_reported(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    long = b"x" * 300_000 + PERSON.encode() + b"\n"
    file = closed(log, content=b"junk\n" + line(PERSON) + long + line(OTHER) + line(PERSON).rstrip(b"\n"))
    assert erase(log) == 3
    assert file.read_bytes() == b"junk\n" + long + line(OTHER)
    assert "2 lines are no lines of visits" in capsys.readouterr().err


def test_links_pipes_and_missing_files_are_refused(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = closed(log, "elsewhere")
    link, pipe = log.with_name("link"), log.with_name("pipe")
    link.symlink_to(file)
    os.mkfifo(pipe)
    for each in (link, pipe, log.with_name("nothing"), log.parent):
        assert erase(log, each) == 3
        assert f"{each}: " in capsys.readouterr().err
    assert file.read_bytes() == LINES


def test_other_files_beside_the_log_that_may_have_lines_are_named(
    log: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    closed(log)
    torn = closed(log, "visits.log.torn-20261124T120000.000000Z")
    assert erase(log) == 0
    assert f"not read: {torn}" in capsys.readouterr().out
    assert erase(log, torn) == 0
    assert torn.read_bytes() == KEPT


@pytest.mark.parametrize("arguments", [[], ["--ip", "nobody"], ["--ip", "203.0.113.7/24"]])
def test_wrong_arguments_are_usage_errors(log: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["erase", "--config", str(log.with_name("storage.yaml")), *arguments]) == 2
    assert "expected " in capsys.readouterr().err


class Erasing:
    """Erases in two closed logs. A file of an earlier run that was killed is there."""

    foreign: Sequence[str] = ("logs/visits.log.torn-x", "logs/visits.log-other", "logs/visits.log.d/ledger.sqlite.bak")

    def setup(self, root: Path, world: World) -> None:
        for number, (file, content) in enumerate(self._files(root)):
            file.parent.mkdir(exist_ok=True)
            file.write_bytes(gzip.compress(content, mtime=0) if file.suffix == ".gz" else content)
            file.chmod(0o604 + number)
        erasing_path(self._files(root)[0][0]).write_bytes(LINES)

    async def run(self, root: Path, world: World) -> None:
        for file, _ in self._files(root):
            erase_lines(
                file,
                Selection(ips=[PERSON]),
                check=lambda inode: None,
                record=lambda counts: world.note("recorded", counts.total_selected),
            )
            world.note("erased", file.name)

    async def check(self, root: Path, world: World) -> None:
        """Each file is the old or the new one; after another run, which has no fault, it is the new one."""
        for file, _ in self._files(root):
            assert self._content(file) in ((LINES, KEPT) if file.name not in world.all("erased") else (KEPT,))
        assert len(world.all("recorded")) >= sum(self._content(file) == KEPT for file, _ in self._files(root))
        await self.run(root, world)
        for number, (file, _) in enumerate(self._files(root)):
            assert self._content(file) == KEPT
            assert file.stat().st_mode & 0o777 == 0o604 + number
            assert not erasing_path(file).exists()

    def _files(self, root: Path) -> list[tuple[Path, bytes]]:
        return [(root / "logs" / NAME, LINES), (root / "logs" / f"{NAME}.gz", LINES)]

    def _content(self, file: Path) -> bytes:
        return gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("fault", [faults.KILL, faults.TEAR, faults.EIO, faults.SHORT, faults.FULL], ids=str)
def test_whichever_call_fails_or_is_the_last_the_file_is_the_old_or_the_new_one(fault: Fault) -> None:
    assert sweep(Erasing(), replace(fault)) > 1


@pytest.mark.slow
@pytest.mark.unmeasured
@pytest.mark.skipif(sys.platform != "linux", reason="the peak of the memory is read from /proc")
def test_memory_stays_bounded_whatever_the_file_holds(log: Path) -> None:
    file = log.with_name(f"{NAME}.gz")
    with gzip.open(file, "wb", compresslevel=1) as writer:
        writer.write(b"\n" * (1 << 18))
        writer.write(b"x" * (64 << 20) + b"\n")
        for number in range(50_000):
            agent = f"agent {number} " + "x" * (60_000 if number % 50 == 0 else 10)
            writer.write(line(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", 0, agent))
    script = (
        "import sys\nfrom tracker import cli\nstatus = cli.main(sys.argv[1:])\n"
        "print(open('/proc/self/status').read())\nsys.exit(status)"
    )
    config = str(log.with_name("storage.yaml"))
    done = subprocess.run(
        [sys.executable, "-c", script, "erase", "--config", config, "--ip", "10.0.0.0/24"],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 3, done.stderr
    assert "256 of " in done.stdout
    peak = re.search(r"^VmHWM:\s*(\d+) kB$", done.stdout, re.MULTILINE)
    assert peak is not None
    assert int(peak[1]) << 10 < 80 << 20
