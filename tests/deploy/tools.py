"""Programs that the deployment files are checked with; a missing one skips the test (.ci/run installs them all)."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
_BESIDE_PYTHON = Path(sys.executable).parent
_SBIN = ("/usr/sbin", "/sbin")


def tool(name: str) -> str:
    """Where the program is; of the virtual environment first."""
    for folder in (str(_BESIDE_PYTHON), None, *_SBIN):
        if (found := shutil.which(name, path=folder)) is not None:
            return found
    pytest.skip(f"{name} is not installed")


def sections_of_the_guide() -> set[str]:
    """The anchors of the third-level headings of the part on alarms of docs/operations.md."""
    guide = (
        (ROOT / "docs/operations.md").read_text(encoding="utf-8").partition("\n## Alarms\n")[2].partition("\n## ")[0]
    )
    headings = re.findall(r"^### (.+)$", guide, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def run(name: str, *arguments: str | Path, cwd: Path | None = None, check: bool = True) -> str:
    """What the program prints, on both channels; it must end with status 0, unless the caller says otherwise."""
    command = [tool(name), *map(str, arguments)]
    done = subprocess.run(
        command, cwd=cwd or ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120, check=False
    )
    assert not check or done.returncode == 0, f"{' '.join(command)}:\n{done.stdout}"
    return done.stdout
