"""What main and a worker say to each other over their socket pair: one JSON document a line."""

import msgspec

from tracker.config import PixelConfig

BACKLOG = 4096  # connections not accepted yet; a worker's listen(2) sets it anew on the socket it inherits


class Hello(msgspec.Struct, frozen=True):
    """Main's first words to a worker."""

    config: PixelConfig
    room: int  # bytes this worker may add to the outbox until it hears again


class Command(msgspec.Struct, frozen=True):
    """Main to worker: a new allowance of bytes, or the wish to stop within `drain` seconds."""

    room: int | None = None
    drain: float | None = None


class Report(msgspec.Struct, frozen=True):
    """Worker to main, every half second and at its end: totals since the worker's start."""

    accepted: int
    discarded: dict[str, int]
    headers_cut: int
    recording: bool
    headers_untrusted: int = 0


def encode(document: Hello | Command | Report) -> bytes:
    return msgspec.json.encode(document) + b"\n"
