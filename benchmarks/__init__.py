"""Measures what the project claims of its speed: `make bench` and `make load`. No service imports this package.

`python -m benchmarks` runs the rows that `benchmarks.rows` lists, `python -m benchmarks.load` loads a running pixel and
proves that every visit arrived. The processes that are measured are the real ones. Only AWS is replaced, by
`benchmarks.fake_aws`, which takes almost no time.
"""
