"""Compresses rotated logs, off the hot path: in a thread of its own, one file after the other.

A file `<name>` becomes `<name>.gz`, complete and durable before `<name>` goes, whatever instant the process ends. What
was left undone is done at the next start.
"""

import asyncio
import gzip
import logging
import os
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tracker.files import sync_directory
from tracker.lifecycle import wait_for_event
from tracker.storage.rotation import rotated

log = logging.getLogger("tracker.compressor")

CHUNK_BYTES = 1 << 20
RETRY_SECONDS = 60.0
PART = ".part"  # suffix of a file that is being compressed


class Compressor:
    """Compresses every rotated file of the log `path`, at the start and whenever `rotated` is set."""

    def __init__(self, *, path: Path, rotated: asyncio.Event) -> None:
        self._path = path
        self._rotated = rotated
        self._ending = threading.Event()

    async def run(self) -> None:
        """Until cancelled; a file that is under way then is left as it was."""
        with ThreadPoolExecutor(1, thread_name_prefix="compressor") as executor:
            try:
                while True:
                    self._rotated.clear()
                    try:
                        await asyncio.get_running_loop().run_in_executor(executor, self._compress_all)
                    except OSError as error:
                        log.error("compression_failed error=%s action=tried again every minute", error)
                        await wait_for_event(self._rotated, RETRY_SECONDS)
                    else:
                        await self._rotated.wait()
            finally:
                self._ending.set()

    def _compress_all(self) -> None:
        for file in rotated(self._path):
            if file.suffix != ".gz" and not self._ending.is_set():
                compress(file, self._ending)


def compress(file: Path, ending: threading.Event) -> None:
    """Put `<file>.gz` in the place of `file`; nothing is changed when `ending` is set before that. Raises OSError."""
    done, part = file.with_name(f"{file.name}.gz"), file.with_name(f"{file.name}.gz{PART}")
    try:
        with file.open("rb") as source, part.open("wb") as target:
            shutil.copymode(file, part)
            with gzip.GzipFile(filename="", fileobj=target, mode="wb", compresslevel=6, mtime=0) as packed:
                while chunk := source.read(CHUNK_BYTES):
                    if ending.is_set():
                        return
                    packed.write(chunk)
            target.flush()
            os.fsync(target.fileno())
        shutil.copystat(file, part)
        part.rename(done)
        sync_directory(file.parent)
        file.unlink()
        sync_directory(file.parent)
        log.info("log_compressed file=%s bytes=%d", done, done.stat().st_size)
    finally:
        part.unlink(missing_ok=True)
