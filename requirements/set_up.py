"""Makes the virtual environment of the make targets, or brings it up to date.

    python3 -I requirements/set_up.py VENV LOCK [--with-this-python]

`VENV/.ready` says what the environment has: the version of Python, a hash of the package's metadata, and the pins.

1. If it has all pins of LOCK, there is nothing to do. The pins of run.txt are among those of development.txt.
2. One set-up runs at a time. It holds a lock on `VENV.lock`, and so does its pip: when a set-up is killed, the next one
   waits until that pip has ended.
3. Before anything in VENV changes, `.ready` says `unfinished`. A set-up that finds this word begins again with an empty
   VENV: nobody can know how much of a package an interrupted pip has written. pip's own cache keeps the downloads.
4. VENV is also made anew when its Python or its pip does not work, and with `--with-this-python` when it has another
   version of Python than the one that runs this file.
5. pip installs LOCK, then the package itself in editable form. Then `.ready` is written.

A machine that runs this for the first time has Python and make only, and perhaps a Python that is too old. So this file
uses the standard library alone, and syntax that Python 3.7 reads.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import os
import re
import selectors
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import IO

OLDEST = (3, 11, 2)  # setup.cfg: python_requires
ROOT = Path(__file__).resolve().parent.parent
UNFINISHED = "unfinished"
SHOW_SECONDS = 2.0  # between two lines of progress
# pip's settings that say how to reach an index. Others could send the packages to another place (PIP_TARGET, PIP_USER).
PIP_SETTINGS = re.compile(
    "PIP_(CONFIG_FILE|(EXTRA_)?INDEX_URL|NO_INDEX|FIND_LINKS|TRUSTED_HOST|PROXY|(CLIENT_)?CERT|(DEFAULT_)?TIMEOUT|RETRIES"
    "|CACHE_DIR|NO_CACHE_DIR|KEYRING_PROVIDER)"
)


class SetUpFailed(Exception):
    """The environment is not ready. The text is for the user."""


def main() -> int:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # the Makefile has it ignored until here
    parser = argparse.ArgumentParser(description="Make the virtual environment, or bring it up to date.")
    parser.add_argument("venv", type=Path)
    parser.add_argument("lock", type=Path)
    parser.add_argument("--with-this-python", action="store_true", help="not the one that the environment has")
    options = parser.parse_args()
    environment = Environment(options.venv, options.lock, options.with_this_python)
    if environment.is_ready():
        return 0
    again = f"The next `make` begins {options.venv} again."
    try:
        environment.set_up()
    except KeyboardInterrupt:
        print(f"\nThe set-up was interrupted. {again}", file=sys.stderr)
        return 130
    except (SetUpFailed, OSError, subprocess.SubprocessError) as error:
        print(f"The set-up of {options.venv} failed: {error}. {again}", file=sys.stderr)
        return 1
    return 0


class Environment:
    def __init__(self, venv: Path, lock: Path, with_this_python: bool) -> None:
        self._venv = venv
        self._python = venv / "bin" / "python"
        self._lock = lock
        self._with_this_python = with_this_python
        self._stamp = venv / ".ready"
        metadata = (ROOT / "setup.cfg").read_bytes() + (ROOT / "pyproject.toml").read_bytes()
        # The path is in the editable install: a tree that was moved or copied needs it again.
        self._package = f"package {hashlib.sha256(metadata + os.fsencode(ROOT)).hexdigest()}"
        self._pins = set(re.findall(r"^[\w.-]+==[^\s;]+", lock.read_text("utf-8"), re.MULTILINE))

    def is_ready(self) -> bool:
        has = self._has()
        if self._with_this_python and f"python {_version()}" not in has:
            return False
        return self._package in has and self._pins <= has and self._python.exists()

    def set_up(self) -> None:
        started = time.monotonic()
        with open(f"{self._venv}.lock", "w") as held:
            self._wait_for(held)
            if self.is_ready():
                return  # the set-up that held the lock has done it
            had = self._has()
            kept = self._is_usable(had)
            if not kept:
                self._empty()
            self._stamp.write_text(UNFINISHED)
            if not kept:
                _say(f"1/3 making {self._venv} with Python {_version()}")
                self._run([sys.executable, "-I", "-m", "venv", str(self._venv)], held)
            else:
                _say(f"1/3 {self._venv} is there")
            _say(f"2/3 installing {len(self._pins)} packages from {self._lock}")
            self._pip(held, "--require-hashes", "-r", str(self._lock), total=len(self._pins))
            _say("3/3 installing Tracker itself, in editable form")
            self._pip(held, "--no-build-isolation", "-e", ".")
            self._write_stamp(had if kept else set())
        _say(f"{self._venv} is ready after {time.monotonic() - started:.0f} s")

    def _has(self) -> set[str]:
        try:
            return set(self._stamp.read_text("utf-8").splitlines())
        except (OSError, ValueError):
            return set()

    def _write_stamp(self, had: set[str]) -> None:
        """The pins of LOCK, and of what was there before those of packages that LOCK does not name."""
        named = {pin.split("==")[0] for pin in self._pins}
        others = {line for line in had if "==" in line and line.split("==")[0] not in named}
        version = subprocess.check_output(
            [str(self._python), "-I", "-c", "import sys; print(sys.version.split()[0])"],
            env=_environment(),
            universal_newlines=True,
        )
        text = "\n".join([f"python {version.strip()}", self._package, *sorted(others | self._pins), ""])
        unnamed = self._stamp.with_name(".ready.new")
        unnamed.write_text(text, "utf-8")
        os.replace(str(unnamed), str(self._stamp))  # at once: a half stamp would name too little or too much

    def _wait_for(self, held: IO[str]) -> None:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _say(f"waiting for another set-up of {self._venv}")
            fcntl.flock(held, fcntl.LOCK_EX)

    def _is_usable(self, had: set[str]) -> bool:
        if UNFINISHED in had or (self._with_this_python and f"python {_version()}" not in had):
            return False
        try:
            command = [str(self._python), "-I", "-c", "import pip"]
            done = subprocess.run(command, env=_environment(), stderr=subprocess.DEVNULL, check=False)
        except OSError:
            return False  # no Python there, or one whose base is gone
        return done.returncode == 0

    def _empty(self) -> None:
        """Remove all of VENV but `.ready`, which says that it is unfinished until the end."""
        if sys.version_info < OLDEST:
            raise SetUpFailed("Tracker needs Python 3.11.2 or newer; name one: make PYTHON=python3.12 ...")
        self._venv.mkdir(parents=True, exist_ok=True)
        self._stamp.write_text(UNFINISHED)
        for path in self._venv.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(str(path))
            elif path != self._stamp:
                path.unlink()

    def _pip(self, held: IO[str], *what: str, total: int = 0) -> None:
        # --no-deps: the lock is complete. --no-compile: most modules of the packages are never imported.
        fixed = [
            "--disable-pip-version-check",
            "--no-input",
            "install",
            "--progress-bar=off",
            "--no-deps",
            "--no-compile",
        ]
        self._run([str(self._python), "-I", "-u", "-m", "pip", *fixed, *what], held, total)

    def _run(self, command: list[str], held: IO[str], total: int = 0) -> None:
        """Run a command that keeps the lock, show its progress, and show its output if it fails."""
        process = subprocess.Popen(
            command,
            cwd=str(ROOT) if "-e" in command else None,
            env=_environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=[held.fileno()],
        )
        try:
            output = self._show(process, total)
        finally:
            with contextlib.suppress(KeyboardInterrupt):
                process.wait()  # after Ctrl-C, too: pip has received it as well, and removes its temporary files
        if process.returncode != 0:
            sys.stderr.write(output[-4000:])
            raise SetUpFailed(f"`{' '.join(command[1:6])}` ended with exit status {process.returncode}, see above")

    def _show(self, process: subprocess.Popen[bytes], total: int) -> str:
        """Read the output to its end. Show at most every SHOW_SECONDS how far pip is."""
        assert process.stdout is not None
        output, shown, shown_at = b"", "", time.monotonic()
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            while True:
                if selector.select(timeout=SHOW_SECONDS):
                    data = os.read(process.stdout.fileno(), 65_536)
                    if not data:
                        return output.decode(errors="replace")
                    output += data
                if time.monotonic() - shown_at >= SHOW_SECONDS:
                    progress = self._progress(output, total)
                    if progress != shown:
                        _say(f"    {progress}")
                    shown, shown_at = progress, time.monotonic()

    def _progress(self, output: bytes, total: int) -> str:
        if not total:
            return "working"
        if b"Installing collected packages" not in output:
            found = len(re.findall(rb"^(?:Collecting|Requirement already) ", output, re.MULTILINE))
            return f"{found} of {total} packages found or downloaded"
        # pip says nothing while it installs; each package that is complete has its metadata.
        installed = len(list(self._venv.glob("lib/python*/site-packages/*.dist-info")))
        return f"{installed} packages installed"


def _environment() -> dict[str, str]:
    """The environment of Python and pip, without settings that lead them to other places."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PIP_", "PYTHON")) or PIP_SETTINGS.fullmatch(name)
    }
    kept["LC_ALL"] = (
        "C.UTF-8"  # setuptools writes the path of this tree in the encoding of the locale, Python reads it so
    )
    return kept


def _version() -> str:
    return sys.version.split()[0]


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
