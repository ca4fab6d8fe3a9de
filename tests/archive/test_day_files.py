"""The Parquet files of a log with many days: each has the visits of its day, in the order of the log."""

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pyarrow.parquet as pq
import pytest

from tests.archive.closed import NOON
from tests.seam.method import LONG, SEED
from tracker.archive import day_files
from tracker.archive.columns import columns_of
from tracker.archive.day_files import DayFiles


def parts(seed: int, days: int) -> Iterator[tuple[str, list[int]]]:
    """Days with the numbers of their lines: long and short ones, in turn and mixed."""
    chance = Random(seed)
    number = 0
    for _ in range(300):
        day = f"2026-11-{1 + min(int(chance.expovariate(5 / days)), days - 1):02}"
        count = chance.choice([1, 1, 3, 40])
        yield day, list(range(number, number + count))
        number += count


@pytest.mark.parametrize("seed", range(SEED, SEED + (10 if LONG else 1)))
@pytest.mark.parametrize(("days", "rows", "most_open"), [(1, 50, 9), (3, 50, 9), (20, 50, 99), (20, 50, 2), (9, 9, 1)])
def test_each_file_has_the_visits_of_its_day_in_their_order(
    days: int, rows: int, most_open: int, seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(day_files, "ROW_GROUP", rows)
    monkeypatch.setattr(day_files, "MOST_OPEN", most_open)
    expected = defaultdict[str, list[int]](list)
    with DayFiles(tmp_path, "visits.log.x") as files:
        for day, numbers in parts(seed, days):
            expected[day] += numbers
            files.add(day, visits(numbers))
        made = list(files.finish())
    assert [day for day, *_ in made] == sorted(expected)
    for day, file, count in made:
        table = pq.read_table(file)
        assert table["line"].to_pylist() == expected[day]
        assert table["page"].to_pylist() == [f"é{number % 7}" for number in expected[day]]
        assert set(table["log"].to_pylist()) == {"visits.log.x"}
        assert count == len(table)
    assert sorted(file.name for file in tmp_path.iterdir()) == [f"{day}.parquet" for day in sorted(expected)]


def visits(numbers: list[int]) -> object:
    lines = "".join(f"{NOON:%FT%T}.000000+00:00|\\xC3\\xA9{number % 7}|null|192.0.2.1\n" for number in numbers)
    return columns_of(lines.encode()).append_column("line", [numbers])


def test_long_texts_fill_a_row_group_as_many_visits_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So the memory is bounded, however long the texts are."""
    monkeypatch.setattr(day_files, "ROW_GROUP_BYTES", 1 << 20)
    with DayFiles(tmp_path, "visits.log.x") as files:
        for number in range(64):
            line = f"{NOON:%FT%T}.000000+00:00|{number:065000}|null|192.0.2.1\n".encode()
            files.add("2026-11-24", columns_of(line).append_column("line", [[number]]))
        (made,) = files.finish()
    assert pq.read_metadata(made.path).num_row_groups == 4
