"""The archive: closed logs as Parquet objects on S3, made by `tracker archive`, and `tracker erase` in it.

The modules, from the caller down:

1. `command` reads the command line and runs one pass, or passes for ever.
2. `archiver` archives one closed log after the other. It opens with the protocol.
3. `objects` makes the files of a closed log, with DuckDB.
4. `lines` reads the lines of a closed log.
5. `erasing` erases lines in all objects and versions. It opens with the protocol. `tracker.operations.erase` calls it.
6. `rewriting` counts the selected lines of one object, and writes it without them.
"""
