"""Temporary folders: nothing of them stays, and nobody else's folder is touched."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tracker.errors import TrackerError
from tracker.temporary_folder import temporary_folder

# Uses so many folders, one after the other; with 0, one for ever.
USE = """
import signal, sys
from tracker.temporary_folder import temporary_folder
count = int(sys.argv[1])
for _ in range(count or 1):
    with temporary_folder() as folder:
        (folder / "file").touch()
        print("made", flush=True)
        if not count:
            signal.pause()
        assert (folder / "file").exists()
"""


@pytest.fixture(autouse=True)
def parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path


def use(count: int) -> subprocess.Popen[bytes]:
    """A process that uses temporary folders, and has the first one."""
    running = subprocess.Popen([sys.executable, "-c", USE, str(count)], stdout=subprocess.PIPE)
    assert running.stdout is not None
    assert running.stdout.readline() == b"made\n"
    return running


def test_nothing_stays_of_a_folder_when_its_use_ends_well_or_by_an_error(parent: Path) -> None:
    for error in (None, ValueError()):
        try:
            with temporary_folder() as folder:
                assert folder.parent == parent
                assert folder.stat().st_mode & 0o777 == 0o700
                (folder / "below").mkdir()
                if error:
                    raise error
        except ValueError:
            pass
        assert list(parent.iterdir()) == []


def test_the_folder_of_a_killed_process_is_removed_by_the_next_one_and_a_used_one_is_not(parent: Path) -> None:
    killed, alive = use(0), use(0)
    try:
        assert len(list(parent.iterdir())) == 2
        killed.kill()
        killed.communicate()
        with temporary_folder() as folder:
            left = [each for each in parent.iterdir() if each != folder]
            assert len(left) == 1
            assert (left[0] / "file").exists()
    finally:
        alive.kill()
        alive.communicate()


def test_a_process_that_was_killed_before_it_had_its_lock_leaves_nothing_either(parent: Path) -> None:
    (parent / "tracker-temporary-abcdefg1").mkdir()
    with temporary_folder() as folder:
        assert list(parent.iterdir()) == [folder]


def test_what_others_have_there_is_left_alone(parent: Path) -> None:
    others = [parent / name for name in ("tracker-temporary-of mine", "tracker-backup", "tracker-temporary-abcdefg10")]
    for other in others:
        other.mkdir()
        (other / "file").touch()
    (parent / "tracker-temporary-abcdefg1").symlink_to(parent / "tracker-backup")
    (parent / "tracker-temporary-abcdefg2").touch()
    with temporary_folder():
        assert all(list(other.iterdir()) == [other / "file"] for other in others)
    assert len(list(parent.iterdir())) == 5


@pytest.mark.parametrize("step", ["os.open", "fcntl.flock"])
def test_a_folder_that_another_process_takes_for_abandoned_before_its_lock_is_held_is_made_again(
    parent: Path, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, _, name = step.partition(".")
    real = getattr(sys.modules[module], name)

    def meddled(*arguments: Any) -> Any:
        monkeypatch.setattr(step, real)
        shutil.rmtree(next(parent.glob("tracker-temporary-*")))
        return real(*arguments)

    monkeypatch.setattr(step, meddled)
    with temporary_folder() as folder:
        assert list(parent.iterdir()) == [folder]
        with temporary_folder():
            assert (folder / "lock").exists()


def test_many_processes_at_once_take_nothing_from_one_another(parent: Path) -> None:
    running = [use(100) for _ in range(3)]
    for each in running:
        each.communicate()
        assert each.returncode == 0
    assert list(parent.iterdir()) == []


@pytest.mark.parametrize("kind", ["missing", "a file", "read-only"])
def test_a_folder_that_cannot_be_used_is_named_and_no_other_is_taken(
    parent: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = parent / "place"
    if kind == "a file":
        place.touch()
    if kind == "read-only":
        if os.geteuid() == 0:
            place = Path("/proc/self")  # root may write everywhere else
        else:
            place.mkdir(0o500)
    monkeypatch.setenv("TMPDIR", str(place))
    with pytest.raises(TrackerError, match=f"{place}.*TMPDIR"), temporary_folder():
        pass
