"""A short siege, another one in every run, and what its verdict depends on; `make soak` is the long siege."""

import contextlib
import os
import secrets
import signal
from pathlib import Path

from tests.launched import ROOT

from .log_pipe import LogPipe
from .processes import Process, left_behind
from .siege import ANSWERS_A_ROUND, Siege
from .verdict import STRANGER_IP, Verdict
from .wire import wait_for

ROUNDS = 4


def test_every_answered_visit_is_in_the_log_exactly_once_whatever_is_killed(tmp_path: Path) -> None:
    siege = Siege(tmp_path, seed=secrets.randbits(32))
    verdict = siege.run(rounds=ROUNDS)
    assert verdict.is_clean, f"{siege.repeat()}\n{verdict}"
    assert verdict.answered >= ROUNDS * ANSWERS_A_ROUND


def test_a_soak_that_is_ended_by_sigterm_leaves_no_service_running(tmp_path: Path) -> None:
    def services() -> list[str]:
        return [each for home in tmp_path.glob("tracker-siege-*") for each in left_behind(home)]

    environment = {"PYTHONPATH": f"{ROOT}:{ROOT / 'src'}", "TMPDIR": str(tmp_path)}
    soak = Process("tests.soak", "--seed", "1", "--rounds", "1000", home=tmp_path, name="soak", env=environment)
    try:
        for name in ("tracker.pixel", "tracker.storage"):
            soak.wait_alive(lambda name=name: any(name in each for each in services()), name)  # type: ignore[misc]
        soak.terminate()
        assert soak.wait() == 128 + signal.SIGTERM
        assert services() == []
    finally:
        soak.destroy()
        for each in services():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(each.partition(":")[0]), signal.SIGKILL)


def test_the_verdict_takes_only_proper_lines_of_strangers_for_theirs() -> None:
    time = b"2026-01-01T00:00:00.000000+00:00"
    ours = time + b"|https://site.example/1/2|load|127.0.0.1\n"
    strangers = b"%s|%s|null|%s\n" % (time, b"a" * 30_000, STRANGER_IP.encode())
    verdict = Verdict()
    assert verdict.judge(ours + strangers) == {"https://site.example/1/2": 1}
    assert verdict.is_clean
    too_long = b"%s|%s|null|%s\n" % (time, b"a" * 80_000, STRANGER_IP.encode())
    five_columns = b"%s|a|b|null|%s\n" % (time, STRANGER_IP.encode())
    verdict.judge(ours + too_long + five_columns)
    assert verdict.torn == {too_long.rstrip(), five_columns.rstrip()}
    verdict.judge(ours + ours)
    assert verdict.twice == {"https://site.example/1/2"}


def test_a_stalled_log_pipe_takes_no_byte_more_and_then_everything(tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    pipe = LogPipe(tmp_path / "pipe", copy)
    process = os.dup(pipe.write_end)  # as a process inherits it
    pipe.start()
    os.write(process, b"before\n")
    wait_for(lambda: copy.read_bytes() == b"before\n", "what was written before")
    pipe.stall()
    os.set_blocking(process, False)
    try:
        os.write(process, b"x")
    except BlockingIOError:
        pass
    else:
        raise AssertionError("a byte fitted into a full pipe")
    pipe.resume()
    os.set_blocking(process, True)
    os.write(process, b"after\n")
    os.close(process)
    pipe.close()
    assert copy.read_bytes().replace(b"\n\n", b"").endswith(b"after\n")
    assert not (tmp_path / "pipe").exists()
