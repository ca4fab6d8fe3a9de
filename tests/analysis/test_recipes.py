"""The recipes of docs/analysis.md do what they say, with the tools they name."""

import ast
import csv
import gzip
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import duckdb
import pytest

from tests.analysis.archives import archive_of
from tests.analysis.golden import LINES, TORN, write_golden

ROOT = Path(__file__).parent.parent.parent
PAGE = (ROOT / "docs/analysis.md").read_text(encoding="utf-8")


def recipe(heading: str) -> str:
    """The code of a section."""
    section = PAGE.split(f"# {heading}\n", 1)[1].split("\n#", 1)[0]
    return "\n".join(re.findall(r"^```\w*\n(.*?)^```", section, re.DOTALL | re.MULTILINE))


def run(script: str, folder: Path) -> None:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    subprocess.run(
        ["bash", "-euc", script], cwd=folder, env={**os.environ, "PATH": path}, stdout=subprocess.DEVNULL, check=True
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_golden(tmp_path)
    return tmp_path


def goaccess(heading: str, folder: Path) -> dict[str, dict[str, int]]:
    """What GoAccess counts by the recipe: of each panel the hits of each row."""
    if shutil.which("goaccess") is None:
        pytest.skip("needs goaccess")
    run(recipe(heading).replace("goaccess.html", "goaccess.json"), folder)
    said = json.loads((folder / "goaccess.json").read_text(encoding="utf-8"))
    return {
        name: {row["data"]: row["hits"]["count"] for row in panel["data"]}
        for name, panel in said.items()
        if name != "general"
    } | {"general": {name: count for name, count in said["general"].items() if isinstance(count, int)}}


def test_goaccess_reads_the_log(folder: Path) -> None:
    said = goaccess("GoAccess, on the log as it is", folder)
    # It takes the line being written for a whole one, passes an empty one over, and refuses one without a page, which
    # only the .NET service writes.
    assert said["general"]["valid_requests"] == len(LINES) - 1 + 1
    assert said["general"]["failed_requests"] == 2 + 1
    assert said["requests"]["https://example.com/a"] == 4 + 1
    assert said["visitors"] == {"20261123": 3, "20261124": 10}


def test_goaccess_reads_the_export(folder: Path) -> None:
    said = goaccess("GoAccess, on the export", folder)
    assert said["general"]["valid_requests"] == len(LINES)
    assert said["general"]["failed_requests"] == 0
    assert said["requests"]["/a"] == 4
    assert said["visitors"] == {"20261123": 3, "20261124": 10}


def test_duckdb_reads_rotated_and_gzipped_logs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    Path("visits.log").write_bytes(b"".join(LINES[:4]) + TORN[:50])
    Path("visits.log.20261123T000000Z.gz").write_bytes(gzip.compress(b"".join(LINES[4:6])))
    assert duckdb.execute(recipe("DuckDB").rstrip().rstrip(";")).fetchall()[0] == ("https://example.com/a", 4, 3)
    assert duckdb.execute(r"SELECT decode('caf\xC3\xA9'::BLOB)").fetchall() == [("café",)]


# The expression of import_logs.py (matomo-log-analytics) for what it calls ncsa_extended.
NCSA_EXTENDED = (
    r"(?P<ip>\S+)\s+\S+\s+(?P<userid>\S+)\s+\[(?P<date>.*?)\s+(?P<timezone>.*?)\]\s+"
    r'"\S+\s+(?P<path>.*?)\s+\S+"\s+(?P<status>\S+)\s+(?P<length>\S+)'
    r'\s+"(?P<referrer>.*?)"\s+"(?P<user_agent>.*?)"'
)


def test_matomos_importer_reads_the_export(folder: Path) -> None:
    run("tracker export visits.log --to combined > access.log", folder)
    lines = (folder / "access.log").read_text(encoding="ascii").splitlines()
    found = [re.match(NCSA_EXTENDED + "$", line) for line in lines]
    assert len(found) == len(LINES)
    assert all(found)
    assert found[1] is not None
    assert found[1].groupdict() == {
        "ip": "192.0.2.1",
        "userid": "-",
        "date": "23/Nov/2026:09:14:59",
        "timezone": "+0000",
        "path": "/a?from=mail",
        "status": "200",
        "length": "43",
        "referrer": "https://example.com/a?from=mail",
        "user_agent": LINES[1].split(b"|")[2].decode(),
    }


def test_matomos_importer_reads_the_log_by_our_expression() -> None:
    [expression] = re.findall(r"--log-format-regex='([^']+)'", recipe("Matomo"))
    found = re.match(expression, LINES[1].decode())
    assert found is not None
    assert found.groupdict() == {
        "date": "2026-11-23T09:14:59",
        "host": "example.com",
        "path": "/a?from=mail",
        "user_agent": LINES[1].split(b"|")[2].decode(),
        "ip": "192.0.2.1",
    }


def test_a_spreadsheet_reads_the_export(folder: Path) -> None:
    run(recipe("A spreadsheet"), folder)
    with (folder / "visits.csv").open(newline="", encoding="utf-8-sig") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["time", "page", "user_agent", "ip"]
    assert len(rows) == 1 + 10
    assert rows[1][:2] == ["2026-11-24 09:00:00", "https://Other.example/"]
    assert not [cell for row in rows for cell in row if cell[:1] in ("=", "+", "-", "@")]


def test_the_commands_of_the_page_run(folder: Path) -> None:
    (folder / "visits.log.d").mkdir()
    run(recipe("Report"), folder)
    run(recipe("Export"), folder)
    assert "</html>" in (folder / "report.html").read_text(encoding="utf-8")
    assert duckdb.execute(f"SELECT count(*) FROM '{folder}/visits.parquet'").fetchall() == [(len(LINES),)]


def test_the_report_of_the_archive_runs(tmp_path: Path) -> None:
    closed = tmp_path / "visits.log.20261125T000000.000000Z"
    closed.write_bytes(b"".join(LINES))
    archive_of(closed)
    run(PAGE.split("## The archive\n", 1)[1].split("test_recipes.py -->\n```sh\n", 1)[1].split("```", 1)[0], tmp_path)


def test_pandas_reads_the_log(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    (folder / "visits.log").write_bytes(b"".join(LINES))
    names: dict[str, Any] = {}
    *read, asked = ast.parse(recipe("pandas")).body
    exec(compile(ast.Module(read, []), "docs/analysis.md", "exec"), names)
    addresses = eval(ast.unparse(asked), names)
    found = {
        day: {line[32:].split(b"|")[-1].strip() for line in LINES if line.startswith(day)}
        for day in (b"2026-11-23", b"2026-11-24")
    }
    assert {str(day).encode(): count for day, count in addresses.items()} == {
        day: len(ips) for day, ips in found.items()
    }
    assert names["visits"].page.isna().sum() == 5
