"""Filters of subscriptions are evaluated as SNS documents it. Each table names the page of the SNS Developer Guide."""

import json
from typing import Any

import pytest

from tracker.operations.filter_policy import delivers, matches, matches_body
from tracker.operations.verdicts import Unknown

VISIT = {"Type": "Visit", "Journal": "0a" * 16, "Start": "276", "Crc32": "00ff00ff", "Address": "192.0.2.7"}

UNKNOWN = "unknown"


def outcome(verdict: bool | Unknown) -> bool | str:
    return UNKNOWN if isinstance(verdict, Unknown) else verdict


# "String value matching", "Attribute key matching", "Numeric value matching"
RULES: list[tuple[str, list[Any], bool | str]] = [
    ("Type", ["Visit"], True),
    ("Type", ["Order", "Visit"], True),
    ("Type", ["visit"], False),
    ("Type", [], False),
    ("Type", [{"prefix": "Vis"}], True),
    ("Type", [{"prefix": "vis"}], False),
    ("Type", [{"suffix": "sit"}], True),
    ("Type", [{"suffix": "order"}], False),
    ("Type", [{"equals-ignore-case": "VISIT"}], True),
    ("Type", [{"prefix": {"equals-ignore-case": "VIS"}}], True),
    ("Type", [{"wildcard": "V*t"}], True),
    ("Type", [{"wildcard": "V*x"}], False),
    ("Type", [{"wildcard": "Vis.t"}], False),
    ("Type", [{"wildcard": r"Visit\*"}], False),
    ("Type", [{"anything-but": ["Order", "Offer"]}], True),
    ("Type", [{"anything-but": "Visit"}], False),
    ("Type", [{"anything-but": ["Order", "Visit"]}], False),
    ("Type", [{"anything-but": {"prefix": "Ord"}}], True),
    ("Type", [{"anything-but": {"prefix": ["Ord", "Vis"]}}], False),
    ("Type", [{"anything-but": {"suffix": "sit"}}], False),
    ("Type", [{"anything-but": {"wildcard": "O*"}}], True),
    ("Type", [{"anything-but": {"equals-ignore-case": ["visit"]}}], False),
    ("Type", [{"exists": True}], True),
    ("Type", [{"exists": False}], False),
    ("Type", [{"exists": False}, "Visit"], True),
    ("Closed", [{"exists": False}], True),
    ("Closed", [{"exists": True}], False),
    ("Closed", ["true"], False),
    ("Closed", [{"anything-but": ["true"]}], False),  # the attribute must be there
    ("Closed", [{"prefix": ""}], False),
    ("Closed", ["true", {"exists": False}], True),
    ("Journal", [{"prefix": "0"}, {"prefix": "1"}], True),
    ("Journal", [{"prefix": "1"}, {"exists": False}], False),
    ("Start", [276], False),  # numbers are compared with attributes of the type Number, and ours are Strings
    ("Start", ["276"], True),
    ("Start", [{"numeric": [">=", 0]}], False),
    ("Start", [{"anything-but": [276]}], True),
    ("Start", [{"numeric": ["about", 0]}], UNKNOWN),
    ("Address", [{"cidr": "192.0.2.0/24"}], True),
    ("Address", [{"cidr": "198.51.100.0/24"}], False),
    ("Type", [{"cidr": "198.51.100.0/24"}], False),
    ("Type", [{"cidr": "everywhere"}], UNKNOWN),
    ("Type", [None], False),
    ("Type", [{"sounds-like": "Wisit"}], UNKNOWN),
    ("Type", [{"sounds-like": "Wisit"}, "Visit"], True),  # decided by the other rule
    ("Closed", [{"sounds-like": "Wisit"}], UNKNOWN),
    ("Type", [{"prefix": "V", "suffix": "t"}], UNKNOWN),
    ("Type", [{"prefix": 7}], UNKNOWN),
    ("Type", [{"anything-but": {"exists": True}}], UNKNOWN),
]


@pytest.mark.parametrize(("name", "rules", "fits"), RULES)
def test_a_rule_fits_an_attribute_or_its_absence(name: str, rules: list[Any], fits: bool | str) -> None:
    assert outcome(matches({name: rules}, VISIT)) == fits


# "AND/OR logic"
NAMES: list[tuple[dict[str, Any], bool | str]] = [
    ({}, True),
    ({"Type": ["Visit"], "Journal": [{"prefix": "0"}]}, True),
    ({"Type": ["Visit"], "Journal": [{"prefix": "1"}]}, False),
    ({"Type": ["Visit"], "Shop": ["7"]}, False),  # a further name that our messages have not
    ({"Type": ["Visit"], "Shop": [{"sounds-like": "7"}]}, UNKNOWN),
    ({"Type": ["Order"], "Shop": [{"sounds-like": "7"}]}, False),
    ({"$or": [{"Type": ["Order"]}, {"Journal": [{"prefix": "0"}]}]}, True),
    ({"$or": [{"Type": ["Order"]}, {"Journal": [{"prefix": "1"}]}]}, False),
    (
        {"Type": ["Visit"], "$or": [{"Start": ["0"]}, {"Start": ["276"], "$or": [{"A": ["1"]}, {"Crc32": ["2"]}]}]},
        False,
    ),
    ({"$or": [{"Type": ["Visit"]}]}, UNKNOWN),  # one alternative alone: the name of an attribute
    ({"$or": [{"Type": ["Visit"]}, {"prefix": ["Visit"]}]}, UNKNOWN),
    ({"$or": ["Visit", "Order"]}, False),
    ({"Type": {"Name": ["Visit"]}}, UNKNOWN),  # SNS accepts nested names for bodies alone
]


@pytest.mark.parametrize(("policy", "fits"), NAMES)
def test_all_names_of_a_filter_must_fit(policy: dict[str, Any], fits: bool | str) -> None:
    assert outcome(matches(policy, VISIT)) == fits


BODY = json.dumps({"Type": "Visit", "size": 7, "site": {"tags": ["a", "b"], "url": None}, "sent": True})

# "Filter policy scope", and the body's half of the pages above
BODIES: list[tuple[dict[str, Any], str, bool]] = [
    ({"Type": ["Visit"]}, BODY, True),
    ({"size": [7]}, BODY, True),
    ({"size": ["7"]}, BODY, False),
    ({"size": [{"numeric": [">", 0, "<=", 7]}]}, BODY, True),
    ({"size": [{"numeric": ["=", 7.5]}]}, BODY, False),
    ({"sent": [True]}, BODY, True),
    ({"sent": [False]}, BODY, False),
    ({"site": {"url": [None]}}, BODY, True),
    ({"site": {"tags": ["b", "c"]}}, BODY, True),
    ({"site": {"tags": [{"anything-but": ["a"]}]}}, BODY, True),  # one of the values is another
    ({"site": {"owner": [{"exists": False}]}}, BODY, True),
    ({"shop": {"owner": [{"exists": True}]}}, BODY, False),
    ({"Type": ["Visit"]}, f"{BODY}\n{BODY}\n", False),  # lines of JSON are no JSON object
    ({"Type": [{"exists": False}]}, "eJwDAAAAAAE=", False),
    ({"Type": ["Visit"]}, '["Visit"]', False),
    ({"Type": ["Visit"]}, "\n", False),
]


@pytest.mark.parametrize(("policy", "body", "fits"), BODIES)
def test_a_filter_of_the_body_looks_into_a_json_object(policy: dict[str, Any], body: str, fits: bool) -> None:
    assert matches_body(policy, body) is fits


def test_the_scope_decides_where_a_filter_looks() -> None:
    settings = {"FilterPolicy": '{"Type": ["Visit"]}'}
    assert delivers(settings, VISIT, "\n") is True
    assert delivers({**settings, "FilterPolicyScope": "MessageAttributes"}, VISIT, "\n") is True
    assert delivers({**settings, "FilterPolicyScope": "MessageBody"}, VISIT, "\n") is False
    assert delivers({**settings, "FilterPolicyScope": "MessageBody"}, {}, BODY) is True
    assert outcome(delivers({**settings, "FilterPolicyScope": "MessageSmell"}, VISIT, "\n")) == UNKNOWN


def test_no_filter_lets_everything_through_in_every_scope() -> None:
    for text in ("", "{}"):
        assert delivers({"FilterPolicy": text, "FilterPolicyScope": "MessageBody"}, {}, "\n") is True
    assert delivers({}, {}, "\n") is True


@pytest.mark.parametrize("text", ["{", "[]"])
def test_a_filter_that_cannot_be_read_is_not_decided(text: str) -> None:
    assert outcome(delivers({"FilterPolicy": text}, VISIT, "\n")) == UNKNOWN


def test_a_verdict_that_cannot_be_told_is_neither_yes_nor_no() -> None:
    with pytest.raises(TypeError, match="the operator sounds-like"):
        bool(matches({"Type": [{"sounds-like": "Wisit"}]}, VISIT))
