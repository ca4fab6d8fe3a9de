"""DuckDB over the log files: any SQL statement can scan them, in bounded memory. No file remains afterwards.

1. Threads take blocks of plain lines from `log_files` and write them into pipes.
2. DuckDB reads the pipes as CSV files.

So DuckDB reads only lines in the form of `plain`, a log that grows or is compressed needs no code of its own, and every
byte is read once.
"""

import fcntl
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager

import duckdb

from tracker.analysis.log_files import LONGEST_PLAIN_LINE, LogFiles
from tracker.analysis.parquet_scan import name_damaged, parquet_visits
from tracker.analysis.plain import CHECKSUM_CHARACTERS, LONG_TEXT, SHORTENED, WHOLE_CHARACTERS, shortened
from tracker.errors import TrackerError
from tracker.temporary_folder import temporary_folder

MEMORY_LIMIT = "200MB"  # for DuckDB; what needs more is written to the temporary folder
_READ_PLAIN = (  # the options of read_csv, without the columns
    "auto_detect=false, header=false, delim='|', quote='', escape='', nullstr='null', new_line='\\n', "
    f"max_line_size={LONGEST_PLAIN_LINE}, buffer_size={2 * LONGEST_PLAIN_LINE}"
)

# DuckDB's threads share this memory, and each needs some of it to sort. So their number does not grow with the machine.
REPORT_THREADS = min(4, os.cpu_count() or 1)
# With two, writing a million sorted visits as CSV needs more than this memory. One takes no more CPU time.
EXPORT_THREADS = 1
_PIPE_BYTES = 1_048_576
_FEEDER_END_SECONDS = 1.0
_SET_PIPE_SIZE = getattr(fcntl, "F_SETPIPE_SZ", 1031) if sys.platform == "linux" else None

# The escapes of the log are those of a BLOB literal of DuckDB, so a cast to BLOB reads them. A cast back writes them,
# but it escapes quotes too, and not `|`. A search for what needs no escape would take longer than these steps do.
_MACROS = r"""
CREATE MACRO unescape(c) AS CASE WHEN contains(c, '\') THEN decode(c::BLOB) ELSE c END;
CREATE MACRO escape(c) AS CASE c WHEN 'null' THEN '\x6Eull'
    ELSE replace(replace(replace(encode(c)::VARCHAR, '\x27', chr(39)), '\x22', '"'), '|', '\x7C') END;
CREATE MACRO page_of(referrer) AS split_part(referrer, '?', 1);
CREATE MACRO is_url(page) AS strpos(page, '://') BETWEEN 1 AND strpos(page, '/');  -- the first slash is in `://`
CREATE MACRO site_of(page) AS
    nullif(CASE WHEN is_url(page) THEN lower(split_part(page, '/', 3)) ELSE split_part(page, '/', 1) END, '');
"""
# The same as `plain.shortened`, for texts that are escaped as in the log.
_SHORT_MACROS = rf"""
CREATE MACRO short_text(c) AS CASE
    WHEN strlen(c) <= {LONG_TEXT} THEN c
    ELSE regexp_extract(c[:{LONG_TEXT}], '^(?:{WHOLE_CHARACTERS})*') || '{SHORTENED}'
        || sha256(c)[:{CHECKSUM_CHARACTERS}] END;
CREATE MACRO short_page(c) AS CASE
    WHEN strlen(c) <= {LONG_TEXT} OR NOT contains(c, '?') THEN short_text(c)
    ELSE short_text(page_of(c)) || '?' || short_text(c[strpos(c, '?') + 1:]) END;
"""


@contextmanager
def open_database(threads: int) -> Iterator[duckdb.DuckDBPyConnection]:
    """A database in a temporary folder (under TMPDIR), removed afterwards. Raises TrackerError, as for a full disk."""
    with temporary_folder() as folder:
        settings: dict[str, str | bool | int | float | list[str]] = {
            "memory_limit": MEMORY_LIMIT,
            "threads": threads,
            "temp_directory": str(folder / "spilled"),
            # No statement may make DuckDB download an extension.
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
        }
        try:
            with closing(duckdb.connect(str(folder / "visits.duckdb"), config=settings)) as database:
                database.execute("SET enable_progress_bar = false; SET TimeZone = 'UTC'")
                database.execute(_MACROS + _SHORT_MACROS)
                yield database
        except duckdb.Error as error:
            raise TrackerError(str(error)) from error
        except RuntimeError as error:
            if str(error) != "Query interrupted":
                raise
            raise KeyboardInterrupt from error  # DuckDB has turned Ctrl-C into this error


@contextmanager
def visits_of(
    database: duckdb.DuckDBPyConnection, logs: LogFiles, readers: int, *, short: bool = False
) -> Iterator[str]:
    """Yields the SQL to write after FROM for all visits of `logs`: `scan`, behind those of their Parquet files.

    Raises TrackerError when a Parquet file is damaged or not one of ours.
    """
    try:
        parquet = parquet_visits(database, logs.parquet, short=short) if logs.parquet.paths else ""
        if parquet and not logs.files:
            yield parquet
        else:
            with scan(logs, readers, short=short) as texts:
                yield f"(FROM {parquet} UNION ALL FROM {texts})" if parquet else texts
    except duckdb.Error:
        name_damaged(database, logs.parquet)
        raise


@contextmanager
def scan(logs: LogFiles, readers: int, *, short: bool = False) -> Iterator[str]:
    """Yields the SQL to write after FROM. Its columns are t (a TIMESTAMP in UTC), r (referrer), u (user agent), i (IP).

    Texts are escaped as in the log; a missing one is NULL. With `short`, long ones are shortened (`plain.shortened`).
    The SQL can be used in one statement. With one reader the lines keep their order; more readers use more cores.
    Errors of reading are raised at the end of the context.
    """
    pipes = [os.pipe() for _ in range(readers)]
    failures: list[BaseException] = []
    feeders = [threading.Thread(target=_feed, args=(logs, write, failures, short), daemon=True) for _, write in pipes]
    for feeder in feeders:
        feeder.start()
    paths = ", ".join(f"'/dev/fd/{read}'" for read, _ in pipes)
    try:
        yield (
            f"read_csv([{paths}], columns={{'t': 'TIMESTAMP', 'r': 'VARCHAR', 'u': 'VARCHAR', 'i': 'VARCHAR'}}, "
            f"{_READ_PLAIN})"
        )
    finally:
        for read, _ in pipes:
            os.close(read)  # a feeder that is still writing gets BrokenPipeError and ends
        for feeder in feeders:
            feeder.join(_FEEDER_END_SECONDS)  # a feeder that waits for standard input ends with the process
    if failures:
        raise failures[0]


def _feed(logs: LogFiles, write: int, failures: list[BaseException], short: bool) -> None:
    try:
        if _SET_PIPE_SIZE is not None:
            try:
                fcntl.fcntl(write, _SET_PIPE_SIZE, _PIPE_BYTES)
            except PermissionError:
                pass  # the system allows smaller pipes only, which are slower
        while (block := logs.next_block()) is not None:
            left = memoryview(shortened(block) if short else block)
            while left:
                left = left[os.write(write, left) :]
    except BrokenPipeError:
        pass  # the statement has ended
    except BaseException as error:
        failures.append(error)
    finally:
        os.close(write)
