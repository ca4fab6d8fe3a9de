"""The escape of unprintable characters: what is shown moves no cursor and begins no line."""

import pytest

from tracker.core.printable import printable


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/track?q=ü 日本", "/track?q=ü 日本"),
        ("\x1b[2J\x07\r\n\t\x00\x7f\x85", r"\x1b[2J\x07\r\n\t\x00\x7f\x85"),
        ("\u202e\u2066\u200b\ufeff\u2028", r"\u202e\u2066\u200b\ufeff\u2028"),
        ("\ud800\U000e0041", r"\ud800\U000e0041"),
        (r"\x1b stays", r"\x1b stays"),
    ],
)
def test_every_unprintable_character_is_escaped_and_no_other(text: str, expected: str) -> None:
    shown = printable(text)
    assert shown == expected
    assert printable(shown) == shown


def test_characters_to_keep_stay_as_they_are() -> None:
    assert printable("a\nb\r", keep="\n") == "a\nb\\r"
