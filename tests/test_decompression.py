"""Compressed files are read to their last whole byte, and the reason is known when that is not their end."""

import bz2
import gzip
import io
import lzma
from collections.abc import Callable

import pytest
from backports import zstd

from tracker.decompression import DamagedFile, IncompleteFile, decompressed

TEXT = b"".join(b"line %d of the log\n" % number for number in range(20_000))
COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "xz": lzma.compress,
    "bzip2": bz2.compress,
    "zstd": lambda data: zstd.compress(data, options={zstd.CompressionParameter.checksum_flag: 1}),
}
formats = pytest.mark.parametrize("compress", COMPRESS.values(), ids=COMPRESS)


def read(data: bytes) -> tuple[bytes, Exception | None]:
    stream, found = decompressed(io.BufferedReader(io.BytesIO(data))), []
    try:
        while part := stream.read(100_000):
            assert len(part) <= 100_000
            found.append(part)
    except (IncompleteFile, DamagedFile) as error:
        return b"".join(found), error
    return b"".join(found), None


def test_a_file_that_is_not_compressed_is_read_as_it_is() -> None:
    assert read(TEXT) == (TEXT, None)
    assert read(b"") == (b"", None)


@formats
def test_a_compressed_file_is_read_whole(compress: Callable[[bytes], bytes]) -> None:
    assert read(compress(TEXT)) == (TEXT, None)
    assert read(compress(b"")) == (b"", None)
    assert read(compress(TEXT[:100]) + compress(TEXT[100:])) == (TEXT, None)  # members are one file
    assert read(compress(TEXT) + bytes(70_000)) == (TEXT, None)  # the padding of a block device


@formats
def test_half_a_file_is_read_and_known_to_be_half(compress: Callable[[bytes], bytes]) -> None:
    packed = compress(TEXT)
    for kept in (10, len(packed) // 2, len(packed) - 1):
        found, error = read(packed[:kept])
        assert TEXT.startswith(found)
        assert isinstance(error, IncompleteFile)


@formats
def test_what_follows_the_compressed_data_is_noticed(compress: Callable[[bytes], bytes]) -> None:
    for junk in (b"x", TEXT):
        found, error = read(compress(TEXT) + junk)
        assert found == TEXT
        assert "something else" in str(error)


@formats
def test_damage_is_an_error_of_its_own(compress: Callable[[bytes], bytes]) -> None:
    packed = bytearray(compress(TEXT))
    packed[len(packed) // 2 : len(packed) // 2 + 200] = b"\xff" * 200
    _, error = read(bytes(packed))
    assert isinstance(error, DamagedFile)


@formats
def test_a_small_file_that_holds_much_takes_little_memory(compress: Callable[[bytes], bytes]) -> None:
    stream = decompressed(io.BufferedReader(io.BytesIO(compress(bytes(5_000_000)))))
    longest = total = 0
    while part := stream.read(65_536):
        longest, total = max(longest, len(part)), total + len(part)
    assert (longest, total) == (65_536, 5_000_000)
