"""The commands of the guides that change files do to a log what the text around them says."""

import gzip
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LINES = [
    "2026-11-23T07:09:24.932706+00:00|https://example.com/a?user=7|Mozilla/5.0 (X11)|192.0.2.7",
    "2026-11-23T07:09:25.000000+00:00|null|Mozilla/5.0 (X11)|192.0.2.77",
    "2026-11-23T07:09:26.000000+00:00|https://example.com/b|null|2001:db8::7",
    "2026-11-23T07:09:27.000000+00:00|https://192.0.2.7/|null|198.51.100.1",
]


def commands(page: str, word: str) -> list[str]:
    """The commands of a page's shell blocks that begin with this word, without their comments."""
    blocks = re.findall(r"^```sh\n(.*?)^```", (ROOT / "docs" / page).read_text(), re.DOTALL | re.MULTILINE)
    found = [re.sub(r"  +# .*", "", line) for line in "".join(blocks).splitlines() if line.startswith(word)]
    assert found, f"{page} has no command {word}"
    return found


def after(command: str, folder: Path, result: str) -> list[str]:
    shell = shutil.which("bash") or pytest.skip("bash is not installed")
    with gzip.open(folder / "visits.log-20261123.gz", "wt") as log:
        log.write("\n".join(LINES) + "\n")
    subprocess.run([shell, "-euo", "pipefail", "-c", command], cwd=folder, check=True)
    with gzip.open(folder / result, "rt") as changed:
        return changed.read().splitlines()


def test_a_log_without_addresses_keeps_its_format(tmp_path: Path) -> None:
    plain, without_queries = commands("privacy.md", "zcat")
    kept = after(plain, tmp_path, "analysis-20261123.gz")
    assert kept == [line.rpartition("|")[0] + "|0.0.0.0" for line in LINES]
    bare = after(without_queries, tmp_path, "analysis-20261123.gz")
    assert bare == [line.replace("?user=7", "") for line in kept]
