"""`tracker report LOG…`: the visits of the logs, on the terminal or as an HTML page."""

import argparse
import sys
from pathlib import Path

from tracker.analysis import require_extra, selection
from tracker.analysis.log_files import open_logs
from tracker.analysis.output import replaced


def add_arguments(parser: argparse.ArgumentParser) -> None:
    selection.add_arguments(parser)
    parser.add_argument("--exclude-bots", action="store_true", help="leave out visits with the user agent of a bot")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write an HTML page instead; - is standard output")
    parser.add_argument(
        "--query", action="store_true", help="count pages with different queries (after the ?) as different pages"
    )
    parser.add_argument("--top", type=_positive, default=25, metavar="N", help="rows of each list; default: 25")


def run(options: argparse.Namespace) -> int:
    require_extra()
    from rich.console import Console

    from tracker.analysis.page import render
    from tracker.analysis.progress import progress
    from tracker.analysis.summary import summarise
    from tracker.analysis.terminal import show

    chosen = selection.selection_of(options)
    with open_logs(options.logs, chosen.since, chosen.until) as logs, progress(logs) as on_step:
        summary = summarise(logs, chosen, options.tz, top=options.top, with_query=options.query, on_step=on_step)
    if options.html is None:
        show(summary, Console())
    elif str(options.html) == "-":
        print(render(summary), end="")
    else:
        with replaced(options.html) as path:
            path.write_text(render(summary), encoding="utf-8")
        print(f"{options.html}: {summary.total.visits} visits", file=sys.stderr)
    return 0


def _positive(text: str) -> int:
    number = int(text)  # argparse reports a ValueError
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected 1 or more, got {number}")
    return number
