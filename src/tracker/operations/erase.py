"""`tracker erase` removes the lines of a person from closed logs and from the archive.

It records how many in `erased.log`, without the person's data. Closed logs come first, then the archive: what is
archived afterwards has none of these lines. Both are repeated until neither has anything new, because logs are closed
and archived meanwhile. Exit status: 0 when no such line is left in what was read, 1 when `--dry-run` has found some, 2
for a wrong command line, 3 when a file, an object or the archive could not be read or changed.
"""

import argparse
import asyncio
import os
from pathlib import Path
from typing import TYPE_CHECKING

from tracker.archive import require_extra
from tracker.aws.versions import open_versions
from tracker.config import ArchiveConfig, load_storage
from tracker.core.erasure import Selection
from tracker.errors import AwsRefused, AwsUnreachable, TrackerError, UsageError
from tracker.storage.audit import CONFIG
from tracker.storage.erasure_log import digests
from tracker.storage.erasure_report import ErasureReport
from tracker.storage.log_erasure import LogErasure

if TYPE_CHECKING:
    from tracker.archive.erasing import ArchiveErasure


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config", type=Path, default=CONFIG, metavar="FILE", help=f"storage's configuration ({CONFIG})"
    )
    parser.add_argument(
        "--ip", action="append", default=[], metavar="ADDRESS", help="an address, or a network such as 203.0.113.0/24"
    )
    for option, what in (("--agent", "a user agent"), ("--page", "a page (the referrer)")):
        parser.add_argument(
            option, action="append", default=[], metavar="TEXT", help=f"{what}, whole and without escapes"
        )
    parser.add_argument("--dry-run", action="store_true", help="count the lines and change nothing")
    parser.add_argument(
        "files",
        nargs="*",
        type=Path,
        metavar="LOG",
        help="closed logs (default: all beside the configured log, and the archive, if archive.url is set)",
    )


def run(options: argparse.Namespace) -> int:
    if not (options.ip or options.agent or options.page):
        raise UsageError("expected at least one of --ip, --agent and --page")
    selection = Selection(ips=options.ip, agents=options.agent, pages=options.page)
    config = load_storage(options.config, os.environ)
    log = Path(config.log.path)
    report = ErasureReport(log, dry_run=options.dry_run)
    archive = None if config.archive.url is None else _Archive(config.archive, log, selection, report)
    logs = LogErasure(log, options.files, selection, report, None if archive is None else archive.take_back)
    whole = None if options.files else archive
    try:
        while logs.erase() or (whole is not None and whole.erase()):
            pass  # logs are closed and archived meanwhile
        report.say(f"{report.lines} lines {report.what} in {len(logs.seen)} files" + (whole.summary() if whole else ""))
        if whole is not None:
            whole.print_not_read()
        logs.print_not_read()
    except OSError as error:
        raise TrackerError(f"{error.filename or log}: {error.strerror or error}") from error
    if config.archive.url is not None and options.files:
        print(f"not read: {config.archive.url}, the archive; without names of files this command erases in it, too")
    return report.exit_status


class _Archive:
    """The archive. If S3 fails, that is reported, and closed logs are erased in anyway."""

    def __init__(self, config: ArchiveConfig, log: Path, selection: Selection, report: ErasureReport) -> None:
        self._config = config
        self._log = log
        self._selection = selection
        self._report = report
        self._erasure: ArchiveErasure | None = None
        self._ended = False

    def take_back(self, closed: Path, digest: str) -> None:
        """Delete the objects of a closed log, which has this digest now. Raises TrackerError and OSError."""
        require_extra()
        from tracker.archive.taking_back import take_back

        async def run() -> int:
            async with open_versions(self._config) as bucket:
                return await take_back(bucket, self._config, closed, digests(self._log, closed, digest))

        try:
            count = asyncio.run(run())
        except (AwsRefused, AwsUnreachable) as error:
            raise TrackerError(f"its archiving was begun, and cannot be undone: {self._config.url}: {error}") from error
        if count:
            self._report.say(
                f"{closed}: {count} objects of its incomplete archiving were removed; the archiver puts new ones"
            )

    def erase(self) -> bool:
        """Returns whether there was anything that was not known."""
        if self._ended:
            return False
        try:
            if self._erasure is None:
                require_extra()
                from tracker.archive.erasing import ArchiveErasure  # it imports packages of the extra

                self._erasure = ArchiveErasure(self._config, self._selection, self._report)
            return asyncio.run(self._erase(self._erasure))
        except TrackerError as error:
            self._ended = True
            what = "not read to its end" if self._erasure is not None and self._erasure.looked else "not looked at"
            self._report.fail(str(self._config.url), f"the archive was {what}: {error}")
            return False

    async def _erase(self, erasure: "ArchiveErasure") -> bool:
        async with open_versions(self._config) as bucket:
            return await erasure.erase(bucket)

    def summary(self) -> str:
        if self._erasure is None or not self._erasure.looked:
            return ""
        return f" and {len(self._erasure.objects)} objects of the archive"

    def print_not_read(self) -> None:
        if self._erasure is not None and (others := self._erasure.not_read):
            self._report.say(f"not read: {len(others)} objects of others, such as {min(others)}")
