"""Resource policies are evaluated as AWS documents it. Each table names the page of the IAM User Guide it follows."""

import json
from typing import Any

import pytest

from tracker.operations.access_policy import Decision, Request, decide, sns_request
from tracker.operations.verdicts import Unknown

TOPIC = "arn:aws:sns:eu-west-1:111122223333:tracking"
QUEUE = "arn:aws:sqs:eu-west-1:111122223333:visits"
SEND = sns_request("sqs:SendMessage", QUEUE, TOPIC)
FROM_TOPIC = {"ArnEquals": {"aws:SourceArn": TOPIC}}

UNKNOWN = "unknown"


def statement(**elements: Any) -> dict[str, Any]:
    """A statement that lets SNS send on behalf of the topic, with some elements replaced; None leaves one out."""
    usual = {
        "Effect": "Allow",
        "Principal": {"Service": "sns.amazonaws.com"},
        "Action": "sqs:SendMessage",
        "Resource": QUEUE,
        "Condition": FROM_TOPIC,
    }
    return {name: value for name, value in {**usual, **elements}.items() if value is not None}


def policy(*statements: dict[str, Any]) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": list(statements)})


def outcome(decision: Decision) -> bool | str:
    return UNKNOWN if isinstance(decision.allowed, Unknown) else decision.allowed


# "IAM JSON policy elements: Principal" and "... NotPrincipal"
PRINCIPALS: list[tuple[dict[str, Any], bool]] = [
    ({"Principal": "*"}, True),
    ({"Principal": {"AWS": "*"}}, True),  # as the SQS console writes it
    ({"Principal": {"AWS": ["*"]}}, True),
    ({"Principal": {"Service": "sns.amazonaws.com"}}, True),
    ({"Principal": {"Service": ["events.amazonaws.com", "sns.amazonaws.com"]}}, True),
    ({"Principal": {"Service": "sns.eu-west-1.amazonaws.com"}}, True),
    ({"Principal": {"Service": "sns.me-south-1.amazonaws.com"}}, False),
    ({"Principal": {"Service": "s3.amazonaws.com"}}, False),
    ({"Principal": {"AWS": "111122223333"}}, False),
    ({"Principal": {"AWS": "arn:aws:iam::111122223333:root"}}, False),
    ({"Principal": {"AWS": "111122223333", "Service": "sns.amazonaws.com"}}, True),
    ({"Principal": {"Federated": "accounts.google.com"}}, False),
    ({"Principal": None, "NotPrincipal": {"AWS": "arn:aws:iam::111122223333:root"}}, True),
    ({"Principal": None, "NotPrincipal": {"Service": "sns.amazonaws.com"}}, False),
]

# "IAM JSON policy elements: Action", "... NotAction", "... Resource", "... NotResource"
ACTIONS_AND_RESOURCES: list[tuple[dict[str, Any], bool]] = [
    ({"Action": "SQS:SendMessage"}, True),
    ({"Action": "sqs:sendmessage"}, True),
    ({"Action": "sqs:Send*"}, True),
    ({"Action": "sqs:S?ndMessage"}, True),
    ({"Action": "sqs:*"}, True),
    ({"Action": "*"}, True),
    ({"Action": ["sqs:ReceiveMessage", "sqs:SendMessage"]}, True),
    ({"Action": "sqs:ReceiveMessage"}, False),
    ({"Action": "sqs:Send[A-Z]*"}, False),
    ({"Action": None, "NotAction": "sqs:ReceiveMessage"}, True),
    ({"Action": None, "NotAction": ["sqs:Send*"]}, False),
    ({"Resource": "*"}, True),
    ({"Resource": "arn:aws:sqs:*:111122223333:*"}, True),
    ({"Resource": ["arn:aws:sqs:eu-west-1:111122223333:other", "arn:aws:sqs:eu-west-1:111122223333:visit?"]}, True),
    ({"Resource": "arn:aws:sqs:eu-west-1:111122223333:other"}, False),
    ({"Resource": "arn:aws:sqs:eu-west-1:111122223333:VISITS"}, False),
    ({"Resource": None, "NotResource": "arn:aws:sqs:eu-west-1:111122223333:other"}, True),
    ({"Resource": None, "NotResource": QUEUE}, False),
]

# "IAM JSON policy elements: Condition operators", "AWS global condition context keys"
CONDITIONS: list[tuple[dict[str, Any] | None, bool | str]] = [
    (None, True),
    ({"ArnEquals": {"aws:SourceArn": TOPIC}}, True),
    ({"ArnEquals": {"AWS:SOURCEARN": TOPIC}}, True),
    ({"ArnEquals": {"aws:SourceArn": [f"{TOPIC}-other", TOPIC]}}, True),
    ({"ArnEquals": {"aws:SourceArn": "arn:aws:sns:*:111122223333:*"}}, True),  # as ArnLike
    ({"ArnLike": {"aws:SourceArn": "arn:aws:sns:eu-west-1:111122223333:track*"}}, True),
    ({"ArnLike": {"aws:SourceArn": "arn:aws:sns:us-east-1:111122223333:*"}}, False),
    ({"ArnLike": {"aws:SourceArn": "arn:aws:*:tracking"}}, UNKNOWN),  # a wildcard does not reach over a colon
    ({"ArnNotLike": {"aws:SourceArn": "arn:aws:sns:*:111122223333:*"}}, False),
    ({"StringEquals": {"aws:SourceArn": TOPIC}}, True),
    ({"StringEquals": {"aws:SourceArn": "arn:aws:sns:*:*:tracking"}}, False),  # no wildcards
    ({"StringLike": {"aws:SourceArn": "arn:aws:sns:*:*:tracking"}}, True),
    ({"StringEqualsIgnoreCase": {"aws:SourceArn": TOPIC.upper()}}, True),
    ({"StringNotEquals": {"aws:SourceArn": f"{TOPIC}-other"}}, True),
    ({"StringEquals": {"aws:SourceAccount": "111122223333"}}, True),
    ({"StringEquals": {"aws:SourceAccount": ["444455556666"]}}, False),
    ({"StringEquals": {"aws:PrincipalOrgID": "o-1234567890"}}, False),  # a service belongs to no organisation
    ({"StringEqualsIfExists": {"aws:PrincipalOrgID": "o-1234567890"}}, True),
    ({"StringNotEquals": {"aws:PrincipalOrgID": "o-1234567890"}}, True),  # negated, and the key is missing
    ({"Null": {"aws:PrincipalOrgID": "true"}}, True),
    ({"Null": {"aws:SourceArn": "true"}}, False),
    ({"Bool": {"aws:SecureTransport": "true"}}, True),
    ({"Bool": {"aws:SecureTransport": False}}, False),
    ({"Bool": {"aws:PrincipalIsAWSService": "true"}}, True),
    ({"ForAnyValue:StringLike": {"aws:SourceArn": "arn:aws:sns:*"}}, True),
    ({"ForAnyValue:StringLike": {"aws:PrincipalOrgPaths": "o-1/*"}}, False),
    ({"ForAllValues:StringLike": {"aws:PrincipalOrgPaths": "o-1/*"}}, True),  # true for a key that is missing
    ({"IpAddress": {"aws:SourceVpc": "10.0.0.0/8"}}, False),
    ({"IpAddress": {"aws:SourceIp": "10.0.0.0/8"}}, UNKNOWN),
    ({"DateGreaterThan": {"aws:CurrentTime": "2026-01-01T00:00:00Z"}}, UNKNOWN),
    ({"StringEquals": {"aws:SourceOrgID": "o-1234567890"}}, UNKNOWN),
    ({"StringEquals": {"aws:SourceArn": "arn:aws:sns:${aws:RequestedRegion}:111122223333:tracking"}}, UNKNOWN),
    ({"StringSounds": {"aws:SourceArn": TOPIC}}, UNKNOWN),
    ({"ArnEquals": {"aws:SourceArn": TOPIC}, "StringEquals": {"aws:SourceAccount": "444455556666"}}, False),
    ({"StringEquals": {"aws:SourceAccount": "444455556666", "aws:SourceOrgID": "o-1"}}, False),  # decided all the same
]


@pytest.mark.parametrize(("elements", "allowed"), PRINCIPALS + ACTIONS_AND_RESOURCES)
def test_a_statement_applies_by_principal_action_and_resource(elements: dict[str, Any], allowed: bool) -> None:
    assert decide(policy(statement(**elements)), SEND).allowed is allowed
    # The same elements in a Deny decide whether it takes away what another statement allows.
    denied = decide(policy(statement(), statement(**elements, Effect="Deny", Sid="No")), SEND)
    assert (denied.allowed, denied.denied_by) == ((False, "statement No") if allowed else (True, ""))


@pytest.mark.parametrize(("condition", "allowed"), CONDITIONS)
def test_a_statement_applies_by_its_conditions(condition: dict[str, Any] | None, allowed: bool | str) -> None:
    assert outcome(decide(policy(statement(Condition=condition)), SEND)) == allowed


def test_what_cannot_be_decided_is_named() -> None:
    condition = {"IpAddress": {"aws:SourceIp": "10.0.0.0/8"}}
    decision = decide(policy(statement(Sid="Office", Condition=condition)), SEND)
    assert decision.allowed == Unknown("statement Office: IpAddress aws:SourceIp")


def test_what_cannot_be_decided_does_not_matter_beside_what_decides() -> None:
    doubtful = statement(Condition={"IpAddress": {"aws:SourceIp": "10.0.0.0/8"}})
    assert outcome(decide(policy(doubtful, statement()), SEND)) is True
    assert outcome(decide(policy({**doubtful, "Effect": "Deny"}), SEND)) is False  # nothing allows it
    assert outcome(decide(policy(statement(), {**doubtful, "Effect": "Deny"}), SEND)) == UNKNOWN
    never = statement(Effect="Deny", Condition=None)
    assert outcome(decide(policy(statement(), {**doubtful, "Effect": "Deny"}, never), SEND)) is False


def test_no_policy_allows_nothing_and_a_single_statement_needs_no_list() -> None:
    assert decide(None, SEND).allowed is False
    assert decide("", SEND).allowed is False
    assert decide(json.dumps({"Statement": statement()}), SEND).allowed is True


@pytest.mark.parametrize("text", ["{", "[]", '{"Statement": "all"}', '{"Statement": ["all"]}'])
def test_a_policy_that_cannot_be_read_is_not_decided(text: str) -> None:
    assert outcome(decide(text, SEND)) == UNKNOWN


@pytest.mark.parametrize("left_out", ["Principal", "Action", "Resource"])
def test_a_statement_without_a_necessary_element_is_not_decided(left_out: str) -> None:
    assert outcome(decide(policy(statement(**{left_out: None})), SEND)) == UNKNOWN


def test_a_user_who_is_not_known_is_meant_by_everybody_alone() -> None:
    publish = Request(action="sns:Publish", resource=TOPIC, service=None, context={})
    for principal, allowed in (("*", True), ({"AWS": "111122223333"}, UNKNOWN), ({"Service": "*"}, False)):
        one = statement(Principal=principal, Action="sns:Publish", Resource=TOPIC, Condition=None)
        assert outcome(decide(policy(one), publish)) == allowed
