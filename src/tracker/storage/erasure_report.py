"""What `tracker erase` says and records: a line for each file or object, an entry in `erased.log`, the exit status."""

from datetime import UTC, datetime
from pathlib import Path

from tracker import exit_status
from tracker.core.erasure import Key
from tracker.core.printable import printable
from tracker.storage import erasure_log
from tracker.storage.erasing import Counts


class ErasureReport:
    """Of one `tracker erase` for the visit log `log`. With `dry_run` it says what would be done."""

    def __init__(self, log: Path, *, dry_run: bool) -> None:
        self.dry_run = dry_run
        self.what = "would be erased" if dry_run else "erased"
        self.lines = 0
        """The selected lines of all files and objects."""
        self._log = log
        self._failed = False

    @property
    def exit_status(self) -> int:
        if self._failed:
            return exit_status.COULD_NOT_LOOK
        return exit_status.FOUND if self.dry_run and self.lines else exit_status.OK

    def record(self, name: str, counts: Counts) -> None:
        """Add the entry for what is about to be done. Raises OSError."""
        selected = counts.selected
        erasure_log.append(
            self._log,
            erasure_log.Entry(
                time=datetime.now(UTC).isoformat(timespec="seconds"),
                file=printable(name),  # a file name may have any bytes, and JSON has text
                lines=counts.total_selected,
                ip=selected[Key.IP],
                agent=selected[Key.AGENT],
                page=selected[Key.PAGE],
                before=counts.before,
                after=counts.after,
            ),
        )

    def done(self, name: str, counts: Counts, how: str = "") -> None:
        """Print what was done with one file or version of an object, or would be."""
        self.lines += counts.total_selected
        by = ", ".join(f"{count} by {key.value}" for key, count in counts.selected.items() if count)
        text = f"{name}: {counts.total_selected} of {counts.lines} lines {self.what}{how}"
        self.say(text + (f" ({by})" if by else ""))

    def say(self, text: str) -> None:
        """Print a line. Names of files and keys of objects may have control characters and bytes that are no text."""
        print(printable(text))

    def fail(self, name: str, text: str) -> None:
        self._failed = True
        exit_status.print_error(f"{name}: {text}")
