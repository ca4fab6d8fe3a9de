"""How many user agents of public collections `tracker.analysis.agents` names rightly, as a table in docs/analysis.md.

`python -m benchmarks.agent_corpora FOLDER` reads clones of these repositories in FOLDER, each under its own name:

    device-detector (Matomo)    uap-core (ua-parser)    crawler-user-agents (monperrus)
    Crawler-Detect (JayBizzle)    isbot (omrilotan)    Parser-PHP (WhichBrowser)

Their licences differ, so their files are read here and are not copied into this repository.
"""

import json
import re
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from tracker.analysis.agents import classify

PAGE = Path("docs/analysis.md")
_TABLE = re.compile(
    r"(?<=<!-- shares: python -m benchmarks.agent_corpora FOLDER -->\n).*?(?=<!-- end of shares -->)", re.S
)
_DEVICES = {"smartphone": "phone", "phablet": "phone", "feature phone": "phone", "mobile": "phone", "tv": "television"}
_DEVICES |= {name: name for name in ("desktop", "television", "tablet", "phone")}


class Labelled(NamedTuple):
    user_agent: str
    bot: bool
    device: str | None = None
    """As the collection says: desktop, phone, tablet, television; None where it says nothing or something else."""


def read_all(clone: Path) -> list[Labelled]:
    return list(_READERS[clone.name](clone))


def _device_detector(clone: Path) -> Iterator[Labelled]:
    for file in sorted(clone.glob("Tests/fixtures/*.yml")):
        # Client hints are headers, which the log does not have.
        for case in [] if file.name.startswith("clienthints") else _yaml(file):
            device = case.get("device") or {}
            kind = _DEVICES.get(device.get("type") or "") if isinstance(device, dict) else None
            if not case.get("headers"):
                yield Labelled(str(case["user_agent"]), "bot" in case, kind)


def _uap_core(clone: Path) -> Iterator[Labelled]:
    for case in _yaml(clone / "tests/test_device.yaml")["test_cases"]:
        yield Labelled(case["user_agent_string"], case["brand"] == "Spider")


def _crawler_user_agents(clone: Path) -> Iterator[Labelled]:
    for entry in json.loads((clone / "crawler-user-agents.json").read_text()):
        yield from (Labelled(example, bot=True) for example in entry["instances"])


def _crawler_detect(clone: Path) -> Iterator[Labelled]:
    lines = (clone / "tests/data/user_agent/crawlers.txt").read_text(errors="replace").splitlines()
    yield from (Labelled(line.strip(), bot=True) for line in lines if line.strip())


def _isbot(clone: Path) -> Iterator[Labelled]:
    for name, bot in (("browsers", False), ("crawlers", True)):
        for examples in _yaml(clone / f"fixtures/{name}.yml").values():
            yield from (Labelled(str(example), bot) for example in examples)


def _which_browser(clone: Path) -> Iterator[Labelled]:
    for file in sorted(clone.glob("tests/data/**/*.yaml")):
        for case in _yaml(file) or ():
            headers, prefix = case.get("headers"), "User-Agent: "
            device = (case.get("result") or {}).get("device", {}).get("type")
            if isinstance(headers, str) and headers.startswith(prefix) and device:
                yield Labelled(headers.removeprefix(prefix), device == "bot", _DEVICES.get(device))


_READERS = {
    "device-detector": _device_detector, "uap-core": _uap_core, "crawler-user-agents": _crawler_user_agents,
    "Crawler-Detect": _crawler_detect, "isbot": _isbot, "Parser-PHP": _which_browser,
}  # fmt: skip


def _yaml(file: Path) -> Any:
    return yaml.load(file.read_bytes(), yaml.CSafeLoader)


def shares(labelled: list[Labelled]) -> dict[str, tuple[int, int]]:
    """For people, bots and each device: how many are named rightly, and how many there are."""
    counted: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for case in labelled:
        agent = classify(case.user_agent)
        # A proxy and a scanner are programs, which these collections call bots.
        right = (agent.kind != "person") == case.bot
        for name, well in (
            ("bots" if case.bot else "people", right),
            (case.device, right and agent.device == case.device),
        ):
            if name is not None:
                counted[name][0] += well
                counted[name][1] += 1
    return {name: (right, whole) for name, (right, whole) in counted.items()}


def table(folder: Path) -> str:
    kinds = ("people", "bots", "desktop", "phone", "tablet", "television")
    lines = [f"| collection | {' | '.join(kinds)} |", "|---" * (len(kinds) + 1) + "|"]
    for name in _READERS:
        commit = subprocess.check_output(["git", "-C", folder / name, "rev-parse", "--short=12", "HEAD"], text=True)
        found = shares(read_all(folder / name))
        cells = [
            f"{100 * found[kind][0] / found[kind][1]:.1f} % of {found[kind][1]}" if kind in found else ""
            for kind in kinds
        ]
        lines.append(f"| {name} `{commit.strip()}` | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main(folder: Path) -> None:
    classify("Mozilla/5.0")  # compiles the patterns
    begin = time.process_time()
    made = table(folder)
    PAGE.write_text(_TABLE.sub(lambda _: made, PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    print(f"{made}\n{time.process_time() - begin:.0f} s of CPU, reading included")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
