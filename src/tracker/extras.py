"""How to install an optional part: the command that fits this installation.

The locked requirements of each part are in `requirements/` of the source tree. In an editable installation that is the
tree this package is imported from. An installed wheel has none, so its user needs the tree of the same release.
"""

import shlex
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

import tracker
from tracker.errors import TrackerError

ZSTD = {"backports.zstd": "backports.zstd"} if sys.version_info < (3, 14) else {}
"""The package that reads zstd: its module and its name."""


def require(packages: Mapping[str, str], extra: str, what: str) -> None:
    """Raises TrackerError, with what to install, when one of the `packages` (modules and names) of `extra` is missing.

    `what` begins the message, such as "reports need".
    """
    missing = [name for module, name in packages.items() if find_spec(module) is None]
    if missing:
        raise TrackerError(f"{what} {', '.join(missing)}, not installed here; {how_to_install(extra)}")


def how_to_install(lock: str, executable: str = sys.executable, package: Path = Path(tracker.__file__)) -> str:
    """A sentence with the command that installs `requirements/<lock>.txt` where this process runs.

    The requirements are named by file. The name of the extra would have to follow a name of a distribution, and
    `tracker` on PyPI belongs to somebody else.
    """
    file = package.resolve().parents[2] / "requirements" / f"{lock}.txt"
    where = "" if file.is_file() else f"in the source tree of release {tracker.__version__}, "
    named = str(file) if file.is_file() else f"requirements/{lock}.txt"
    return f"{where}run: {shlex.quote(executable)} -m pip install --require-hashes -r {shlex.quote(named)}"
