"""A storage of an earlier release, as far as that matters: it does not know the encoding that the pixel sends today.

Run as `python -m tests.system.earlier_storage --config FILE`; the one module here that knows `tracker` from inside.
"""

import sys
from collections.abc import Mapping

from tracker.core.message import EndMarker, SingleVisit, StoredSpan, unpack
from tracker.errors import MalformedMessage
from tracker.storage import batch
from tracker.storage.__main__ import main


def unpack_identity(attributes: Mapping[str, str], body: str) -> StoredSpan | EndMarker | SingleVisit:
    """`unpack` without compression."""
    if attributes.get("Encoding") == "zlib+base64url":
        raise MalformedMessage("unknown encoding 'zlib+base64url'")
    return unpack(attributes, body)


if __name__ == "__main__":
    batch.unpack = unpack_identity  # type: ignore[attr-defined]
    sys.exit(main())
