"""The archive: closed logs as Parquet objects on S3, made by `tracker archive`, and `tracker erase` in it.

The modules, from the caller down:

1. `command` reads the command line and runs one pass, or passes for ever.
2. `archiver` archives one closed log after the other. It opens with the protocol.
3. `closed_logs` looks for the closed logs that wait, and `removal` removes those that were archived long ago.
4. `objects` makes the files of a closed log.
5. `lines` reads the lines of a closed log, and `columns` reads thousands of them at once.
6. `day_files` writes the Parquet files, one for each day.
7. `erasing` erases lines in all objects and versions. It opens with the protocol. `tracker.operations.erase` calls it.
8. `rewriting` counts the selected lines of one object, and writes it without them.
9. `taking_back` removes the objects of a closed log whose archiving has not ended, so that it can be erased.
10. `version_calls` are the calls of 7 and 9, and `retries` makes a call of S3 again, for 2, 7 and 9.

Arrow is imported in this package only, and only when a command runs. It is the `archive` extra.
"""

from tracker import extras


def require_extra() -> None:
    """Raises TrackerError, with what to install, when a package of the extra is missing."""
    extras.require({**extras.ZSTD, "pyarrow": "pyarrow"}, "archive", "the archive needs")
