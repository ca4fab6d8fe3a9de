"""DuckDB in front of the log files: a scan that any statement may read, in bounded memory, with nothing left behind.

The blocks of plain lines go through pipes that DuckDB reads as CSV files. So it sees what `plain` promises and nothing
else, a log that grows or is compressed is one to it like any other, and the bytes pass once.
"""

import fcntl
import os
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb

from tracker.analysis.log_files import LONGEST_PLAIN_LINE, LogFiles
from tracker.errors import TrackerError

MEMORY_LIMIT = "200MB"  # of DuckDB's own; what needs more is spilled into the temporary folder
_PIPE_BYTES = 1_048_576
_LET_GO_WITHIN = 1.0  # seconds
_SET_PIPE_SIZE = getattr(fcntl, "F_SETPIPE_SZ", 1031) if sys.platform == "linux" else None

# How the text of a log column is read: canonical escapes are what DuckDB reads in a literal of bytes.
_MACROS = r"""
CREATE MACRO unescape(c) AS CASE WHEN contains(c, '\') THEN decode(c::BLOB) ELSE c END;
CREATE MACRO page_of(referrer) AS split_part(referrer, '?', 1);
CREATE MACRO site_of(page) AS
    CASE WHEN split_part(page, '/', 2) = '' THEN nullif(lower(split_part(page, '/', 3)), '') END;
"""


@contextmanager
def open_database() -> Iterator[duckdb.DuckDBPyConnection]:
    """A database in a temporary folder (under TMPDIR), gone afterwards. Raises TrackerError, of a full disk for one."""
    with tempfile.TemporaryDirectory(prefix="tracker-") as folder:
        settings: dict[str, str | bool | int | float | list[str]] = {
            "memory_limit": MEMORY_LIMIT,
            "temp_directory": str(Path(folder) / "spilled"),
            # Nothing is fetched from anywhere, whatever a statement asks for.
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
        }
        database = duckdb.connect(str(Path(folder) / "visits.duckdb"), config=settings)
        try:
            database.execute("SET enable_progress_bar = false; SET TimeZone = 'UTC'")
            database.execute(_MACROS)
            yield database
        except duckdb.Error as error:
            raise TrackerError(str(error)) from error
        except RuntimeError as error:
            if str(error) != "Query interrupted":
                raise
            raise KeyboardInterrupt from error  # which it was before DuckDB took it
        finally:
            database.close()


@contextmanager
def scan(logs: LogFiles, readers: int) -> Iterator[str]:
    """What to write behind FROM: columns t (a TIMESTAMP in UTC), r, u and i, escaped as in the log, NULL if missing.

    For one statement. With one reader the lines come in their order; more of them use more cores. Raises at its end
    what reading the files raised.
    """
    pipes = [os.pipe() for _ in range(readers)]
    failures: list[BaseException] = []
    feeders = [threading.Thread(target=_feed, args=(logs, write, failures), daemon=True) for _, write in pipes]
    for feeder in feeders:
        feeder.start()
    paths = ", ".join(f"'/dev/fd/{read}'" for read, _ in pipes)
    try:
        yield (
            f"read_csv([{paths}], auto_detect=false, header=false, delim='|', quote='', escape='', nullstr='null', "
            "columns={'t': 'TIMESTAMP', 'r': 'VARCHAR', 'u': 'VARCHAR', 'i': 'VARCHAR'}, new_line='\\n', "
            f"max_line_size={LONGEST_PLAIN_LINE}, buffer_size={2 * LONGEST_PLAIN_LINE})"
        )
    finally:
        for read, _ in pipes:
            os.close(read)  # a feeder still at work ends by the broken pipe
        for feeder in feeders:
            feeder.join(_LET_GO_WITHIN)  # one that waits for standard input is left to the end of the process
    if failures:
        raise failures[0]


def _feed(logs: LogFiles, write: int, failures: list[BaseException]) -> None:
    try:
        if _SET_PIPE_SIZE is not None:
            try:
                fcntl.fcntl(write, _SET_PIPE_SIZE, _PIPE_BYTES)
            except PermissionError:
                pass  # the system grants less; it is slower, no more
        while (block := logs.next_block()) is not None:
            left = memoryview(block)
            while left:
                left = left[os.write(write, left) :]
    except BrokenPipeError:
        pass  # nobody reads any more
    except BaseException as error:
        failures.append(error)
    finally:
        os.close(write)
