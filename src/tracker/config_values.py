"""Converts one value of the configuration to the type of its key, and says in plain words what was expected."""

import re
from typing import Any, cast

import msgspec
from msgspec import inspect

from tracker.core.units import Quantity
from tracker.errors import ConfigurationError


class Unexpected(Exception):
    """A value is not as its key needs it. `index` says which one of a list."""

    def __init__(self, expectation: str, index: str = "") -> None:
        self.expectation = expectation
        self.index = index


def convert(value: Any, expected_type: Any) -> Any:
    """The value of a key that has this type. Raises Unexpected."""
    quantity, whole = _quantity(expected_type)
    note = ""
    if quantity is not None and isinstance(value, str):
        try:
            number = quantity.parse(value)
        except ConfigurationError as error:
            raise Unexpected(str(error)) from None
        if whole and number.denominator != 1:
            raise Unexpected(f"expected a whole number of {quantity.plain}, got {value!r}")
        note = f" {quantity.plain}, got {value!r}"
        value = int(number) if whole else float(number)
    try:
        return msgspec.convert(value, expected_type)
    except msgspec.ValidationError as error:
        expectation, index = _explain(expected_type, str(error))
        raise Unexpected(expectation + note, index) from None


def _quantity(expected_type: Any) -> tuple[Quantity | None, bool]:
    """What a key measures if it is a size or a duration, and whether it must be a whole number."""
    found = inspect.type_info(expected_type)
    for each in found.types if isinstance(found, inspect.UnionType) else (found,):
        if isinstance(each, inspect.Metadata) and "quantity" in (each.extra or {}):
            return cast(Quantity, (each.extra or {})["quantity"]), isinstance(each.type, inspect.IntType)
    return None, False


def _explain(expected_type: Any, message: str) -> tuple[str, str]:
    """The expectation and the index in a list ("" if none), from the message of msgspec's error.

    Such a message is: "Expected `int`, got `str` - at `$[0]`".
    """
    text, index = message, ""
    if at := re.search(r" - at `\$(\[\d+\])`\Z", message):
        text, index = message[: at.start()], at[1]
    text = text.replace("`", "")
    description = _description(inspect.type_info(expected_type))
    if text.startswith("Invalid enum value "):
        return f"expected {description}, got {text.removeprefix('Invalid enum value ')}", index
    expected, comma, got = text.partition(", got ")
    if description and (comma or "matching regex" in expected) and " array" not in expected:
        expected = f"Expected {description}"
    if re.match("Expected str", text) and comma and got != "null":
        got += "; put the value into quotes"
    return f"{expected[:1].lower()}{expected[1:]}{comma}{got}", index


def _description(expected_type: inspect.Type) -> str:
    """What a type allows, for people: its description, or its values when it is a choice. "" for all other types."""
    if isinstance(expected_type, inspect.Metadata):
        return str((expected_type.extra_json_schema or {}).get("description", ""))
    if isinstance(expected_type, inspect.CollectionType):
        return _description(expected_type.item_type)
    if isinstance(expected_type, inspect.LiteralType):
        return " or ".join(map(str, expected_type.values))
    if isinstance(expected_type, inspect.UnionType):
        choices = [text for each in expected_type.types if (text := _description(each))]
        numbers = ["a number"] if any(isinstance(each, inspect.IntType) for each in expected_type.types) else []
        return " or ".join(dict.fromkeys(choices + numbers))
    return ""
