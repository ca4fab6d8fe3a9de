"""Runs wrk, the load generator, and reads its result."""

import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from benchmarks.visitors import requests

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


def wrk(
    url: str, *, seconds: float, connections: int = 64, threads: int = 1, cores: Iterable[int] = (), mix: str = "mixed"
) -> Hits:
    """Load `url` with the requests of a mix for `seconds`, rounded to whole seconds, at least one."""
    program = shutil.which("wrk")
    if program is None:
        raise WrkMissing
    target = urlsplit(url)
    pinned = ["taskset", "-c", ",".join(map(str, sorted(cores)))] if cores and shutil.which("taskset") else []
    command = [program, "-t", str(threads), "-c", str(connections), "-d", f"{max(1, round(seconds))}s"]
    with tempfile.NamedTemporaryFile() as file:
        file.write(b"".join(requests(mix, host=target.netloc, path=target.path)))
        file.flush()
        command += ["-s", str(SCRIPT), url, "--", file.name]
        done = subprocess.run([*pinned, *command], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ConnectionError(f"wrk: {(done.stderr or done.stdout).strip()}")
    return msgspec.convert(json.loads(done.stdout.splitlines()[-1]), Hits)
