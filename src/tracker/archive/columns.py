"""Log lines as columns of Arrow: thousands at once, and each different text is looked at once.

A visit log repeats itself: most pages and user agents of a block are in it many times. Arrow reads a block into columns
and keeps each different page and user agent once, in a dictionary. So they are validated once for the block, by the
expressions of `tracker.analysis.plain`, and the lines themselves are never looked at one by one.
"""

import re
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from tracker.analysis.log_files import LONGEST_LINE
from tracker.analysis.plain import PLAIN_ADDRESSES, PLAIN_TEXTS
from tracker.core.log_line import unescape

TIME = pa.timestamp("us", "UTC")
_TEXT = pa.dictionary(pa.int32(), pa.string())

SCHEMA = pa.schema(
    {"time": TIME, "page": _TEXT, "user_agent": _TEXT, "ip": pa.string(), "log": _TEXT, "line": pa.int64()}
)

_PARSE = pyarrow.csv.ParseOptions(delimiter="|", quote_char=False, escape_char=False, ignore_empty_lines=False)
_CONVERT = pyarrow.csv.ConvertOptions(
    check_utf8=False,  # each text is validated, and nothing but ASCII is accepted
    column_types={"time": pa.string(), "page": _TEXT, "user_agent": _TEXT, "ip": pa.string()},
    null_values=["null"],
    strings_can_be_null=True,
)
# The form of a time, with its digits replaced by zeros.
_FORM = b"0000-00-00T00:00:00.000000+00:00"
DAY_LENGTH = len("2026-11-24")
_ZEROS = bytes.maketrans(b"123456789", b"0" * 9)


def plain_columns(buffer: bytes | bytearray, start: int, end: int) -> tuple[str, pa.Table] | None:
    """The day and the columns of whole lines which are all plain and of one day; None for any other lines.

    The columns are `time`, `page`, `user_agent` and `ip`. A line is plain as `tracker.analysis.plain` defines it.
    """
    # Arrow ends a line at each of these too, and passes over a byte order mark at the beginning.
    if buffer.find(b"\r", start, end) >= 0 or buffer.startswith(b"\xef\xbb\xbf", start):
        return None
    try:
        parsed = _parsed(memoryview(buffer)[start:end])
        day = _one_day(parsed["time"])
        if day is None or not _are_plain(parsed):
            return None
        return day, _typed(parsed)
    except pa.ArrowInvalid:  # another number of columns, or no such time
        return None


def columns_of(lines: bytes) -> pa.Table:
    """The columns `time`, `page`, `user_agent` and `ip` of lines of which each is known to be plain."""
    return _typed(_parsed(lines))


def _parsed(lines: bytes | memoryview) -> dict[str, Any]:
    options = pyarrow.csv.ReadOptions(use_threads=False, block_size=len(lines) + 1, column_names=SCHEMA.names[:4])
    table = pyarrow.csv.read_csv(pa.BufferReader(lines), options, _PARSE, _CONVERT)
    return {name: table[name].chunk(0) for name in table.column_names}


def _typed(parsed: dict[str, Any]) -> pa.Table:
    return pa.table(parsed | {"time": parsed["time"].cast(TIME)})


def unescaped(visits: pa.Table) -> pa.Table:
    """The same visits, their pages and user agents as the visitors sent them. Each different text is read once."""
    visits = visits.unify_dictionaries().combine_chunks()
    for name in ("page", "user_agent"):
        column = visits[name].chunk(0)
        escaped = pc.match_substring(column.dictionary, "\\")
        texts = column.dictionary.filter(escaped)
        if len(texts):
            read = pa.array([unescape(text.encode()) for text in texts.to_pylist()])
            texts = pc.replace_with_mask(column.dictionary, escaped, read)
            column = pa.DictionaryArray.from_arrays(column.indices, texts, safe=False)
            visits = visits.set_column(visits.schema.get_field_index(name), name, column)
    return visits


def _one_day(times: Any) -> str | None:
    """The day of times that are all of one day and written as storage writes them; None for others."""
    text = memoryview(times.buffers()[2])[: len(times) * len(_FORM)].tobytes()  # of all times, one behind the other
    if text.translate(_ZEROS) != _FORM * len(times) or text.startswith(b"0"):  # Arrow knows a year 0
        return None
    # By the form, a day with its T can only be where a time begins, and an offset where it ends.
    if text.count(text[: DAY_LENGTH + 1]) != len(times) or text.count(b"+00:00") != len(times):
        return None
    return text[:DAY_LENGTH].decode()


def _are_plain(parsed: dict[str, Any]) -> bool:
    pages, agents, addresses = parsed["page"].dictionary, parsed["user_agent"].dictionary, parsed["ip"]
    longest = sum(pc.max(pc.binary_length(texts)).as_py() or 0 for texts in (pages, agents, addresses))
    return (
        addresses.null_count == 0
        and _all_match(PLAIN_ADDRESSES, addresses)
        and _all_match(PLAIN_TEXTS, pages)
        and _all_match(PLAIN_TEXTS, agents)
        and longest + len(_FORM) + len("|||") <= LONGEST_LINE
    )


def _all_match(pattern: re.Pattern[bytes], texts: Any) -> bool:
    if not len(texts):
        return True
    whole = pa.ListArray.from_arrays(pa.array([0, len(texts)], pa.int32()), texts)
    joined = pc.binary_join(whole, "\n")[0].as_buffer()  # no text has a newline, because it is a column of a line
    return pattern.fullmatch(memoryview(joined)) is not None
