"""A progress bar on standard error, if that is a terminal."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from tracker.analysis.log_files import LogFiles

_LOOK_EVERY = 0.1  # seconds


@contextmanager
def progress(logs: LogFiles, console: Console | None = None) -> Iterator[Callable[[str], None]]:
    """Show how much of the logs has been read, and the step that the caller passes to the yielded function."""
    console = console or Console(stderr=True)
    shown = Progress(
        TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn(),
        console=console, transient=True, disable=not console.is_terminal,
    )  # fmt: skip
    task = shown.add_task("reading", total=logs.size)
    done = threading.Event()

    def look() -> None:
        while not done.wait(_LOOK_EVERY):
            shown.update(task, completed=logs.bytes_read)

    looking = threading.Thread(target=look, daemon=True)
    with shown:
        looking.start()
        try:
            yield lambda step: shown.update(task, description=step)
        finally:
            done.set()
            looking.join()
            shown.update(task, completed=logs.bytes_read)
