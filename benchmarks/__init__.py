"""What the project claims of its speed, measured: `make bench` and `make load`. On no visit's path.

`python -m benchmarks` runs the rows that `benchmarks.rows` lists, `python -m benchmarks.load` loads a running pixel and
proves that every visit arrived. Everything measured is the real process; only AWS is `benchmarks.fake_aws`, which is
made to cost next to nothing.
"""
