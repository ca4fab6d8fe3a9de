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
from collections import deque
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tracker.files import sync_directory

log = logging.getLogger("tracker.compressor")

CHUNK_BYTES = 1 << 20
RETRY_SECONDS = 60.0
PART = ".part"  # suffix of a file that is being compressed


class Compressor:
    """Compresses these files, and each that is added. None of them may be part of a rotation that has not ended."""

    def __init__(self, files: Iterable[Path]) -> None:
        self._files = deque(file for file in files if file.suffix != ".gz")
        self._added = asyncio.Event()
        self._ending = threading.Event()

    def add(self, file: Path) -> None:
        self._files.append(file)
        self._added.set()

    async def run(self) -> None:
        """Until cancelled; a file that is under way then is left as it was."""
        with ThreadPoolExecutor(1, thread_name_prefix="compressor") as executor:
            try:
                while True:
                    self._added.clear()
                    if not self._files:
                        await self._added.wait()
                        continue
                    try:
                        await asyncio.get_running_loop().run_in_executor(
                            executor, compress, self._files[0], self._ending
                        )
                    except OSError as error:
                        log.error("compression_failed error=%s action=tried again every minute", error)
                        self._files.rotate(-1)
                        await asyncio.sleep(RETRY_SECONDS)
                    else:
                        self._files.popleft()
            finally:
                self._ending.set()


def compress(file: Path, ending: threading.Event) -> None:
    """Put `<file>.gz` in the place of `file`; nothing is changed when `ending` is set before that. Raises OSError.

    A file that somebody else took away needs no compression.
    """
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
    except FileNotFoundError:
        log.warning("file_gone file=%s action=none, it is not compressed", file)
    finally:
        part.unlink(missing_ok=True)
