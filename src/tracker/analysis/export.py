r"""`tracker export LOG…`: the visits of the logs for other programs, typed and unescaped.

Promise: nothing of a visit is lost or changed, but what the format asked for cannot say (docs/analysis.md), and what a
visitor sent stays in its field. It streams: only --sort and --distinct need room, and take it on the disk.
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
from tracker.analysis.log_files import open_logs
from tracker.analysis.output import replaced
from tracker.errors import TrackerError, UsageError

_CHUNK = 262_144  # bytes

_TIME_TEXT = "strftime(t, '%Y-%m-%dT%H:%M:%S.%f+00:00')"
_TEXTS = "unescape(r) AS page, unescape(u) AS user_agent, i AS ip"

# A spreadsheet takes a cell for a formula by its first character; an apostrophe makes it text (OWASP, CSV injection).
# And Excel takes a file for UTF-8 by the mark at its begin.
_CELL = "CASE WHEN regexp_matches({0}, '^[=+@\\t\\r\\n-]') THEN '''' || {0} ELSE {0} END"
_CELLS = (
    f"strftime(t, '%Y-%m-%d %H:%M:%S') AS \"\ufefftime\", {_CELL.format('unescape(r)')} AS page, "
    f"{_CELL.format('unescape(u)')} AS user_agent, i AS ip"
)

# The line that nginx would have written (escape=default) for a visit of the page itself: the log's own escapes, but
# for `|`, which nginx leaves, and the quote, which it does not. A text that is the sign for nothing is escaped, too.
_QUOTED = "CASE {0} WHEN '-' THEN '\\x2D' ELSE coalesce(replace(replace({0}, '\"', '\\x22'), '\\x7C', '|'), '-') END"
_PATH = "regexp_extract(r, '^[^/?]*//[^/?]*(.*)$', 1)"
_REQUESTED = (
    "CASE WHEN r IS NULL OR NOT regexp_matches(r, '^[^/?]*//') THEN '/-' "
    f"ELSE CASE WHEN starts_with({_PATH}, '/') THEN '' ELSE '/' END || "
    f"replace(replace(replace({_PATH}, '\"', '\\x22'), '\\x7C', '|'), ' ', '%20') END"
)
_COMBINED = (
    "i || ' - - [' || strftime(t, '%d/%b/%Y:%H:%M:%S +0000') || '] \"GET ' || "
    f"{_REQUESTED} || ' HTTP/1.1\" 200 43 \"' || "
    f"{_QUOTED.format('r')} || '\" \"' || {_QUOTED.format('u')} || '\"' AS line"
)

# The format: what is selected of a scan, and how COPY writes it.
_FORMATS = {
    "csv": (f"{_TIME_TEXT} AS time, {_TEXTS}", "FORMAT csv, HEADER true, QUOTE '\"', ESCAPE '\"'"),
    "spreadsheet": (_CELLS, "FORMAT csv, HEADER true, QUOTE '\"', ESCAPE '\"', FORCE_QUOTE (page, user_agent)"),
    "jsonl": (f"{_TIME_TEXT} AS time, {_TEXTS}", "FORMAT json"),
    "parquet": (f"t AT TIME ZONE 'UTC' AS time, {_TEXTS}", "FORMAT parquet, COMPRESSION zstd"),
    # The delimiter is never in a line, and nothing is quoted again, as DuckDB would quote even what holds a `#`.
    "combined": (_COMBINED, "FORMAT csv, HEADER false, DELIMITER '\x01', QUOTE '', ESCAPE ''"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    selection.add_arguments(parser)
    parser.add_argument("--to", choices=_FORMATS, required=True, help="the format")
    parser.add_argument("--output", "-o", type=Path, metavar="FILE", help="standard output, if not given")
    parser.add_argument("--sort", action="store_true", help="by time; else in the order of the log")
    parser.add_argument("--distinct", action="store_true", help="a visit that is there twice, once; sorted, too")


def run(options: argparse.Namespace) -> int:
    require_extra()
    if options.output is not None:
        with replaced(options.output) as path:
            _export(options, path)
    elif options.to == "parquet":
        raise UsageError("--to parquet: expected --output FILE, because a Parquet file cannot be written to a pipe")
    else:
        with _standard_output() as path:
            _export(options, path)
    return 0


def _export(options: argparse.Namespace, path: Path) -> None:
    from tracker.analysis.database import open_database, scan
    from tracker.analysis.progress import progress

    columns, how = _FORMATS[options.to]
    condition, values = selection.selection_of(options).condition()
    distinct = "DISTINCT" if options.distinct else ""
    order = "ORDER BY t, i, r, u" if options.sort or options.distinct else ""
    target = str(path).replace("'", "''")
    with open_logs(options.logs) as logs, open_database() as database:
        with progress(logs), scan(logs, readers=1) as source:
            database.execute(
                f"COPY (SELECT {columns} FROM (SELECT {distinct} * FROM {source} WHERE {condition}) {order}) "
                f"TO '{target}' ({how}, USE_TMP_FILE false)",
                values,
            )
        for note in logs.notes:
            print(f"tracker: {note}", file=sys.stderr)


@contextmanager
def _standard_output() -> Iterator[Path]:
    """A pipe that leads there. By its own name it would be truncated, where it is a file that already holds something.

    When its reader has seen enough, the export ends like `cat` does: quietly.
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
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at exit
