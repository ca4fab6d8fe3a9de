"""Whether the filter of a subscription lets a message through, decided as SNS decides it.

1. A filter has names. For each name, one of its rules must fit the message's value of that name.
2. A value that the message does not have fits `{"exists": false}` and nothing else.
3. The scope says where the values are: in the message attributes (the default), or in the body, which then must be a
   JSON object.
4. A rule that is not known here is Unknown and is named. It only counts if the result depends on it.

Sources, all in the SNS Developer Guide: "Amazon SNS subscription filter policies" with its pages "String value
matching", "Numeric value matching", "Attribute key matching" and "AND/OR logic", and "Filter policy constraints".
"""

import ipaddress
import json
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tracker.operations.verdicts import Unknown, Verdict, all_of, any_of, negated

ATTRIBUTES_SCOPE = "MessageAttributes"
BODY_SCOPE = "MessageBody"

Values = Sequence[Any]


def delivers(settings: Mapping[str, str], attributes: Mapping[str, str], body: str) -> Verdict:
    """Whether a subscription with these `settings`, as SNS returns them, delivers a message."""
    try:
        policy = json.loads(settings.get("FilterPolicy") or "{}")
    except ValueError:
        return Unknown("the filter is not JSON")
    if not isinstance(policy, dict):
        return Unknown("the filter is no object")
    if not policy:
        return True
    scope = settings.get("FilterPolicyScope") or ATTRIBUTES_SCOPE
    if scope == ATTRIBUTES_SCOPE:
        return matches(policy, attributes)
    return matches_body(policy, body) if scope == BODY_SCOPE else Unknown(f"the scope {scope}")


def matches(policy: Mapping[str, Any], attributes: Mapping[str, str]) -> Verdict:
    """Whether a filter lets a message with these attributes through. All attributes are of the type String."""
    return _match(policy, [attributes], nested=False)


def matches_body(policy: Mapping[str, Any], body: str) -> Verdict:
    """The same for a filter whose scope is the body. A body that is no JSON object is never delivered."""
    try:
        document = json.loads(body)
    except ValueError:
        return False
    return _match(policy, [document], nested=True) if isinstance(document, dict) else False


def _match(policy: Mapping[str, Any], documents: Sequence[Mapping[str, Any]], *, nested: bool) -> Verdict:
    verdicts: list[Verdict] = []
    for name, rules in policy.items():
        if name == "$or" and _is_alternatives(rules):
            verdicts.append(any_of(_match(each, documents, nested=nested) for each in rules))
            continue
        values = [value for document in documents if name in document for value in _elements(document[name])]
        if isinstance(rules, list):
            verdicts.append(any_of(_rule(rule, values) for rule in rules))
        elif isinstance(rules, dict) and nested:
            below = [value for value in values if isinstance(value, dict)]
            verdicts.append(_match(rules, below or [{}], nested=True))
        else:
            verdicts.append(Unknown(f"{name}: {json.dumps(rules)}"))
    return all_of(verdicts)


def _is_alternatives(rules: Any) -> bool:
    """SNS takes `$or` for an operator only if it has two objects or more, none of which has an operator as a name."""
    return (
        isinstance(rules, list)
        and len(rules) > 1
        and all(isinstance(each, dict) and each and not each.keys() & _OPERATORS.keys() for each in rules)
    )


def _elements(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _rule(rule: Any, values: Values) -> Verdict:
    """One rule, and all values of its name: one that fits is enough."""
    if isinstance(rule, dict):
        if len(rule) != 1:
            return Unknown(json.dumps(rule))
        [(name, operand)] = rule.items()
        if name == "exists" and isinstance(operand, bool):
            return operand is bool(values)
        if name not in _OPERATORS:
            return Unknown(f"the operator {name}")
        return any_of(_OPERATORS[name](operand, value) for value in values)
    return any_of(_equals(rule, value) for value in values)


def _equals(rule: Any, value: Any) -> Verdict:
    if isinstance(rule, bool) or rule is None:
        if isinstance(value, str) and json.dumps(rule) == value:
            return Unknown(f"{value} without quotation marks, for a text")
        return rule is value
    return _is_number(rule) == _is_number(value) and bool(rule == value)


def _text(compare: Callable[[str, str], bool]) -> Callable[[Any, Any], Verdict]:
    """An operator on texts. In EventBridge its operand may also be `{"equals-ignore-case": text}`."""

    def apply(operand: Any, value: Any) -> Verdict:
        if isinstance(operand, dict) and list(operand) == ["equals-ignore-case"]:
            return apply(str(operand["equals-ignore-case"]).lower(), value.lower() if isinstance(value, str) else value)
        if not isinstance(operand, str):
            return Unknown(json.dumps(operand))
        return isinstance(value, str) and compare(operand, value)

    return apply


def _anything_but(operand: Any, value: Any) -> Verdict:
    if isinstance(operand, dict):
        if len(operand) != 1 or not operand.keys() <= _OPERATORS.keys() - {"anything-but"}:
            return Unknown(f"anything-but {json.dumps(operand)}")
        [(name, operands)] = operand.items()
        return negated(any_of(_OPERATORS[name](each, value) for each in _elements(operands)))
    return negated(any_of(_equals(each, value) for each in _elements(operand)))


_COMPARISONS = {"=": operator.eq, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}


def _numeric(operand: Any, value: Any) -> Verdict:
    """Pairs of comparison and number, such as `[">=", 0, "<", 100]`. A text fits none."""
    pairs = list(zip(operand[::2], operand[1::2], strict=False)) if isinstance(operand, list) else []
    if not pairs or len(operand) % 2 or not all(name in _COMPARISONS and _is_number(number) for name, number in pairs):
        return Unknown(f"numeric {json.dumps(operand)}")
    return _is_number(value) and all(_COMPARISONS[name](value, number) for name, number in pairs)


def _cidr(operand: Any, value: Any) -> Verdict:
    try:
        network = ipaddress.ip_network(operand, strict=False)
    except ValueError:
        return Unknown(f"cidr {json.dumps(operand)}")
    try:
        return isinstance(value, str) and ipaddress.ip_address(value) in network
    except ValueError:
        return False


def _like(pattern: str, value: str) -> bool:
    r"""`*` stands for any characters; `\*` and `\\` for themselves."""
    parts = re.findall(r"\\[*\\]|.", pattern, re.DOTALL)
    expression = "".join(".*" if part == "*" else re.escape(part[-1]) for part in parts)
    return re.fullmatch(expression, value, re.DOTALL) is not None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


_OPERATORS: dict[str, Callable[[Any, Any], Verdict]] = {
    "prefix": _text(lambda operand, value: value.startswith(operand)),
    "suffix": _text(lambda operand, value: value.endswith(operand)),
    "equals-ignore-case": _text(lambda operand, value: operand.lower() == value.lower()),
    "wildcard": _text(_like),
    "anything-but": _anything_but,
    "numeric": _numeric,
    "cidr": _cidr,
}
