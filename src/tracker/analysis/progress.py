"""A progress bar on standard error, if that is a terminal."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from tracker.analysis.log_files import LogFiles

_POLL_SECONDS = 0.1


@contextmanager
def progress(logs: LogFiles, console: Console | None = None) -> Iterator[Callable[[str], None]]:
    """Show how much of the logs has been read, and the current step: the caller passes it to the yielded function."""
    console = console or Console(stderr=True)
    shown = Progress(
        TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn(),
        console=console, transient=True, disable=not console.is_terminal,
    )  # fmt: skip
    task = shown.add_task("reading", total=logs.size)
    done = threading.Event()

    def poll() -> None:
        while not done.wait(_POLL_SECONDS):
            shown.update(task, completed=logs.bytes_read)

    polling = threading.Thread(target=poll, daemon=True)
    with shown:
        polling.start()
        try:
            yield lambda step: shown.update(task, description=step)
        finally:
            done.set()
            polling.join()
            shown.update(task, completed=logs.bytes_read)
