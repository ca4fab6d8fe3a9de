"""Finds the JSON objects of a file, one after the other, whatever separates them. It keeps one object in memory.

1. Objects may follow each other on lines, on one line, or over several lines.
2. Lists are no objects: their elements are found. So are those of `{"Messages": [...]}` and `{"Records": [...]}`, the
   forms in which SQS and Lambda name a list of messages, however long it is.
3. What is no whole JSON object is reported with its line, and the search goes on at the next line. The time is in
   proportion to the length of the file, whatever is in it.
"""

import io
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec

from tracker.core.visit import DECODING_FAILURES
from tracker.decompression import DamagedFile, IncompleteFile

MAX_OBJECT_BYTES = 16 << 20
"""A longer object is no message: ten messages of the largest size that SQS accepts have 10 MiB."""
READ_BYTES = 1 << 20
MAX_UNCLOSED = 8
"""After so many objects without an end, the end of an object is not searched for beyond the next one: a file of cut
lines would take hours otherwise."""

# What may lie between the objects of a list, or around the list: keys with simple values, and the key of an object.
_BETWEEN = re.compile(
    rb'[\s,\]}\[\x1e]+|\xef\xbb\xbf|\{\s*"(?:Messages|Records)"\s*:\s*\['
    rb'|"[^"\\\n]*"\s*:\s*(?:"[^"\\\n]*(?:\\[^\n][^"\\\n]*)*"|[0-9.eE+-]+|true|false|null)'
)
_KEY = re.compile(rb'"[^"\\\n]*"\s*:\s*(?=\{)')  # of an object that is no message, such as ResponseMetadata
_TOKEN = re.compile(rb'"[^"\\\n]*(?:\\[^\n][^"\\\n]*)*("?)|[{}\[\]]')
_DEEPEST_INDENT = 64
_SHOWN_BYTES = 60  # of what is no object
_LOOK_AHEAD = 65_536  # bytes: longer than anything that _BETWEEN and _KEY match, but for white space


class JsonObject(NamedTuple):
    """One object, which began on the line `line`: its bytes, and what they mean."""

    line: int
    data: bytes
    value: dict[str, Any]


class NoObject(NamedTuple):
    """What was found on the line `line` instead of an object."""

    line: int
    problem: str


def json_objects(source: "io.BufferedReader[Any]") -> Iterator[JsonObject | NoObject]:
    """The objects of a file, and what is none. Raises what reading raises, after all objects before that were given."""
    text = _Text(source)
    is_lost = False  # after something broken, only text at the beginning of a line is reported
    while text.has(_LOOK_AHEAD):
        if between := _BETWEEN.match(text.data, text.at):
            text.at = between.end()
            continue
        key = _KEY.match(text.data, text.at)
        start = key.end() if key else text.at
        line = text.line()
        end = text.end_of_object(start - text.at) if text.data[start : start + 1] == b"{" else None
        if end is not None and key:
            text.at = end
            continue
        value = None if end is None else _decoded(text.data[text.at : end])
        if end is not None and value is not None:
            yield JsonObject(line, text.data[text.at : end], value)
            is_lost, text.at = False, end
        else:
            if not is_lost or text.is_line_start():
                yield NoObject(line, _problem(text.data[text.at : text.at + _SHOWN_BYTES], has_end=end is not None))
            is_lost = True
            text.skip_line()


def _problem(data: bytes, *, has_end: bool) -> str:
    text = data.partition(b"\n")[0].decode(errors="replace").rstrip()
    if not text.startswith("{"):
        return f"expected a JSON object, found {text!r}"
    return f"{'no valid JSON' if has_end else 'a JSON object without its end'}: {text!r}"


def _decoded(data: bytes) -> dict[str, Any] | None:
    try:
        value: dict[str, Any] = msgspec.json.decode(data)
    except DECODING_FAILURES:
        return None
    return value


class _Text:
    """The part of the file that is in memory; `at` is the position in `data` up to which everything was used."""

    def __init__(self, source: "io.BufferedReader[Any]") -> None:
        self.data = b""
        self.at = 0
        self._source = source
        self._line = 1
        self._counted = 0
        self._unclosed = 0  # objects whose end was searched for in vain
        self._has_ended = False
        self._failure: Exception | None = None

    def has(self, wanted: int) -> bool:
        """Read until `wanted` bytes are there or the file ends. Returns whether any byte is left.

        An error of reading is raised when all that was read before it is used.
        """
        while len(self.data) - self.at < wanted and self._read():
            pass
        if self.at == len(self.data) and self._failure is not None:
            raise self._failure
        return self.at < len(self.data)

    def line(self) -> int:
        """The number of the line at `at`."""
        self._line += self.data.count(b"\n", self._counted, self.at)
        self._counted = self.at
        return self._line

    def is_line_start(self) -> bool:
        return self.at == 0 or self.data[self.at - 1] == 0x0A

    def skip_line(self) -> None:
        """Go to the beginning of the next line, or to the end."""
        while (end := self.data.find(b"\n", self.at)) < 0:
            self.at = len(self.data)
            if not self._read():
                return
        self.at = end + 1

    def end_of_object(self, offset: int) -> int | None:
        """Where the object that begins `offset` bytes after `at` ends; None if it has no end."""
        while True:
            start = self.at + offset
            end = _matching_brace(self.data, start, has_cut_ones=self._unclosed > MAX_UNCLOSED)
            if end is not None:
                return end if end > start else None
            if len(self.data) - start > MAX_OBJECT_BYTES or not self._read():
                self._unclosed += 1
                return None

    def _read(self) -> bool:
        """Read more: each time as much as there is, so that an object is searched for its end only a few times."""
        if self._has_ended:
            return False
        self.line()
        keep = max(0, self.at - 1)  # one byte before, for `is_line_start`
        self.data, self.at, self._counted = self.data[keep:], self.at - keep, self._counted - keep
        parts, wanted = [self.data], len(self.data) + max(READ_BYTES, len(self.data))
        while sum(map(len, parts)) < wanted and (more := self._read_once()):
            parts.append(more)
        self.data = b"".join(parts)
        return len(parts) > 1

    def _read_once(self) -> bytes:
        """The next bytes; none at the end and after an error."""
        more = b""
        try:
            more = self._source.read1(READ_BYTES)
        except (OSError, IncompleteFile, DamagedFile) as error:
            self._failure = error
        self._has_ended = not more
        return more


def _matching_brace(data: bytes, start: int, *, has_cut_ones: bool) -> int | None:
    """The end of the object at `start`; None if more bytes may complete it, `start` if no bytes can.

    In a file that has cut objects, a line that begins with an object is no part of an object before it.
    """
    depth = 0
    for token in _TOKEN.finditer(data, start):
        first = data[token.start()]
        if first == 0x22:  # a text, with its closing quotation mark if it has one on this line
            if not token[1]:
                return start if data[token.end() : token.end() + 1] == b"\n" else None
        elif first in b"{[":
            if has_cut_ones and depth and first == 0x7B and _begins_line(data, token.start()):
                return start
            depth += 1
        else:
            depth -= 1
            if depth == 0:
                return token.end()
    return None


def _begins_line(data: bytes, at: int) -> bool:
    _, newline, before = data[max(0, at - _DEEPEST_INDENT) : at].rpartition(b"\n")
    return bool(newline) and not before.strip()
