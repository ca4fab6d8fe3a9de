"""A rotation, crashed at every step: which order of renames, directory syncs and commits keeps every line, and why."""

import asyncio
import tempfile
from pathlib import Path
from typing import Any

import pytest

from tests.model.checker import as_text
from tests.model.rotation_model import PROCEDURE, RULES, Rotation, State, names_of
from tests.model.scenarios import explored
from tests.storage.rig import SENT_MS, A, open_rig, span
from tracker.config import Rotate
from tracker.storage import log_file, rotation
from tracker.storage.ledger import Ledger
from tracker.storage.pending import Append
from tracker.visit_log_files import ledger_path

BREAKS = {"checkpoint": "refused", "reserve": "lost", "announce": "refused", "sync-old": "lost", "sync-new": "lost"}


@pytest.mark.parametrize("ordered", [True, False], ids=["changes in order", "any changes"])
def test_a_rotation_by_all_rules_loses_no_line(ordered: bool) -> None:
    exploration = explored("rotation", Rotation(ordered=ordered))
    assert exploration.broken is None, as_text(exploration.trace())
    assert {state.phase for state in exploration.states} == {"down", "idle", *PROCEDURE}


@pytest.mark.parametrize("rule", RULES)
def test_a_rotation_without_the_rule_breaks_a_promise(rule: str) -> None:
    exploration = explored(f"rotation without {rule}, {RULES[rule]}", Rotation(without=rule))
    print(as_text(exploration.trace()))
    assert exploration.broken == BREAKS[rule]


def test_only_a_directory_that_keeps_the_order_of_changes_forgives_a_rotation_that_syncs_it_once() -> None:
    assert explored("rotation", Rotation(ordered=True, without="sync-old")).broken is None


NAMES = {name: f"visits.log.20261124T00000{number}.000000Z" for number, name in enumerate(("log-1", "log-2"))}
NAMES["log"] = "visits.log"


def lay_out(folder: Path, s: State) -> Path:
    """The directory and the ledger of a state, as a start finds them."""
    path, inodes = folder / "visits.log", {}
    for name, file in names_of(s).items():
        (folder / NAMES[name]).write_text(dict(s.lines)[file])
        inodes[file] = (folder / NAMES[name]).stat().st_ino
    ledger_path(path).parent.mkdir()
    ledger = Ledger(ledger_path(path))
    ledger.record_log(s.size, inodes["old" if s.rotating else names_of(s)["log"]])
    if s.pending:
        data = bytearray(dict(s.lines)[names_of(s)["log"]][-2:].encode())
        ledger.begin(Append(data=data, ranges={A: [(0, 2)]}, latest_ms={A: SENT_MS}))
    if s.rotating:
        ledger.record_rotation(NAMES[s.rotating])
    ledger.close()
    return path


async def start(path: Path) -> tuple[dict[str, str], int | None, str | None]:
    async with open_rig(path) as rig:
        names = {file.name: file.read_text() for file in path.parent.iterdir() if file.is_file()}
        return names, rig.ledger.size, rig.ledger.rotating


def test_a_start_of_the_code_makes_of_every_state_what_the_model_does() -> None:
    model = Rotation()
    found = {s._replace(kills=0, power_cuts=0) for s in explored("rotation", model).states if s.phase == "down"}
    for s in found:
        with tempfile.TemporaryDirectory() as folder:
            outcome = asyncio.run(start(lay_out(Path(folder), s)))
        then = s
        while then.phase != "idle" or then.pending:
            then = next(after for what, after in model.steps(then) if then.phase != "idle" or what == "checkpoint")
        names = {NAMES[name]: dict(then.lines)[file] for name, file in names_of(then).items()}
        assert outcome == (names, then.size, then.rotating or None), s
    print(f"{len(found)} states")


async def test_the_code_rotates_in_the_order_of_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []

    def record(owner: object, name: str, step: str) -> None:
        original = getattr(owner, name)

        def recorded(*arguments: Any) -> Any:
            done.append(step)
            return original(*arguments)

        monkeypatch.setattr(owner, name, recorded)

    async with open_rig(tmp_path / "visits.log", rotate=Rotate(max_bytes=1)) as rig:
        await rig.write(span(A, 0, 1))
        record(Ledger, "begin", "checkpoint")
        record(rotation.Rotation, "reserve", "reserve")
        record(Ledger, "record_rotation", "announce")
        record(Path, "rename", "rename")
        record(rotation, "sync_directory", "sync-old")
        record(rotation, "create_log", "create")
        record(log_file, "sync_directory", "sync-new")
        record(Ledger, "record_log", "conclude")
        await rig.log.prepare()
    assert tuple(done) == PROCEDURE
