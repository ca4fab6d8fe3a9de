"""How to install an optional part: the command that fits this installation.

The locked requirements of each part are in `requirements/` of the source tree. In an editable installation that is the
tree this package is imported from. An installed wheel has none, so its user needs the tree of the same release.
"""

import shlex
import sys
from pathlib import Path

import tracker


def how_to_install(lock: str, executable: str = sys.executable, package: Path = Path(tracker.__file__)) -> str:
    """A sentence with the command that installs `requirements/<lock>.txt` where this process runs.

    The requirements are named by file. The name of the extra would have to follow a name of a distribution, and
    `tracker` on PyPI belongs to somebody else.
    """
    file = package.resolve().parents[2] / "requirements" / f"{lock}.txt"
    where = "" if file.is_file() else f"in the source tree of release {tracker.__version__}, "
    named = str(file) if file.is_file() else f"requirements/{lock}.txt"
    return f"{where}run: {shlex.quote(executable)} -m pip install --require-hashes -r {shlex.quote(named)}"
