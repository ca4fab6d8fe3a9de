"""What becomes of the lines of a closed log: which object each is in, and with which number."""

import gzip
import threading
from pathlib import Path

import duckdb
import pyarrow.parquet as pq
import pytest

from tests.archive.closed import NOON, close, line, malformed, rows
from tests.fake_aws.s3 import Object
from tracker.analysis.log_files import LONGEST_LINE, open_logs
from tracker.archive.lines import BLOCK, ClosedLog
from tracker.archive.objects import NewObjects, make_objects
from tracker.core.log_line import parse_line
from tracker.errors import StopRequested, TrackerError


def made(closed: Path) -> tuple[NewObjects, dict[str, Object]]:
    folder = closed.parent / "made"
    folder.mkdir(exist_ok=True)
    with ClosedLog(closed) as log:
        objects = make_objects(log, folder, threading.Event())
    return objects, {f"a/{each.name}": Object(each.file.read_bytes(), objects.digest) for each in objects.objects}


def test_each_visit_is_in_the_object_of_its_day_with_the_number_of_its_line(tmp_path: Path) -> None:
    midnight = NOON.replace(hour=0)
    lines = [line(number, midnight) for number in (-2, 0, 1, -1, 2, 86_400, 3)]
    objects, stored = made(close(tmp_path / "visits.log", b"".join(lines)))
    assert list(stored) == [f"a/date=2026-11-{day}/visits.log.20261124T130000.000000Z.parquet" for day in (23, 24, 25)]
    found = sorted(rows(stored), key=lambda row: row[1])
    assert [(number, visit) for _, number, visit in found] == [
        (number, parse_line(each)) for number, each in enumerate(lines, 1)
    ]
    assert objects.visits == 7


def test_the_rows_of_an_object_are_in_the_order_of_the_log(tmp_path: Path) -> None:
    _, stored = made(close(tmp_path / "visits.log", b"".join(line(number % 7) for number in range(5_000))))
    assert [number for _, number, _ in rows(stored)] == list(range(1, 5_001))


ODD = [
    b"no visit\n",
    b"\n",
    b"\r\n",
    b"no\rvisit\r\n",
    b"a|b|c|d\n",
    b"\xff\x00|" * 9 + b"\n",
    b"x" * 3 * LONGEST_LINE + b"\n",
]


def test_malformed_lines_are_in_an_object_of_their_own_byte_for_byte(tmp_path: Path) -> None:
    content = line(0) + b"".join(odd + line(number) for number, odd in enumerate(ODD, 1)) + b"cut off"
    objects, stored = made(close(tmp_path / "visits.log", content))
    assert [number for _, number, _ in rows(stored)] == [1, 3, 5, 7, 9, 11, 13, 15]
    assert malformed(stored) == [b"".join(b"%d %s" % (2 * n, odd) for n, odd in enumerate(ODD, 1)) + b"16 cut off"]
    assert (objects.visits, objects.malformed) == (8, 8)


def test_lines_longer_than_a_report_reads_are_malformed_wherever_a_block_ends(tmp_path: Path) -> None:
    begin, end = b"2026-11-24T12:00:00.000000+00:00|", b"|null|192.0.2.1\n"
    most = LONGEST_LINE
    sizes = [most, most + 1, BLOCK, 10, BLOCK - most, most + 1, most, 2 * BLOCK + 7, most, BLOCK - 1, 10]
    lines = [begin + b"a" * max(1, size - len(begin + end) + 1) + end for size in sizes]
    closed = close(tmp_path / "visits.log", b"".join(lines))
    objects, stored = made(closed)
    assert [number for _, number, _ in rows(stored)] == [1, 4, 7, 9, 11]
    long = [2, 3, 5, 6, 8, 10]
    assert malformed(stored) == [b"".join(b"%d %s" % (number, lines[number - 1]) for number in long)]
    with open_logs([str(closed)]) as logs:
        while logs.next_block() is not None:
            pass
    assert (logs.lines - logs.malformed, logs.malformed) == (objects.visits, objects.malformed)


def test_each_of_many_empty_lines_has_its_number(tmp_path: Path) -> None:
    objects, stored = made(close(tmp_path / "visits.log", b"\n" + line(1) + b"\n\n\n" + line(2)))
    assert [number for _, number, _ in rows(stored)] == [2, 6]
    assert malformed(stored) == [b"1 \n3 \n4 \n5 \n"]
    assert (objects.visits, objects.malformed) == (2, 4)


def test_a_log_of_malformed_lines_alone_has_no_object_of_a_day(tmp_path: Path) -> None:
    _, stored = made(close(tmp_path / "visits.log", b"nothing\nto see"))
    assert list(stored) == ["a/_malformed/visits.log.20261124T130000.000000Z.gz"]


def test_lines_of_the_legacy_services_are_visits(tmp_path: Path) -> None:
    legacy = b"2023-12-10T22:22:43.7936205+00:00|https://localhost:7058/|null|192.168.1.1\r\n"
    east = b"2023-12-11T01:00:00.0000000+02:00||a\\b|::ffff:192.0.2.1\n"
    _, stored = made(close(tmp_path / "visits.log", legacy + east))
    assert [visit for *_, visit in rows(stored)] == [parse_line(legacy), parse_line(east)]
    assert [key.split("/")[1] for key in stored] == ["date=2023-12-10"]


def test_the_same_lines_make_the_same_bytes_and_digest_compressed_or_not(tmp_path: Path) -> None:
    content = b"".join(line(60 * number) for number in range(2_000)) + b"odd\n"
    closed = close(tmp_path / "visits.log", content)
    first = made(closed)[1]
    assert made(closed)[1] == first
    packed = closed.with_name(closed.name + ".gz")
    half = len(content) // 2
    packed.write_bytes(gzip.compress(content[:half], 1) + gzip.compress(content[half:], 9))
    assert made(packed)[1] == first
    closed.write_bytes(content.replace(b"odd", b"old"))
    assert {each.digest for each in made(closed)[1].values()}.isdisjoint(each.digest for each in first.values())


def test_the_columns_have_the_promised_types(tmp_path: Path) -> None:
    objects, _ = made(close(tmp_path / "visits.log", line(1)))
    schema = pq.read_schema(objects.objects[0].file)
    assert {field.name: str(field.type) for field in schema} == {
        "time": "timestamp[us, tz=UTC]", "page": "string", "user_agent": "string", "ip": "string",
        "log": "string", "line": "int64",
    }  # fmt: skip


def test_an_engine_that_has_not_written_the_object_reads_the_same(tmp_path: Path) -> None:
    lines = [line(0), b"odd\n", b"2026-11-24T12:00:00.000001+00:00|null|\\x6Eull|2001:db8::1\n"]
    objects, stored = made(close(tmp_path / "visits.log", b"".join(lines)))
    question = "SELECT log, line, epoch_us(time), page, user_agent, ip FROM read_parquet(?)"
    with duckdb.connect() as database:
        found = database.execute(question, [str(objects.objects[0].file)]).fetchall()
    assert found == [
        (log, number, round(visit.time.timestamp() * 1_000_000), visit.referrer, visit.user_agent, visit.ip)
        for log, number, visit in rows(stored)
    ]


@pytest.mark.parametrize("cut", [1, 11, 50, -3])
def test_a_compressed_log_that_is_not_complete_makes_no_object(tmp_path: Path, cut: int) -> None:
    closed = close(tmp_path / "visits.log", b"")
    closed.unlink()
    packed = closed.with_name(closed.name + ".gz")
    packed.write_bytes(gzip.compress(b"".join(map(line, range(5_000))))[:cut])
    if packed.read_bytes()[:2] == b"\x1f\x8b":
        with pytest.raises(TrackerError, match="cannot be read"):
            made(packed)
    else:  # one byte is no compressed log, and no line either
        assert made(packed)[0].visits == 0


@pytest.mark.parametrize("at", [12, 400, -6])
def test_a_damaged_compressed_log_makes_no_object(tmp_path: Path, at: int) -> None:
    packed = bytearray(gzip.compress(b"".join(map(line, range(5_000)))))
    packed[at] ^= 0xFF
    closed = tmp_path / "visits.log.20261124T130000.000000Z.gz"
    closed.write_bytes(packed)
    with pytest.raises(TrackerError, match="cannot be read"):
        made(closed)


def test_a_stop_ends_the_work_soon(tmp_path: Path) -> None:
    ending = threading.Event()
    ending.set()
    with ClosedLog(close(tmp_path / "visits.log", line(1))) as log, pytest.raises(StopRequested):
        make_objects(log, tmp_path, ending)


def test_years_beyond_the_usual_have_objects_too(tmp_path: Path) -> None:
    days = ["0001-01-01", "0999-12-31", "1969-12-31", "9999-12-31"]
    content = b"".join(f"{day}T23:59:59.999999+00:00|null|null|192.0.2.1\n".encode() for day in days)
    objects, _ = made(close(tmp_path / "visits.log", content))
    assert sorted(each.name.split("/")[0] for each in objects.objects) == [f"date={day}" for day in days]
