"""How a report shows texts and numbers. No character that a visitor sent moves, hides or colours another one."""

import html

from tracker.core.printable import printable

WEEKDAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")

_MAX_SHOWN = 200  # characters


def shown(text: str) -> str:
    """`text` for people: at most 200 characters, the unprintable ones escaped. It cannot be read back."""
    return printable(text if len(text) <= _MAX_SHOWN else text[: _MAX_SHOWN - 1] + "…")


def escaped(text: str) -> str:
    """`shown`, for an element or a quoted attribute of an HTML page."""
    return html.escape(shown(text))


def number(count: int) -> str:
    """`count` with spaces between the thousands. The spaces are ASCII, which every terminal and encoding has."""
    return f"{count:,}".replace(",", " ")


def mean(value: float) -> str:
    """`value` with one digit behind the point where it is below ten and no whole number; a small one is never zero."""
    if value >= 9.95 or value == int(value):
        return number(round(value))
    return f"{value:.1f}" if value >= 0.05 else "<0.1"


def counted(count: int, noun: str) -> str:
    """Such as "1 visit" and "2 000 visits"."""
    return f"{number(count)} {noun}{'' if count == 1 else 's'}"


def share(part: int, whole: int) -> str:
    """`part` as a percentage of `whole`. A small part is never shown as 0 %, a large one never as 100 %."""
    if not part or not whole:
        return "0 %"
    percent = 100 * part / whole
    return "<1 %" if percent < 1 else ">99 %" if 99 < percent < 100 else f"{percent:.0f} %"
