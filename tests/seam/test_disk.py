"""The model of a power cut takes what was not synced, in every way, and nothing else."""

from tests.seam.disk import (
    ROOT,
    SECTOR,
    Commit,
    Create,
    Effect,
    Rename,
    Sync,
    Tree,
    Truncate,
    Unlink,
    Write,
    after_power_cut,
)

OLD: Tree = {"file": b"o" * 2 * SECTOR}
FILE = 1  # the id of the only path of OLD
NEW = b"n" * 2 * SECTOR
WRITTEN: list[Effect] = [Write(FILE, 0, NEW)]


def left(base: Tree, *effects: Effect, states: int = 500) -> list[Tree]:
    found = list(after_power_cut(base, effects, states=states, seed=1))
    assert len(found) < states, "all of them"
    return found


def contents(trees: list[Tree]) -> set[bytes | None]:
    return {tree.get("file") for tree in trees}


def test_each_sector_that_was_not_synced_is_old_or_new() -> None:
    halves = (b"o" * SECTOR, b"n" * SECTOR)
    assert contents(left(OLD, *WRITTEN)) == {one + other for one in halves for other in halves}
    assert contents(left(OLD, *WRITTEN, Sync(FILE))) == {NEW}


def test_a_file_that_grew_may_have_any_size_between_and_zeros_or_noise_in_it() -> None:
    found = contents(left({"file": b""}, Write(FILE, 0, b"n" * (SECTOR + 10))))
    assert {len(content or b"") for content in found} == {0, SECTOR, SECTOR + 10}
    assert {b"", b"n" * (SECTOR + 10), bytes(SECTOR), bytes(SECTOR) + b"n" * 10} <= found
    assert any(b"\xa5\n" in (content or b"") for content in found)


def test_a_cut_file_is_as_before_or_cut() -> None:
    assert contents(left(OLD, Truncate(FILE, SECTOR))) == {OLD["file"], b"o" * SECTOR}
    assert contents(left(OLD, Truncate(FILE, SECTOR), Sync(FILE))) == {b"o" * SECTOR}


def test_names_that_were_not_synced_may_be_there_or_not_whatever_else_is() -> None:
    made: list[Effect] = [Create(ROOT, "a", 2), Create(ROOT, "b", 3), Sync(2), Sync(3)]
    assert [sorted(tree) for tree in left({}, *made)] == [[], ["b"], ["a"], ["a", "b"]]
    assert [sorted(tree) for tree in left({}, *made, Sync(ROOT))] == [["a", "b"]]
    assert [sorted(tree) for tree in left(OLD, Unlink(ROOT, "file"))] == [["file"], []]


def test_a_rename_is_done_or_undone_and_what_was_synced_in_a_directory_hangs_on_its_name() -> None:
    effects: list[Effect] = [Create(ROOT, "new", 2, is_directory=True)]
    effects += [Create(2, "in", 3), Sync(2), Rename(ROOT, "new", ROOT, "old")]
    assert [sorted(tree) for tree in left({}, *effects)] == [
        [],
        ["old", "old/in"],
        ["new", "new/in"],
        ["old", "old/in"],
    ]


def test_a_rename_over_a_file_leaves_one_of_the_two() -> None:
    effects: list[Effect] = [Create(ROOT, "next", 2)]
    effects += [Write(2, 0, b"n"), Sync(2), Sync(ROOT), Rename(ROOT, "next", ROOT, "file")]
    assert contents(left(OLD, *effects)) == {OLD["file"], b"n"}


def test_a_failed_fsync_may_have_lost_what_still_reads_back_and_a_later_one_does_not_bring_it_again() -> None:
    failed = [*WRITTEN, Sync(FILE, succeeded=False)]
    assert len(contents(left(OLD, *failed))) == 4
    assert len(contents(left(OLD, *failed, Sync(FILE)))) == 4
    assert contents(left(OLD, *failed, Write(FILE, 0, NEW), Sync(FILE))) == {NEW}
    assert len(contents(left(OLD, *failed, Write(FILE, 0, NEW[:SECTOR]), Sync(FILE)))) == 2


def test_a_commit_is_durable_when_it_returns() -> None:
    assert contents(left(OLD, Commit(FILE, b"snapshot"))) == {b"snapshot"}


def test_where_there_are_too_many_states_the_extremes_and_a_sample_that_the_seed_repeats_are_taken() -> None:
    effects = [Write(FILE, 0, b"n" * 20 * SECTOR)]
    first, again = (list(after_power_cut({"file": b""}, effects, states=10, seed=7)) for _ in range(2))
    assert first == again
    assert len(first) == 10
    assert first[0] == {"file": b""}
    assert first[1] == {"file": b"n" * 20 * SECTOR}
    assert first != list(after_power_cut({"file": b""}, effects, states=10, seed=8))
