"""The commands of the documents: the fenced blocks of shell, SQL and Python, each with the mark that says who runs it.

A mark is a comment of HTML on the line before the block: `<!-- commands: KIND -->`. The kinds are `KINDS`, or the path
of the file that runs the block. A block of shell without a mark is run by tests/test_guides.py in a folder with logs.
"""

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SHELLS = {"sh", "bash", "shell", "console", "zsh"}
CODE = {"sql", "python"}
KINDS = {
    "rehearsed": "`make rehearse` runs it on a real engine (tests/rehearse)",
    "aws": "it needs an account at AWS",
    "registry": "it asks a registry of images",
    "cluster": "it needs a Kubernetes cluster; tests/deploy/test_kubernetes.py renders and validates what it applies",
    "tls": "it needs a certificate for a public name; tests/deploy/test_nginx.py runs nginx with the file",
}

_HEADING = re.compile(r"^#+ (.+)$")
_MARK = re.compile(r"^<!-- commands: (.+) -->$")


@dataclass(frozen=True)
class Block:
    """A fenced block: its page as a path from the top of the tree, the heading above it, and its mark if it has one."""

    page: str
    heading: str
    line: int
    language: str
    mark: str | None
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def pages() -> list[Path]:
    """The documents that people type commands from."""
    return sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), ROOT / "tests/README.md"])


def blocks(page: Path) -> list[Block]:
    """The blocks of a page in these languages, in their order."""
    found: list[Block] = []
    heading = before = ""
    fence: tuple[int, str, str | None] | None = None
    body: list[str] = []
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        if fence is None and line.startswith("```"):
            mark = _MARK.match(before)
            fence, body = (number, line[3:].strip(), mark[1] if mark else None), []
        elif fence is not None and line.startswith("```"):
            start, language, kind = fence
            if language in SHELLS | CODE:
                path = page.relative_to(ROOT).as_posix()
                found.append(Block(path, heading, start, language, kind, "\n".join(body) + "\n"))
            fence = None
        elif fence is not None:
            body.append(line)
        elif title := _HEADING.match(line):
            heading = title[1]
        before = line
    return found


def all_blocks() -> list[Block]:
    return [block for page in pages() for block in blocks(page)]


def guide(page: str, heading: str) -> list[Block]:
    """The blocks below a heading of `docs/PAGE`. Raises LookupError if there is none: the guide has changed."""
    found = [block for block in blocks(ROOT / "docs" / page) if block.heading == heading]
    if not found:
        raise LookupError(f"docs/{page} has no commands below {heading!r}")
    return found
