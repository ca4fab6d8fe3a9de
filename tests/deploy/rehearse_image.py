"""Runs the steps of the Dockerfile's build stage in a folder, without an engine.

    python -m tests.deploy.rehearse_image

COPY and RUN are carried out one after the other, with /build and /opt put under the folder, in an environment with
nothing but a PATH. Then the installed commands are asked what they are, and the configurations of the image are
validated by them. It downloads what the image downloads, so it is no part of the test suite.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from .tools import DEPLOY, ROOT


def build_stage() -> list[tuple[str, str]]:
    text = (DEPLOY / "docker/Dockerfile").read_text()
    text = re.sub(r"\\\n", " ", re.sub(r"^#.*\n", "", text, flags=re.MULTILINE))
    stage = re.split(r"^FROM .*$", text, flags=re.MULTILINE)[1]
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in stage.splitlines()) if word]


def rehearse(folder: Path) -> None:
    build = folder / "build"
    build.mkdir()
    environment = {
        "PATH": os.pathsep.join((str(Path(sys.base_prefix) / "bin"), "/usr/bin", "/bin")),
        "HOME": str(folder),
    }
    for word, rest in build_stage():
        print(f"== {word} {rest}", flush=True)
        if word in ("ENV", "ARG"):
            environment |= dict(pair.split("=", 1) for pair in rest.split())
        elif word == "COPY":
            *sources, target = rest.split()
            for source in sources:
                _copy(ROOT / source, build / target, into=len(sources) > 1 or target.endswith(("/", ".")))
        elif word == "RUN":
            command = rest.replace("/opt/", f"{folder}/opt/")
            subprocess.run(["sh", "-euc", command], cwd=build, env=environment, check=True)
    tracker = folder / "opt/tracker/bin"
    for command, arguments in (
        ("tracker-pixel", ["--config", str(DEPLOY / "docker/pixel.yaml"), "--check"]),
        ("tracker-storage", ["--config", str(DEPLOY / "docker/storage.yaml"), "--check"]),
        ("tracker", ["provision", "--help"]),
        ("python", ["-c", "import tracker.pixel.worker, tracker.operations.doctor, tracker.local.demo"]),
    ):
        subprocess.run([tracker / command, *arguments], cwd=folder, env=environment, check=True)
    left = [name for name in ("pip", "moto", "pytest") if list((folder / "opt/tracker").rglob(f"site-packages/{name}"))]
    assert not left, f"the image would hold {left}"
    size = sum(file.stat().st_size for file in (folder / "opt/tracker").rglob("*") if file.is_file())
    print(f"== {size >> 20} MiB beside Python itself")


def _copy(source: Path, target: Path, *, into: bool) -> None:
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    else:
        target = target / source.name if into else target
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, target)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        rehearse(Path(temporary))
