"""Text that is safe to show: on a terminal, in a log line, in an error message, in a report."""


def printable(text: str, keep: str = "") -> str:
    """`text` with an escape (`\\n`, `\\x1b`, `\\u202e`) in the place of every character that is not printable.

    Such characters could move a terminal's cursor, change the direction of the text or begin a new line. The characters
    in `keep` are not escaped. If the result is passed to this function again, it is not changed.
    """
    return "".join(c if c.isprintable() or c in keep else c.encode("unicode_escape").decode() for c in text)
