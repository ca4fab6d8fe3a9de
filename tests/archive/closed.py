"""Closed logs for the tests of the archive, and the archive read back."""

import gzip
import io
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow.parquet as pq

from tests.fake_aws.s3 import Object
from tracker.config import ArchiveConfig
from tracker.core.log_line import format_line
from tracker.core.visit import Visit

CONFIG = ArchiveConfig(url="s3://archive/years")
NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)


def line(number: int, at: datetime = NOON, ip: str = "192.0.2.1") -> bytes:
    return format_line(Visit(at + timedelta(seconds=number), f"https://example.com/{number}", "agent | é", ip))


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


def malformed(objects: Mapping[str, Object]) -> list[bytes]:
    return [gzip.decompress(each.body) for key, each in objects.items() if "/_malformed/" in key]
