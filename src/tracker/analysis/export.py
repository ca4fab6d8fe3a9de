r"""`tracker export LOG…`: the visits of the logs for other programs, typed and unescaped.

Nothing of a visit is lost or changed, except for what the format cannot express (docs/analysis.md). No text of a
visitor can end its field. The export is streamed. Only --sort and --distinct need space, and they use the disk for it.
"""

import argparse
import os
import shutil
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tracker.analysis import require_extra, selection
from tracker.analysis.log_files import LogFiles, open_logs
from tracker.analysis.output import replaced
from tracker.errors import TrackerError, UsageError
from tracker.exit_status import COULD_NOT_LOOK, OK, print_error

_CHUNK = 262_144  # bytes

_TIME_TEXT = "strftime(t, '%Y-%m-%dT%H:%M:%S.%f+00:00')"
_TEXTS = "unescape(r) AS page, unescape(u) AS user_agent, i AS ip"

# A spreadsheet reads a cell with certain first characters, full-width ones too, as a formula; an apostrophe before them
# makes it text (OWASP, CSV injection). A spreadsheet that expects another separator than the comma splits a cell there.
# Excel reads a file as UTF-8 only with the byte order mark at its start.
_CELL = "regexp_replace({0}, '(^|[;,|\\s])([=+@\\t\\r\\n\uff1d\uff0b\uff20\uff0d\u2212-])', '\\1''\\2', 'g')"
_AGENT = "kind, name AS agent, system, device"
_AGENT_CELLS = (
    f"kind, {_CELL.format('name')} AS agent, {_CELL.format('system')} AS system, {_CELL.format('device')} AS device"
)
_CELLS = (
    f"strftime(t, '%Y-%m-%d %H:%M:%S') AS \"\ufefftime\", {_CELL.format('unescape(r)')} AS page, "
    f"{_CELL.format('unescape(u)')} AS user_agent, i AS ip"
)

# The line that nginx would have written (escape=default) for a visit of the page itself. Its escapes are those of the
# log, except that nginx leaves `|` as it is and escapes the quote. The text `-` means "missing", so it is escaped too.
_QUOTED = "CASE {0} WHEN '-' THEN '\\x2D' ELSE coalesce(replace(replace({0}, '\"', '\\x22'), '\\x7C', '|'), '-') END"
_PATH = "CASE WHEN is_url(page_of(r)) THEN regexp_extract(r, '^[^/?]*//[^/?]*(.*)$', 1) ELSE r END"
_REQUESTED = (
    "CASE WHEN r IS NULL OR r = '\\x6Eull' THEN '/-' "
    f"ELSE CASE WHEN starts_with({_PATH}, '/') THEN '' ELSE '/' END || "
    f"replace(replace(replace({_PATH}, '\"', '\\x22'), '\\x7C', '|'), ' ', '%20') END"
)
_COMBINED = (
    "i || ' - - [' || strftime(t, '%d/%b/%Y:%H:%M:%S +0000') || '] \"GET ' || "
    f"{_REQUESTED} || ' HTTP/1.1\" 200 43 \"' || "
    f"{_QUOTED.format('r')} || '\" \"' || {_QUOTED.format('u')} || '\"' AS line"
)

# For each format: what is selected from a scan, and the options of COPY.
_FORMATS = {
    "csv": (f"{_TIME_TEXT} AS time, {_TEXTS}", "FORMAT csv, HEADER true, QUOTE '\"', ESCAPE '\"'"),
    "spreadsheet": (_CELLS, "FORMAT csv, HEADER true, QUOTE '\"', ESCAPE '\"', FORCE_QUOTE (page, user_agent)"),
    "jsonl": (f"{_TIME_TEXT} AS time, {_TEXTS}", "FORMAT json"),
    "parquet": (f"t AT TIME ZONE 'UTC' AS time, {_TEXTS}", "FORMAT parquet, COMPRESSION zstd"),
    # The delimiter is in no line, and quoting is off, because DuckDB would quote even a text with a `#`.
    "combined": (_COMBINED, "FORMAT csv, HEADER false, DELIMITER '\x01', QUOTE '', ESCAPE ''"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    selection.add_arguments(parser)
    parser.add_argument("--to", choices=_FORMATS, required=True, help="the format")
    parser.add_argument("--output", "-o", type=Path, metavar="FILE", help="default: standard output")
    parser.add_argument("--sort", action="store_true", help="sort by time; otherwise the order of the log is kept")
    parser.add_argument(
        "--agents", action="store_true", help="add columns: kind (person, proxy, scanner, bot), agent, system, device"
    )
    parser.add_argument("--distinct", action="store_true", help="write equal visits once; this also sorts")


def run(options: argparse.Namespace) -> int:
    require_extra()
    if options.agents and options.to == "combined":
        raise UsageError("--agents: the Combined Log Format has no column for it; expected another format after --to")
    if options.output is None and options.to == "parquet":
        raise UsageError("--to parquet: expected --output FILE, because a Parquet file cannot be written to a pipe")
    chosen = selection.selection_of(options)
    complete = True  # also when the reader of standard output ended
    with (
        open_logs(options.logs, chosen.since, chosen.until) as logs,
        _standard_output() if options.output is None else replaced(options.output, logs.mode) as path,
    ):
        complete = _export(options, chosen, logs, path)
    return OK if complete else COULD_NOT_LOOK


def _export(options: argparse.Namespace, chosen: selection.Selection, logs: LogFiles, path: Path) -> bool:
    """Returns whether all logs could be read to their ends."""
    from tracker.analysis.database import EXPORT_THREADS, open_database, visits_of
    from tracker.analysis.progress import progress
    from tracker.analysis.visits import classify_agents

    columns, how = _FORMATS[options.to]
    if options.agents:
        columns += f", {_AGENT_CELLS if options.to == 'spreadsheet' else _AGENT}"
    target = str(path).replace("'", "''")
    with open_database(EXPORT_THREADS) as database:

        def copy(visits: str, order: str, values: list[object]) -> None:
            order = "t, i, r, u" if options.sort or options.distinct else order
            database.execute(
                f"COPY (SELECT {columns} FROM ({visits}) {'ORDER BY ' * bool(order)}{order}) "
                f"TO '{target}' ({how}, USE_TMP_FILE false)",
                values,
            )

        with progress(logs):
            with visits_of(database, logs, readers=1) as source:
                visits, values = chosen.visits_in(source)
                if options.distinct:
                    visits = f"SELECT DISTINCT * FROM ({visits})"
                if options.agents:
                    database.execute(f"CREATE TABLE chosen AS {visits}", values)
                else:
                    copy(visits, "", values)
            if options.agents:
                classify_agents(database, "SELECT coalesce(u, '') AS agent FROM chosen")
                copy("SELECT *, chosen.rowid AS place FROM chosen JOIN agents ON agent = coalesce(u, '')", "place", [])
        for note in logs.notes:
            print_error(f"tracker: {note}")
        return not logs.problems


@contextmanager
def _standard_output() -> Iterator[Path]:
    """Yields the path of a pipe, whose content a thread copies to standard output.

    DuckDB cannot open standard output itself: if that is a file with content (`>>`), DuckDB would truncate it. When the
    reader of standard output ends, the export ends without an error, as `cat` does.
    """
    read, write = os.pipe()
    unread = threading.Event()

    def forward() -> None:
        try:
            with open(read, "rb", buffering=0) as pipe:
                shutil.copyfileobj(pipe, sys.stdout.buffer, _CHUNK)
            sys.stdout.buffer.flush()
        except BrokenPipeError:
            unread.set()

    forwarding = threading.Thread(target=forward, daemon=True)
    forwarding.start()
    try:
        yield Path(f"/dev/fd/{write}")
    except TrackerError:
        if not unread.is_set():
            raise
    finally:
        os.close(write)
        forwarding.join()
        if unread.is_set():
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # so that the flush at exit does not fail
