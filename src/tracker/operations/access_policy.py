"""Whether a resource policy (of a queue, a topic or a key) allows a request, decided as AWS decides it.

1. A statement applies if its principal, its action, its resource and all its conditions fit the request.
2. A Deny that applies wins. Otherwise an Allow that applies allows. Otherwise the request is not allowed.
3. What cannot be decided from outside (a key of the request that we do not know, an operator that we do not evaluate, a
   policy variable) is Unknown and is named. It only counts if the result depends on it.

Sources, all in the IAM User Guide: "Policy evaluation logic", "IAM JSON policy elements" with its pages "Principal",
"NotPrincipal", "Action", "Resource" and "Condition operators", "Set operators for multi-valued context keys", and "AWS
global condition context keys".
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tracker.operations.verdicts import Unknown, Verdict, all_of, any_of, negated

ARN_PARTS = 6

Statement = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Request:
    """`service` is the AWS service that asks; None stands for some user or role that is not known.

    `context` has the condition keys by their names in lower case. None as a value says that the request certainly does
    not have this key. A key that is not in `context` cannot be decided.
    """

    action: str
    resource: str
    service: str | None
    context: Mapping[str, str | None]


@dataclass(frozen=True)
class Decision:
    """`allowed_by` and `denied_by` name the first Allow and the first Deny that apply, if there are any."""

    allowed: Verdict
    allowed_by: str = ""
    denied_by: str = ""


def sns_request(action: str, resource: str, topic_arn: str) -> Request:
    """A call that SNS makes on behalf of a topic, with the condition keys that such a call has and has not."""
    absent = ("orgid", "orgpaths", "arn", "account")  # of a principal: a service has none of them
    return Request(
        action=action,
        resource=resource,
        service="sns.amazonaws.com",
        context={
            "aws:sourcearn": topic_arn,
            "aws:sourceaccount": topic_arn.split(":")[4],
            "aws:securetransport": "true",
            "aws:principalisawsservice": "true",
            "aws:principalservicename": "sns.amazonaws.com",
            "aws:viaawsservice": "false",
            "aws:requestedregion": resource.split(":")[3],
            "aws:sourcevpc": None,
            "aws:sourcevpce": None,
            "aws:username": None,
            "aws:multifactorauthpresent": None,
            **{f"aws:principal{name}": None for name in absent},
        },
    )


def decide(policy: str | None, request: Request) -> Decision:
    """Evaluate the text of a policy. No policy allows nothing to a service."""
    try:
        statements = statements_of(policy)
    except ValueError as error:
        return Decision(Unknown(f"the policy cannot be read: {error}"))
    verdicts: dict[bool, list[Verdict]] = {True: [], False: []}
    names: dict[bool, str] = {}
    for number, statement in enumerate(statements, 1):
        applies = _applies(statement, request)
        name = f"statement {statement['Sid']}" if statement.get("Sid") else f"statement number {number}"
        allows = statement.get("Effect") == "Allow"
        if applies is True:
            names.setdefault(allows, name)
        verdicts[allows].append(Unknown(f"{name}: {applies.reason}") if isinstance(applies, Unknown) else applies)
    allowed = all_of([any_of(verdicts[True]), negated(any_of(verdicts[False]))])
    return Decision(allowed, names.get(True, ""), names.get(False, ""))


def statements_of(policy: str | None) -> list[dict[str, Any]]:
    """The statements of a policy. Raises ValueError if it has not the form of one."""
    document = json.loads(policy) if policy else {}
    statements = document.get("Statement", []) if isinstance(document, dict) else None
    statements = [statements] if isinstance(statements, dict) else statements
    if not isinstance(statements, list) or not all(isinstance(statement, dict) for statement in statements):
        raise ValueError("expected an object with a list of statements")
    return statements


def _applies(statement: Statement, request: Request) -> Verdict:
    return all_of(
        [
            _element(statement, "Principal", lambda principal: _is_principal(principal, request)),
            _element(
                statement, "Action", lambda actions: _is_like_any(actions, request.action.lower(), ignore_case=True)
            ),
            _element(statement, "Resource", lambda resources: _is_like_any(resources, request.resource)),
            _fulfils(statement.get("Condition") or {}, request.context),
        ]
    )


def _element(statement: Statement, name: str, fits: Callable[[Any], Verdict]) -> Verdict:
    """The element, or its opposite, such as NotAction."""
    if name in statement:
        return fits(statement[name])
    if f"Not{name}" in statement:
        return negated(fits(statement[f"Not{name}"]))
    return Unknown(f"it has no {name}")


def _is_principal(principal: Any, request: Request) -> Verdict:
    if principal == "*":
        return True
    if not isinstance(principal, dict):
        return Unknown(f"its principal is {principal!r}")
    verdicts: list[Verdict] = []
    for kind, names in principal.items():
        for name in _list(names):
            if kind == "AWS" and name == "*":  # the same as "*": everybody, also a service
                verdicts.append(True)
            elif request.service is None:
                verdicts.append(Unknown(f"whether {name} is who asks") if kind == "AWS" else False)
            else:
                verdicts.append(kind == "Service" and _is_service(str(name), request))
    return any_of(verdicts)


def _is_service(name: str, request: Request) -> bool:
    """A service has one name for all Regions, and in some Regions one with the Region in it."""
    service = str(request.service)
    region = (request.context.get("aws:sourcearn") or ":::").split(":")[3]
    return name in ("*", service, service.replace(".", f".{region}.", 1))


def _fulfils(condition: Any, context: Mapping[str, str | None]) -> Verdict:
    if not isinstance(condition, dict) or not all(isinstance(keys, dict) for keys in condition.values()):
        return Unknown("its condition has an unknown form")
    return all_of(
        _compare(operator, key, _list(values), context)
        for operator, keys in condition.items()
        for key, values in keys.items()
    )


def _compare(operator: str, key: str, values: list[Any], context: Mapping[str, str | None]) -> Verdict:
    """One key of a condition. Several values are alternatives; for a negated operator, none of them may fit."""
    cannot_tell = Unknown(f"{operator} {key}")
    quantifier, _, plain = operator.rpartition(":")
    if quantifier not in ("", "ForAnyValue", "ForAllValues") or key.lower() not in context:
        return cannot_tell
    value = context[key.lower()]
    wanted = [str(each).lower() if isinstance(each, bool) else str(each) for each in values]
    if any("${" in each for each in wanted):
        return cannot_tell  # a policy variable
    if plain == "Null":
        return any_of((value is None) is (each.lower() == "true") for each in wanted)
    name, if_exists = plain.removesuffix("IfExists"), plain.endswith("IfExists")
    positive = name.replace("Not", "", 1)
    if positive not in _OPERATORS:
        return cannot_tell
    if value is None:
        return if_exists or (quantifier == "ForAllValues") or (positive != name and quantifier != "ForAnyValue")
    compare = _OPERATORS[positive]
    if compare is None:
        return cannot_tell
    fits = any_of(compare(each, value) for each in wanted)
    return fits if positive == name else negated(fits)


def _arn_like(pattern: str, value: str) -> Verdict:
    """ArnEquals and ArnLike are the same: each of the six parts is compared, with wildcards."""
    patterns, parts = pattern.split(":", ARN_PARTS - 1), value.split(":", ARN_PARTS - 1)
    if len(patterns) != ARN_PARTS:
        return True if pattern == "*" else Unknown(f"{pattern!r}, which is no ARN of six parts")
    return all(_like(one, part) for one, part in zip(patterns, parts, strict=True))


# By AWS's names. None: known, but only decided here when the request has not the key.
_OPERATORS: dict[str, Callable[[str, str], Verdict] | None] = {
    "StringEquals": lambda wanted, value: wanted == value,
    "StringEqualsIgnoreCase": lambda wanted, value: wanted.lower() == value.lower(),
    "StringLike": lambda wanted, value: _like(wanted, value),
    "ArnEquals": _arn_like,
    "ArnLike": _arn_like,
    "Bool": lambda wanted, value: wanted.lower() == value.lower(),
    **{f"{kind}{rest}": None for kind in ("Numeric", "Date") for rest in ("Equals", "LessThan", "LessThanEquals")},
    **{f"{kind}{rest}": None for kind in ("Numeric", "Date") for rest in ("GreaterThan", "GreaterThanEquals")},
    "IpAddress": None,
    "BinaryEquals": None,
}


def _is_like_any(patterns: Any, value: str, *, ignore_case: bool = False) -> bool:
    texts = [str(pattern) for pattern in _list(patterns)]
    return any(_like(text.lower() if ignore_case else text, value) for text in texts)


def _like(pattern: str, value: str) -> bool:
    """AWS's wildcards: `*` for any characters, `?` for one. Nothing else is special."""
    expression = re.escape(pattern).replace(r"\*", ".*").replace(r"\?", ".")
    return re.fullmatch(expression, value, re.DOTALL) is not None


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
