"""`tracker report LOG…`: the visits of the logs, on the terminal or as an HTML page."""

import argparse
import io
import sys
from pathlib import Path

from tracker.analysis import require_extra, selection
from tracker.analysis.log_files import open_logs
from tracker.analysis.output import replaced
from tracker.analysis.text import counted
from tracker.exit_status import COULD_NOT_LOOK, OK, print_error

_PAGE_ROWS = 25
_TERMINAL_ROWS = 8


def add_arguments(parser: argparse.ArgumentParser) -> None:
    selection.add_arguments(parser)
    parser.add_argument("--exclude-bots", action="store_true", help="leave out visits with the user agent of a bot")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write an HTML page instead; - is standard output")
    parser.add_argument("--json", action="store_true", help="print the numbers for programs, as one JSON object")
    parser.add_argument(
        "--query", action="store_true", help="count pages with different queries (after the ?) as different pages"
    )
    parser.add_argument(
        "--top",
        type=_positive,
        metavar="N",
        help=f"rows of each list; default: {_PAGE_ROWS}, on a terminal {_TERMINAL_ROWS}",
    )


def run(options: argparse.Namespace) -> int:
    require_extra()
    from rich.console import Console

    from tracker.analysis.numbers import as_json
    from tracker.analysis.page import render
    from tracker.analysis.progress import progress
    from tracker.analysis.summary import summarise
    from tracker.analysis.terminal import show

    chosen = selection.selection_of(options)
    with open_logs(options.logs, chosen.since, chosen.until) as logs, progress(logs) as on_step:
        summary = summarise(
            logs, chosen, options.tz, top=options.top or _PAGE_ROWS, with_query=options.query, on_step=on_step
        )
    if options.json:
        print(as_json(summary))
    elif options.html is None:
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="replace")  # a terminal that has no bars gets question marks
        show(summary, Console(), options.top or _TERMINAL_ROWS)
    elif str(options.html) == "-":
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(encoding="utf-8")  # as the page says of itself, whatever the locale is
        print(render(summary), end="")
    else:
        with replaced(options.html, logs.mode) as path:
            path.write_text(render(summary), encoding="utf-8")
        print(f"{options.html}: {counted(summary.total.visits, 'visit')}", file=sys.stderr)
    for problem in logs.problems:
        print_error(f"tracker: {problem}")
    return COULD_NOT_LOOK if logs.problems else OK


def _positive(text: str) -> int:
    number = int(text)  # argparse reports a ValueError
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected 1 or more, got {number}")
    return number
