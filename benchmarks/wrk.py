"""Runs wrk, the load generator, and reads its result."""

import json
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

import msgspec

SCRIPT = Path(__file__).with_name("wrk.lua")


class WrkMissing(Exception):
    """wrk is not installed. It is a package of the operating system."""

    def __init__(self) -> None:
        super().__init__("wrk is not installed: apt-get install wrk, brew install wrk, or the like")


class Hits(msgspec.Struct, frozen=True):
    """`requests` were answered, `refused` of them with an error; `broken` got no answer. Times are in seconds."""

    requests: int
    seconds: float
    p50: float
    p99: float
    max: float
    refused: int
    broken: int

    @property
    def rate(self) -> float:
        return self.requests / self.seconds


def wrk(url: str, *, seconds: float, connections: int = 64, threads: int = 1, cores: Iterable[int] = ()) -> Hits:
    """Load `url` for `seconds`, rounded to whole seconds, at least one."""
    program = shutil.which("wrk")
    if program is None:
        raise WrkMissing
    pinned = ["taskset", "-c", ",".join(map(str, sorted(cores)))] if cores and shutil.which("taskset") else []
    command = [program, "-t", str(threads), "-c", str(connections), "-d", f"{max(1, round(seconds))}s"]
    done = subprocess.run([*pinned, *command, "-s", str(SCRIPT), url], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ConnectionError(f"wrk: {(done.stderr or done.stdout).strip()}")
    return msgspec.convert(json.loads(done.stdout.splitlines()[-1]), Hits)
