"""Journals with lines in them, for the tests of the pixel."""

from pathlib import Path

from tracker.core.visit import encode_line
from tracker.pixel.journal import Journal

TIME = "2026-11-23T07:09:24.932706+00:00"


def line(number: int, agent: str | None = None) -> bytes:
    """A journal line that can be recognised by its number."""
    return encode_line(TIME, f"https://example.org/{number}", agent, "192.0.2.1")


def journal_with(outbox: Path, *lines: bytes, segment_bytes: int = 1 << 24) -> Journal:
    """A new journal with these lines. Its lock is held until it is closed."""
    journal = Journal.create(outbox, segment_bytes)
    for each in lines:
        journal.append(each)
    return journal
