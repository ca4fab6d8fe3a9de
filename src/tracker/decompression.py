"""Reads and writes compressed files: gzip, xz, bzip2 and zstd, known by their first bytes.

The classes of the standard library stop without an error where something else follows the compressed data, and each has
other errors. Here a file is read to its last whole byte, and the reason of a stop before its end is an exception.
"""

import bz2
import gzip
import importlib
import io
import lzma
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import IO, Any

from isal import isal_zlib

from tracker.errors import TrackerError

_CHUNK = 65_536  # compressed bytes
_PARQUET = b"PAR1\x15"  # with the first byte of a page, so that no line of text is taken for it
_NO_MORE = b"\0"  # padding that tape and block devices leave behind a file


class IncompleteFile(Exception):
    """What was read before is right; the text says why there is no more."""


class DamagedFile(Exception):
    """The compressed data is wrong, so what was read before may be, too."""


def decompressed(source: "io.BufferedReader[Any]") -> "io.BufferedReader[Any] | Decompressed":
    """`source` itself when it is not compressed. Raises TrackerError when the package for its format is missing.

    Raises DamagedFile for Parquet, which is no text in any compression.
    """
    start = source.peek(6)[:6]
    if start.startswith(_PARQUET):
        raise DamagedFile("it is Parquet and no text; tracker report and export read it by a name ending in .parquet")
    for magic, decompressor in _FORMATS.items():
        if start.startswith(magic):
            return Decompressed(source, magic, decompressor)
    return source


def compressed_alike(source: "io.BufferedReader[Any]", target: IO[bytes]) -> AbstractContextManager[IO[bytes]]:
    """A file whose content goes to `target`, compressed as `source` is. The same content makes the same bytes.

    Raises TrackerError when the package for the format is missing.
    """
    start = source.peek(6)[:6]
    for magic, compressor in _COMPRESSORS.items():
        if start.startswith(magic):
            output: AbstractContextManager[IO[bytes]] = compressor(target)
            return output
    return nullcontext(target)


class Decompressed(io.RawIOBase):
    """Members that follow one another are one file, as for the command line tools."""

    def __init__(self, source: "io.BufferedReader[Any]", magic: bytes, decompressor: Callable[[], Any]) -> None:
        self._source = source
        self._magic = magic
        self._new = decompressor
        self._member = decompressor()
        self._rest = b""  # compressed bytes that no call has consumed

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # BufferedReader passes a memoryview
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def read(self, size: int = _CHUNK) -> bytes:
        """At most `size` bytes, none at the end. Raises IncompleteFile, DamagedFile, OSError."""
        try:
            while True:
                if self._member.eof and not self._next_member():
                    return b""
                if not self._rest and getattr(self._member, "needs_input", True):
                    self._rest = self._source.read(_CHUNK)
                    if not self._rest:
                        raise IncompleteFile("its compressed data ends too early")
                data, self._rest = self._rest, b""
                out: bytes = self._member.decompress(data, size)
                if self._member.eof:
                    self._rest = self._member.unused_data
                elif isinstance(self._member, _Gzip):
                    self._rest = self._member.unconsumed_tail
                if out:
                    return out
        except (isal_zlib.error, lzma.LZMAError, _zstd_error()) as error:  # type: ignore[misc]  # isal's hint is wrong
            raise DamagedFile(f"its compressed data is damaged: {error}") from error
        except OSError as error:
            if error.errno is not None:
                raise
            raise DamagedFile(f"its compressed data is damaged: {error}") from error  # of the module bz2

    def _next_member(self) -> bool:
        while len(self._rest.lstrip(_NO_MORE)) < len(self._magic) and (more := self._source.read(_CHUNK)):
            self._rest = self._rest.lstrip(_NO_MORE) + more
        self._rest = self._rest.lstrip(_NO_MORE)
        if not self._rest:
            return False
        if not self._rest.startswith(self._magic):
            raise IncompleteFile("behind its compressed data there is something else")
        self._member = self._new()
        return True


_Gzip = type(isal_zlib.decompressobj())  # a third of the CPU time of zlib's


def _zstd() -> Any:
    """The module of Python 3.14, or its backport. Raises TrackerError."""
    name = "compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd"
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise TrackerError(f"a zstd file needs {name}, which is in the extras analysis and archive") from error


def _zstd_error() -> type[Exception]:
    """The error that the zstd module raises. Without that module no file is read as zstd, so any error type will do."""
    for name in ("compression.zstd", "backports.zstd"):
        if name in sys.modules:
            error: type[Exception] = sys.modules[name].ZstdError
            return error
    return lzma.LZMAError


_GZIP, _XZ, _BZIP2, _ZSTD = b"\x1f\x8b", b"\xfd7zXZ\0", b"BZh", b"\x28\xb5\x2f\xfd"
_FORMATS: dict[bytes, Callable[[], Any]] = {
    _GZIP: lambda: isal_zlib.decompressobj(wbits=31),
    _XZ: lzma.LZMADecompressor,
    _BZIP2: bz2.BZ2Decompressor,
    _ZSTD: lambda: _zstd().ZstdDecompressor(),
}
_COMPRESSORS: dict[bytes, Callable[[IO[bytes]], Any]] = {
    _GZIP: lambda target: gzip.GzipFile("", "wb", compresslevel=6, fileobj=target, mtime=0),
    _XZ: lambda target: lzma.LZMAFile(target, "wb"),  # noqa: SIM115  # the caller uses it as a context
    _BZIP2: lambda target: bz2.BZ2File(target, "wb"),
    _ZSTD: lambda target: _zstd().ZstdFile(target, "wb"),
}
