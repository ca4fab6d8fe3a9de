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
    logs = LogErasure(log, options.files, selection, report)
    archive = None if options.files else _open_archive(config.archive, selection, report)
    try:
        while logs.erase() or (archive is not None and archive.erase()):
            pass  # logs are closed and archived meanwhile
        print(f"{report.lines} lines {report.what} in {len(logs.seen)} files" + (archive.summary() if archive else ""))
        logs.print_not_read()
    except OSError as error:
        raise TrackerError(f"{error.filename or log}: {error.strerror or error}") from error
    if config.archive.url is not None and options.files:
        print(f"not read: {config.archive.url}, the archive; without names of files this command erases in it, too")
    return report.exit_status


def _open_archive(config: ArchiveConfig, selection: Selection, report: ErasureReport) -> "_Archive | None":
    """The archive; None if there is none. A missing package is reported, and closed logs are erased in anyway."""
    if config.url is None:
        return None
    try:
        require_extra()
    except TrackerError as error:
        report.fail(config.url, f"the archive was not looked at: {error}")
        return None
    from tracker.archive.erasing import ArchiveErasure  # it imports packages of the extra

    return _Archive(config, ArchiveErasure(config, selection, report), report)


class _Archive:
    """The archive. If S3 fails, that is reported, and closed logs are erased in anyway."""

    def __init__(self, config: ArchiveConfig, erasure: "ArchiveErasure", report: ErasureReport) -> None:
        self._config = config
        self._erasure = erasure
        self._report = report
        self._has_failed = False

    def erase(self) -> bool:
        """Returns whether there was anything that was not known."""
        if self._has_failed:
            return False
        try:
            return asyncio.run(self._erase())
        except (AwsRefused, AwsUnreachable) as error:
            self._has_failed = True
            what = "not read to its end" if self._erasure.looked else "not looked at"
            self._report.fail(str(self._config.url), f"the archive was {what}: {error}")
            return False

    async def _erase(self) -> bool:
        async with open_versions(self._config) as bucket:
            return await self._erasure.erase(bucket)

    def summary(self) -> str:
        if not self._erasure.looked:
            return ""
        others = self._erasure.not_read
        example = f"\nnot read: {len(others)} objects of others, such as {min(others)}" if others else ""
        return f" and {len(self._erasure.objects)} objects of the archive{example}"
