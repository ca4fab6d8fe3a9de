"""How what a visitor sent is shown: no character of it moves, hides or colours another."""

import html
import unicodedata

_LONGEST = 200  # characters shown


def shown(text: str) -> str:
    """Control, format and unassigned characters as ``\\u{202E}``; long text cut. For people, not to be read back."""
    kept = text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
    if kept.isascii() and kept.isprintable():
        return kept
    return "".join(
        f"\\u{{{ord(character):X}}}" if unicodedata.category(character)[0] in "CZ" and character != " " else character
        for character in kept
    )


def escaped(text: str) -> str:
    """`shown`, for an element or a quoted attribute of a page."""
    return html.escape(shown(text))


def number(count: int) -> str:
    """With thin spaces between the thousands, as ISO 31-0 has it."""
    return f"{count:,}".replace(",", "\u202f")


def share(part: int, whole: int) -> str:
    if not part or not whole:
        return "0 %"
    percent = 100 * part / whole
    return "<1 %" if percent < 1 else ">99 %" if 99 < percent < 100 else f"{percent:.0f} %"
