"""Closed logs for the tests of the archive, and the archive read back."""

import asyncio
import gzip
import io
import random
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow.parquet as pq

from tests.fake_aws.s3 import FakeBucket, Object
from tests.seam import faults
from tests.seam.method import LONG
from tracker.archive.archiver import Archiver, Pass
from tracker.archive_marker import is_archived
from tracker.config import ArchiveConfig
from tracker.core.log_line import format_line, parse_line
from tracker.core.visit import Visit
from tracker.lifecycle import Backoff
from tracker.visit_log_files import closed_logs, closed_name, is_compressed

CONFIG = ArchiveConfig(url="s3://archive/years")
NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)
# Of the sweeps over every call. The archive does not ask for the number of an error, so one error stands for all.
FAULTS = faults.EVERY if LONG else [faults.KILL, faults.TEAR, faults.EIO, faults.SHORT]


def line(number: int, at: datetime = NOON, ip: str = "192.0.2.1") -> bytes:
    return format_line(Visit(at + timedelta(seconds=number), f"https://example.com/{number}", "agent | é", ip))


def incompressible(number: int, size: int = 64) -> bytes:
    """The line of a visit whose page has so many random hexadecimal digits, half of which an object's size grows by."""
    page = f"https://example.com/{random.Random(number).randbytes(size // 2).hex()}/{number}"
    return format_line(Visit(NOON, page, None, "192.0.2.1"))


def close(log: Path, content: bytes, hour: int = 13) -> Path:
    """A closed log of `log`, as a rotation at this hour leaves it."""
    closed = log.with_name(f"{log.name}.20261124T{hour:02}0000.000000Z")
    closed.write_bytes(content)
    return closed


def rows(objects: Mapping[str, Object]) -> list[tuple[str, int, Visit]]:
    """Log, line and visit of every row of every Parquet object; each lies in the folder of its day."""
    found = []
    for key, each in objects.items():
        if not key.endswith(".parquet"):
            continue
        for row in pq.read_table(io.BytesIO(each.body)).to_pylist():
            assert f"/date={row['time']:%Y-%m-%d}/{row['log']}.parquet" in f"/{key}"
            found.append(
                (
                    row["log"],
                    row["line"],
                    Visit(row["time"].replace(tzinfo=UTC), row["page"], row["user_agent"], row["ip"]),
                )
            )
    return found


def numbers(objects: Mapping[str, Object]) -> list[int]:
    """The numbers of the visits in all objects."""
    return sorted(int((visit.referrer or "").rpartition("/")[2]) for *_, visit in rows(objects))


def union(log: Path, objects: Mapping[str, Object]) -> list[str | None]:
    """The referrers of the visits in the live log, in the closed logs without marker, and in the archive.

    What S3 has of a closed log without marker is the same line. Lines that are no visits must read `odd`.
    """
    waiting = [file for file in closed_logs(log) if not is_archived(log, file)]
    names = {closed_name(file) for file in waiting}
    found = [visit.referrer for name, _, visit in rows(objects) if name not in names]
    # If the process ended within a rotation or a compression, a log may have two names.
    for file in [*{closed_name(file): file for file in waiting}.values(), *([log] if log.exists() else [])]:
        content = gzip.decompress(file.read_bytes()) if is_compressed(file) else file.read_bytes()
        found += [parse_line(line).referrer for line in content.splitlines() if line != b"odd"]
    return found


def malformed(objects: Mapping[str, Object]) -> list[bytes]:
    return [gzip.decompress(each.body) for key, each in objects.items() if "/_malformed/" in key]


def archive(log: Path, bucket: FakeBucket, config: ArchiveConfig = CONFIG) -> Pass:
    """One pass of an archiver that does not wait between its tries."""
    return asyncio.run(Archiver(log, bucket, config, Backoff(0.0, 0.0)).run_once())
