"""The compressor: compresses closed logs with gzip, one after the other, in a thread of its own.

1. The compressed copy is written to `<name>.gz.part` and synced.
2. It is renamed to `<name>.gz`, and the directory is synced.
3. `<name>` is removed.

So the closed log is always complete under one of the two names, even if the process ends between two steps. The next
start compresses the closed logs that are not compressed yet.
"""

import asyncio
import gzip
import logging
import os
import shutil
import threading
from collections import deque
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tracker.errors import HeldByAnother
from tracker.files import open_shared, sync_directory
from tracker.owner_thread import OwnerThread
from tracker.visit_log_files import compressed_path, is_compressed, partial_path

log = logging.getLogger(__name__)

CHUNK_BYTES = 1 << 20
RETRY_SECONDS = 60.0


class Compressor:
    """Compresses `files`, which are closed logs, and each one that is added later. Their rotation must have ended."""

    def __init__(self, files: Iterable[Path]) -> None:
        self._files = deque(file for file in files if not is_compressed(file))
        self._added = asyncio.Event()
        self._ending = threading.Event()

    def add(self, file: Path) -> None:
        self._files.append(file)
        self._added.set()

    async def run(self) -> None:
        """Compress until cancelled. A file that is being compressed at that time is left uncompressed."""
        with ThreadPoolExecutor(1, thread_name_prefix="compressor") as executor:
            thread = OwnerThread(executor)
            try:
                while True:
                    self._added.clear()
                    if not self._files:
                        await self._added.wait()
                        continue
                    try:
                        await thread.call(compress, self._files[0], self._ending)
                    except (OSError, HeldByAnother) as error:  # `tracker erase` may work on the file
                        log.error(
                            "compression_failed error=%s; A closed log could not be compressed. It is kept as it is, "
                            "and storage tries again every minute. Fix what the error names.",
                            error,
                        )
                        self._files.rotate(-1)
                        await asyncio.sleep(RETRY_SECONDS)
                    else:
                        self._files.popleft()
            finally:
                self._ending.set()


def compress(file: Path, ending: threading.Event) -> None:
    """Replace `file` by `<file>.gz`. When `ending` is set before that is done, nothing is changed.

    A file that somebody else has removed is skipped. Raises OSError, and HeldByAnother while somebody works on it.
    """
    done = compressed_path(file)
    part = partial_path(done)
    try:
        with open_shared(file) as source, part.open("wb") as target:
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
        log.info("log_compressed file=%s bytes=%d; This closed log is compressed.", done, done.stat().st_size)
    except FileNotFoundError:
        log.warning("closed_log_removed file=%s; Somebody removed this closed log before it was compressed.", file)
    finally:
        part.unlink(missing_ok=True)
