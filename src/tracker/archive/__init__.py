"""The archive: closed logs as Parquet objects on S3, made by `tracker archive`.

The modules, from the caller down:

1. `command` reads the command line and runs one pass, or passes for ever.
2. `archiver` archives one closed log after the other. It opens with the protocol.
3. `closed_logs` looks for the closed logs that wait, and `removal` removes those that were archived long ago.
4. `objects` makes the files of a closed log, with DuckDB.
5. `lines` reads the lines of a closed log.
"""
