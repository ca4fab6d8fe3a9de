"""What a rehearsal needs before it begins. Only this module needs a network: a Debian tree, the wheels, LocalStack.

`Missing` names what this machine lacks; the part of the rehearsal is skipped then.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.launched import ROOT

SUITE = "bookworm"
# A minimal system as a cloud image has it, and what docs/deployment.md names: Python with venv, logrotate, curl.
PACKAGES = "systemd,systemd-sysv,dbus,python3,python3-venv,ca-certificates,logrotate,curl"
_SYSTEM_PATH = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/sbin"))
# The last major version that asks for no account, with the packages of its day: it does not run with newer ones.
# awscli-local: the image of LocalStack has it too, for scripts such as make-bucket.sh.
LOCALSTACK = ("localstack-core[runtime]==4.14.0", "awscli-local[ver1]")
LOCALSTACK_DAY = "2026-03-20"


class Missing(Exception):
    """This machine lacks something that the rehearsal needs."""


def program(name: str, package: str) -> str:
    """The path of a program. Raises Missing, which names Debian's package."""
    if (found := shutil.which(name, path=_SYSTEM_PATH)) is None:
        raise Missing(f"{name} is not installed (Debian's package {package})")
    return found


def run(*command: str | Path, cwd: Path | None = None) -> str:
    """What the command prints. Raises AssertionError, with the output, if it fails."""
    done = subprocess.run(
        list(map(str, command)), cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    assert done.returncode == 0, f"{' '.join(map(str, command))} ended with {done.returncode}:\n{done.stdout}"
    return done.stdout


def debian(folder: Path) -> Path:
    """A tree of Debian, made by debootstrap unless an earlier rehearsal has left it in `folder`."""
    tree, made = folder / "debian", folder / "debian.made"
    if not made.exists():
        if tree.exists():
            shutil.rmtree(tree)
        run(program("debootstrap", "debootstrap"), "--variant=minbase", f"--include={PACKAGES}", SUITE, tree)
        # The image of Python, for which the tree stands in the part `docker`, has this name.
        (tree / "usr/local/bin/python").symlink_to("/usr/bin/python3")
        made.touch()
    return tree


def wheels(folder: Path, python: Path) -> Path:
    """The packages of the guide's locks as wheels, so that the engines need no network."""
    target, made = folder / "wheels", folder / "wheels.made"
    locks = [ROOT / f"requirements/{lock}.txt" for lock in ("runtime", "build", "analysis", "archive")]
    wanted = "".join(lock.read_text() for lock in locks)
    if made.exists() and made.read_text() == wanted:
        return target
    for lock in locks:
        options = ["--require-hashes", "--only-binary=:all:", "--python-version=3.11", "--quiet", f"--dest={target}"]
        run(python, "-m", "pip", "download", *options, "-r", lock)
    made.write_text(wanted)
    return target


def sources(target: Path) -> None:
    """Copy what git would commit of this tree."""
    listed = run("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", cwd=ROOT)
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, target / name)


def localstack(folder: Path) -> Path:
    """The Python of an environment with LocalStack from PyPI. It needs Python 3.13. Raises Missing."""
    python, made = folder / "localstack/bin/python", folder / "localstack.made"
    wanted = " ".join((*LOCALSTACK, LOCALSTACK_DAY))
    if made.exists() and made.read_text() == wanted:
        return python
    uv = Path(sys.executable).with_name("uv")  # of the development environment; pip cannot install as of a day
    run(uv, "venv", "--quiet", "--clear", "--python", _python_313(), folder / "localstack")
    try:
        run(uv, "pip", "install", "--quiet", "--python", python, "--exclude-newer", LOCALSTACK_DAY, *LOCALSTACK)
    except AssertionError as error:
        raise Missing(f"LocalStack cannot be installed: {str(error).splitlines()[-1]}") from error
    made.write_text(wanted)
    return python


def _python_313() -> str:
    """A Python 3.13: on the path, or among those of pyenv or uv."""
    homes = [
        Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions",
        Path.home() / ".local/share/uv/python",
    ]
    found = [str(path) for home in homes for path in home.glob("*3.13*/bin/python3.13")]
    for candidate in [*found, shutil.which("python3.13"), "/usr/bin/python3.13"]:
        if candidate and Path(candidate).exists() and _works(candidate):
            return candidate
    raise Missing("Python 3.13, which LocalStack needs, is not installed")


def _works(python: str) -> bool:  # a shim of pyenv may be there without its Python
    return subprocess.run([python, "-c", "import venv"], capture_output=True, check=False).returncode == 0
