"""The digest of a closed log, by which the archive knows it: SHA-256 of the format below and of all lines of the log.

The archiver writes it into the metadata of each object. `tracker erase` records the digests of a closed log before and
after an erasure, so that the archiver still knows the log.
"""

import hashlib

_FORMAT = b"tracker archive 1\n"  # change it when other lines become malformed, or when an object gets other columns


def begin_digest() -> "hashlib._Hash":
    """A hash to be updated with all lines of the log; its `hexdigest` is the digest."""
    return hashlib.sha256(_FORMAT)
