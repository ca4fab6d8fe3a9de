"""`make rehearse`: the guides' own commands on real engines, with visitors.

    python -m tests.rehearse [systemd] [docker] [compose] [spark] [--base FOLDER]

1. What the parts need from a network is made: a Debian tree, wheels, LocalStack, Spark. With `--base` it is kept for
   the next run.
2. Each part runs in namespaces of its own for network, mounts and processes. So it has only a loopback, with every port
   free; and when it ends, however it ends, the kernel ends its processes and undoes its mounts.
3. A part is skipped, with the reason, if this machine lacks what it needs.

Exit status: 0 all parts went well, 1 a part failed, 2 wrong command line, 3 no part failed and some were skipped.
"""

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from tests.launched import ROOT
from tests.rehearse import on_docker, on_spark, on_systemd
from tests.rehearse.prepared import Missing, program, run

INSIDE = "--inside"


class Part(NamedTuple):
    prepare: Callable[[Path], None]
    rehearse: Callable[[Path, Path, Callable[[str], None]], None]


PARTS = {
    "systemd": Part(on_systemd.prepare, on_systemd.rehearse),
    "docker": Part(on_docker.prepare, on_docker.rehearse),
    "compose": Part(on_docker.prepare_compose, on_docker.rehearse_compose),
    "spark": Part(on_spark.prepare, on_spark.rehearse),
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="make rehearse", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"one of {', '.join(PARTS)}; all if not given")
    parser.add_argument(
        "--base", type=Path, help="keep the Debian tree, the wheels and LocalStack here for the next run"
    )
    parser.add_argument(INSIDE, type=Path, help=argparse.SUPPRESS)  # the folder of the part; within its namespaces
    options = parser.parse_args()
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; the parts are {', '.join(PARTS)}")
    if options.inside:
        run("ip", "link", "set", "lo", "up")
        run("mount", "-t", "tmpfs", "rehearsal", "/run")  # the engines' sockets and states: none of the host's
        PARTS[options.parts[0]].rehearse(options.base, options.inside, say)
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that the folder is removed
    with tempfile.TemporaryDirectory(prefix="rehearsal-", dir="/var/tmp") as folder:
        base = (options.base or Path(folder)).resolve()
        base.mkdir(parents=True, exist_ok=True)
        return conclude({name: attempt(name, base, Path(folder)) for name in options.parts or PARTS})


def attempt(name: str, base: Path, folder: Path) -> str | None:
    """Run a part. Returns None if it went well, otherwise why not: what is missing, or `failed`."""
    began = time.monotonic()
    say(f"{name}: preparing")
    try:
        if os.geteuid() != 0:
            raise Missing("namespaces and mounts need root")
        PARTS[name].prepare(base)
        command = [*in_namespaces(), sys.executable, "-m", "tests.rehearse", name]
    except Missing as error:
        return f"skipped: {error}"
    except AssertionError as error:  # a download has failed
        return f"skipped: it cannot be prepared: {error}"
    home = folder / name
    home.mkdir()
    before = control_groups()
    try:
        done = subprocess.run([*command, "--base", base, INSIDE, home], cwd=ROOT, check=False)
    finally:
        for group in control_groups() - before:
            remove(group)
    if done.returncode != 0:
        return "failed"
    say(f"{name}: went well, {time.monotonic() - began:.0f} s")
    return None


def in_namespaces() -> list[str]:
    """The begin of a command that has namespaces of its own. Raises Missing."""
    # setpriv: the kernel kills unshare when this process is killed, and --kill-child all that the command has started.
    setpriv = [program("setpriv", "util-linux"), "--pdeathsig", "KILL", "--"]
    namespaces = ["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--"]
    return [*setpriv, program("unshare", "util-linux"), *namespaces]


def control_groups() -> set[Path]:
    """The control groups of engines. No namespace removes those that a part has made."""
    return {path for name in ("payload", "docker") for path in Path("/sys/fs/cgroup").glob(f"**/{name}")}


def remove(group: Path) -> None:
    """Remove a control group with those in it, when its killed processes have ended. The kernel keeps a used one."""
    for _ in range(50):
        for path in sorted(group.glob("**/"), reverse=True):
            with contextlib.suppress(OSError):
                path.rmdir()
        if not group.exists():
            return
        time.sleep(0.1)


def conclude(results: dict[str, str | None]) -> int:
    for name, reason in results.items():
        say(f"{name}: {reason or 'well'}")
    if "failed" in results.values():
        return 1
    return 3 if any(results.values()) else 0


def say(text: str) -> None:
    print(f"rehearse: {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
