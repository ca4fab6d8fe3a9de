"""Three questions about one archive, and the answers of every engine that docs/analysis.md names.

1. `write_logs` makes closed logs of five weeks. They have what real ones have: nulls, text that must be escaped, IPv6,
   long pages, days that share a log, logs that share a day, and malformed lines.
2. `answers_of_the_text` asks `tracker report`, and reads the lines themselves for what the report does not count.
3. `answers_of_*` take the statements of an engine from the page, and run them on the archive of these logs.
"""

import ast
import io
import json
import random
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import redirect_stdout
from datetime import UTC, date, datetime, time, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import pyarrow as pa
import yaml

from tests.guides import ROOT, guide
from tracker import cli
from tracker.core.log_line import format_line, parse_line
from tracker.core.visit import Visit
from tracker.errors import MalformedMessage

ADDRESS = "192.0.2.1"
FIRST, LAST = date(2026, 11, 1), date(2026, 11, 30)
BUCKET = "s3://my-tracker-archive/visits/"


class Answers(NamedTuple):
    by_day: list[tuple[date, int, int]]
    """Day, visits, addresses."""
    pages: list[tuple[str | None, int]]
    """The 20 most visited pages of the month without their queries, and their visits."""
    of_address: list[tuple[datetime, str | None, str, int]]
    """Time, page, log and line of the visits of `ADDRESS` in the month."""


def write_logs(folder: Path) -> list[Path]:
    chance = random.Random(15)
    pages = [
        None,
        "null",
        'https://example.com/café?q="a|b\\c"',
        "https://example.com/new?a=1?b=2#c",
        "https://example.com/#part?of=the-fragment",
        "newsletter/2026-11/top",
        "=1+1",
        "https://例え.example/🍵",
        *(f"https://{chance.choice(('example.com', 'www.example.org'))}/articles/{number}" for number in range(32)),
        "https://example.com/" + "é" * 2028,
    ]
    agents = [None, "null", "curl/8.5.0", "Mozilla/5.0", "Mozilla/5.0 (X11; Linux x86_64; rv:132.0) Firefox/132.0 ‮|"]
    addresses = [ADDRESS, *(f"198.51.100.{number}" for number in range(20)), *(f"2001:db8::{n:x}" for n in range(1, 9))]
    begin = datetime.combine(FIRST, time(), UTC)
    # Each page has another number of visits in the month, so the order of the answers is certain.
    visits = [
        Visit(begin + timedelta(days=chance.uniform(0, 30)), page, chance.choice(agents), chance.choice(addresses))
        for rank, page in enumerate(pages)
        for _ in range(2 * (len(pages) - rank))
    ]
    visits += [
        Visit(begin + timedelta(days=day), pages[-2], chance.choice(agents), ADDRESS)
        for day in (-2, -1.5, -1, -1e-10, 30, 30.5, 31, 32)
    ]
    lines = [format_line(visit) for visit in sorted(visits, key=lambda visit: visit.time)]
    for number in range(0, len(lines), 200):
        lines.insert(number, b"what is this\n")
    logs = []
    for start, end in pairwise((0, 500, 510, 1200, len(lines))):
        logs.append(folder / f"visits.log.{begin + timedelta(hours=end):%Y%m%dT%H%M%S.%fZ}")
        logs[-1].write_bytes(b"".join(lines[start:end]))
    return logs


def answers_of_the_text(logs: list[Path]) -> Answers:
    selection = [*map(str, logs), "--since", str(FIRST), "--until", str(LAST)]
    with redirect_stdout(io.TextIOWrapper(io.BytesIO(), encoding="utf-8")) as output:
        assert cli.main(["report", *selection, "--json", "--top", "20"]) == 0
        output.seek(0)
        said = json.loads(output.read())
    visits, addresses = dict[date, int](), dict[date, set[str]]()
    for quarter in said["quarters"]:
        day = datetime.fromisoformat(quarter["begin"]).date()
        visits[day] = visits.get(day, 0) + quarter["visits"]
    of_address = []
    for log, number, visit in _visits(logs):
        addresses.setdefault(visit.time.date(), set()).add(visit.ip)
        if visit.ip == ADDRESS:
            of_address.append((visit.time, visit.referrer, log, number))
    return Answers(
        [(day, count, len(addresses[day])) for day, count in visits.items()],
        [(page["name"], page["visits"]) for page in said["pages"]],
        of_address,
    )


def _visits(logs: list[Path]) -> Iterator[tuple[str, int, Visit]]:
    """The visits of the month, each with the name of its log and the number of its line."""
    for log in logs:
        for number, line in enumerate(log.read_bytes().splitlines(keepends=True), 1):
            try:
                visit = parse_line(line)
            except MalformedMessage:
                continue
            if FIRST <= visit.time.date() <= LAST:
                yield log.name, number, visit


def answers_of_duckdb(archive: Path) -> Answers:
    with duckdb.connect() as database:
        database.execute("SET TimeZone = 'Pacific/Auckland'")  # whatever the clock of the session is
        return _run_in(database, _statements("DuckDB", "archive/", f"{archive}/"))


def answers_of_athena(archive: Path) -> Answers:
    """By DuckDB, on a view with the columns of the stack's table. As in Athena, a time has milliseconds, in UTC."""
    import sqlglot  # it takes half a second, and each test process imports this module

    stack = yaml.load((ROOT / "deploy/aws/archive.yaml").read_text(encoding="utf-8"), _Stack)
    table = stack["Resources"]["Table"]["Properties"]["TableInput"]
    types = {"timestamp": "TIMESTAMP_MS", "string": "VARCHAR", "bigint": "BIGINT"}
    columns = [*table["StorageDescriptor"]["Columns"], *table["PartitionKeys"]]
    chosen = ", ".join(f"{each['Name']}::{types[each['Type']]} AS {each['Name']}" for each in columns)
    with duckdb.connect() as database:
        database.execute(
            f"SET TimeZone = 'UTC'; CREATE SCHEMA tracker; CREATE VIEW tracker.{table['Name']} AS SELECT {chosen} "
            f"FROM read_parquet('{archive}/date=*/*.parquet', hive_types_autocast = false)"
        )
        translated = [sqlglot.transpile(text, read="athena", write="duckdb")[0] for text in _statements("Athena")]
        return _run_in(database, translated)


def answers_of_clickhouse(archive: Path) -> Answers:
    """In a process of its own, because ClickHouse needs 200 MB of memory."""
    table = "s3('https://my-tracker-archive.s3.amazonaws.com/visits/"
    program = (
        "import json, sys; import chdb; sys.stdout.buffer.write(b''.join(len(data).to_bytes(8) + data for data in "
        "(chdb.query(text, 'Arrow').bytes() for text in json.load(sys.stdin))))"
    )
    statements = json.dumps(list(_statements("ClickHouse", table, f"file('{archive}/")))
    said = subprocess.run([sys.executable, "-c", program], input=statements.encode(), capture_output=True, check=True)
    return _of_tables(list(_tables(said.stdout)))


def answers_of_pandas(archive: Path) -> Answers:
    program = ast.parse(_block("pandas").replace(BUCKET, str(archive)))
    names: dict[str, Any] = {}
    by_day, pages, of_address = (value for value in _run(program, names) if value is not None)
    return Answers(
        [(day, int(row["size"]), int(row["nunique"])) for day, row in by_day.iterrows()],
        [(None if page != page else page, int(count)) for page, count in pages.items()],  # a missing page is NaN
        [
            (at.to_pydatetime(), None if page != page else page, log, line)
            for at, page, log, line in of_address.itertuples(index=False)
        ],
    )


def answers_of_spark(archive: Path, spark: Any) -> Answers:
    """`spark` is a session."""
    asked: list[list[Any]] = []

    class Session:
        conf, read = spark.conf, spark.read

        def sql(self, text: str) -> Any:
            frame = spark.sql(text)
            asked.append(frame.collect())
            return frame

    exec(_block("Spark").replace("s3a://my-tracker-archive/visits/", str(archive)), {"spark": Session()})
    by_day, pages, of_address = ([tuple(row) for row in rows] for rows in asked)
    return Answers(by_day, pages, [(at.astimezone(UTC), *rest) for at, *rest in of_address])


def _run(program: ast.Module, names: dict[str, Any]) -> Iterator[Any]:
    """Run the statements in their order, and yield the value of each expression."""
    for statement in program.body:
        if isinstance(statement, ast.Expr):
            yield eval(compile(ast.Expression(statement.value), "docs/analysis.md", "eval"), names)
        else:
            exec(compile(ast.Module([statement], []), "docs/analysis.md", "exec"), names)


class _Stack(yaml.SafeLoader):
    """CloudFormation's short forms (`!Sub`) are read as nothing."""


_Stack.add_multi_constructor("!", lambda _loader, _suffix, _node: None)


def _block(engine: str) -> str:
    [block] = guide("analysis.md", f"The archive in {engine}")
    return block.text


def _statements(engine: str, path: str = "", copy: str = "") -> Iterator[str]:
    """The statements of the page, with the path of the archive replaced by that of a copy."""
    text = _block(engine)
    assert path in text
    for statement in re.split(r";\n", text.replace(path, copy)):
        if statement.strip():
            yield statement


def _run_in(database: duckdb.DuckDBPyConnection, statements: Iterable[str]) -> Answers:
    return _of_tables([database.sql(statement).to_arrow_table() for statement in statements])


def _tables(said: bytes) -> Iterator[pa.Table]:
    while said:
        length = int.from_bytes(said[:8])
        yield pa.ipc.open_file(said[8 : 8 + length]).read_all()
        said = said[8 + length :]


def _of_tables(tables: list[pa.Table]) -> Answers:
    answered = [[tuple(row.values()) for row in table.to_pylist()] for table in tables]
    by_day, pages, of_address = answered
    return Answers(
        [(_day(day), visits, addresses) for day, visits, addresses in by_day],
        pages,
        [(_in_utc(at), page, log, line) for at, page, log, line in of_address],
    )


def _in_utc(at: datetime) -> datetime:
    return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)


def _day(day: date | str) -> date:
    return date.fromisoformat(day) if isinstance(day, str) else day


ENGINES: dict[str, Callable[[Path], Answers]] = {
    "DuckDB": answers_of_duckdb,
    "pandas": answers_of_pandas,
    "ClickHouse": answers_of_clickhouse,
    "Athena": answers_of_athena,
}
