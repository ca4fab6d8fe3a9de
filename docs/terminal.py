"""Writes docs/terminal.svg, the picture of the README: what a terminal shows of `make run` and of the first visits.

All of it is real. The commands are typed as a reader types them, in the root of this tree. What they print is drawn.
The picture loads nothing: no fonts, no scripts.
"""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.text import Text

ROOT = Path(__file__).resolve().parents[1]
PICTURE = ROOT / "docs/terminal.svg"
LOG = ROOT / "var/visits.log"
WIDTH = 98  # columns
READY_SECONDS = 120.0
LINE_SECONDS = 10.0

PIXEL = "http://127.0.0.1:8080/track"
RUN = "make run"
# In another terminal: the lines that the log must have, the command, and which parts of its output are drawn, each from
# a line that matches the first expression to the next one that matches the second.
BROWSER = "Mozilla/5.0 Firefox/145.0"
Parts = tuple[tuple[str, str], ...]
ALL: Parts = ((r"", r"\Z."),)
COMMANDS: tuple[tuple[int, str, Parts], ...] = (
    (0, f"curl -s -o /dev/null -A '{BROWSER}' \\\n    -H 'Referer: https://example.com/welcome' {PIXEL}", ALL),
    (0, f"curl -s -o /dev/null -A '{BROWSER}' \\\n    '{PIXEL}?page=newsletter%2F2026-11'", ALL),
    (2, "tail -n 2 var/visits.log", ALL),
    (2, ".venv/bin/tracker report var/visits.log", ((r"Visits", r"^╰"), (r"^Pages", r"^ *$"))),
)
BANNER: Parts = ((r"demo page", r"report"), (r"Ctrl-C", r""))
CONTROL = re.compile(r"\x1b\[[\d;]*m")


def main() -> int:
    if LOG.exists():
        print(f"error: {LOG} has visits already; the picture shows the first ones. Move var/ away.", file=sys.stderr)
        return 2
    screen = Console(record=True, width=WIDTH, file=open(os.devnull, "w"), color_system="truecolor")  # noqa: SIM115
    running = subprocess.Popen(
        ["sh", "-c", RUN], cwd=ROOT, stdout=subprocess.PIPE, text=True, env=_environment(), start_new_session=True
    )
    try:
        show(screen, RUN, parts(banner(running), BANNER))
        for lines, command, drawn in COMMANDS:
            wait_for_lines(lines)
            done = subprocess.run(command, shell=True, cwd=ROOT, env=_environment(), capture_output=True, check=True)
            show(screen, command, parts(done.stdout.decode(), drawn))
    finally:
        os.killpg(running.pid, signal.SIGINT)
        running.communicate()
    # rich's fonts would be loaded from a site of others.
    picture = re.sub(r"@font-face \{.*?\}", "", screen.export_svg(title="tracker", unique_id="t"), flags=re.DOTALL)
    PICTURE.write_text(picture, encoding="utf-8")
    print(f"written to {PICTURE}")
    return 0


def _environment() -> dict[str, str]:
    return {**os.environ, "COLUMNS": str(WIDTH), "FORCE_COLOR": "1", "PYTHONUNBUFFERED": "1"}


def show(screen: Console, command: str, output: str) -> None:
    screen.print(Text.assemble(("$ ", "green"), (command, "bold")))
    if output:
        screen.print(Text.from_ansi(output))


def parts(output: str, wanted: Parts) -> str:
    """The wanted parts of an output; an ellipsis stands for the lines that are left out."""
    lines = output.rstrip("\n").split("\n")
    plain = [CONTROL.sub("", line) for line in lines]
    shown: list[str] = []
    at = 0
    for first, last in wanted:
        begin = next(number for number in range(at, len(lines)) if re.search(first, plain[number]))
        end = next((number for number in range(begin, len(lines)) if re.search(last, plain[number])), len(lines) - 1)
        shown += (["  …"] if begin > at else []) + lines[begin : end + 1]
        at = end + 1
    return "\n".join(shown + (["  …"] if at < len(lines) else []))


def banner(running: subprocess.Popen[str]) -> str:
    """What `make run` prints until all parts are ready."""
    assert running.stdout is not None
    shown: list[str] = []
    deadline = time.monotonic() + READY_SECONDS
    while not shown or "Ctrl-C" not in shown[-1]:
        line = running.stdout.readline()
        if not line or time.monotonic() > deadline:
            raise SystemExit(f"error: {RUN} did not become ready:\n{''.join(shown)}")
        shown.append(line)
    return "".join(shown).strip("\n")


def wait_for_lines(count: int) -> None:
    deadline = time.monotonic() + LINE_SECONDS
    while count and (not LOG.exists() or LOG.read_bytes().count(b"\n") < count):
        if time.monotonic() > deadline:
            raise SystemExit(f"error: {LOG} has not got {count} lines")
        time.sleep(0.1)


if __name__ == "__main__":
    sys.exit(main())
